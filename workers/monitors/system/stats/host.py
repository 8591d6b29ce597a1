"""How long the host runs, and which kernel and distribution."""

from __future__ import annotations

import contextlib
import shlex
from functools import partial
from pathlib import Path

from workers.monitors.system.stats.source import Found, Source, gauge

UPTIME = gauge("host_uptime", "Time since boot, in seconds", "kernel_version", "os_version")
METRICS = (UPTIME,)
ID_AND_VERSION = (
    *("amzn", "azurelinux", "centos", "cos", "debian", "flatcar"),
    *("mariner", "ol", "rhel", "rocky", "sles", "ubuntu"),
)
"""Distributions that Node Problem Detector knows, and names by ID and VERSION."""
ROOTS = ("1/root", "self/root/host", "self/root")
"""Where the host's files may be, below /proc. That of PID 1 is closed to those who may not trace it; ptrace(2)."""


def sources(proc: Path) -> tuple[Source, ...]:
    """The files below /proc that this metric is read from."""
    return (Source(proc / "uptime", METRICS, partial(read, proc)),)


def read(proc: Path) -> Found:
    """Time since boot (proc_uptime(5)), with the versions of the kernel and of the distribution."""
    uptime = (proc / "uptime").read_text().partition(" ")[0]
    kernel = (proc / "sys/kernel/osrelease").read_text().strip()
    yield UPTIME(float(uptime), kernel_version=kernel, os_version=os_version(os_release(proc)))


def os_release(proc: Path) -> str:
    """The text of the host's os-release; empty without any."""
    for root in ROOTS:
        for place in ("etc/os-release", "usr/lib/os-release"):
            # Most hosts have it in one of these places only.
            with contextlib.suppress(OSError):
                return (proc / root / place).read_text(errors="replace")
    return ""


def os_version(text: str) -> str:
    """What Node Problem Detector calls the distribution, else its own name for itself; os-release(5)."""
    release = dict(filter(None, map(assignment, text.splitlines())))
    kind, version = release.get("ID", ""), release.get("VERSION", "")
    if kind in ID_AND_VERSION and version:
        return f"{kind} {version}-{release.get('BUILD_ID', '')}" if kind == "cos" else f"{kind} {version}"
    name = f"{release.get('NAME', 'Linux')} {release.get('VERSION_ID', '')}".strip()
    return release.get("PRETTY_NAME") or name


def assignment(line: str) -> tuple[str, str] | None:
    """The name and value on one line of os-release, quoted as a shell takes it; None if there is none."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    name, assigned, value = words[0].partition("=") if words else ("", "", "")
    return (name, value) if assigned else None

"""What the kernel was started with, and which foreign modules it holds."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import msgspec

from nodedoctor.host import Host
from nodedoctor.types import Metric
from workers.monitors.system.stats.source import Found, Source, Unreadable, gauge, why

FEATURE = gauge("system_os_feature", "1 if the host has this feature", "os_feature", "value")
METRICS = (FEATURE,)
WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
"""A parameter of the kernel; it may hold blanks in double quotes."""
TRUE = ("1", "y", "Y", "t", "T", "on", "On", "ON", "oN")
FOREIGN = re.compile(r"\(\S*[OP]\S*\)$")
"""How a line of /proc/modules ends for a module from outside the kernel's sources, or of a proprietary licence."""


class KnownModule(msgspec.Struct, frozen=True, rename="camel"):
    """A foreign module that is meant to be there."""

    module_name: str


def sources(host: Host, known_modules: str) -> tuple[Source, ...]:
    """The files that these metrics are read from.

    Args:
        host: The machine.
        known_modules: The path of a JSON list of foreign modules that are known; empty: none are.
    """
    return (
        Source(host.proc / "cmdline", METRICS, partial(from_command_line, host)),
        Source(host.proc / "modules", METRICS, partial(from_modules, host.proc, known_modules)),
    )


def from_command_line(host: Host) -> Found:
    """What the kernel's parameters ask for, and whether /sys/fs/cgroup is the unified hierarchy (cgroups(7)).

    Node Problem Detector looks for that in the parameters, too; today most hosts have it without asking.
    """
    asked = parameters((host.proc / "cmdline").read_text(errors="replace"))
    pinned = not asked.isdisjoint({"loadpin.enabled", "loadpin.enforce"})
    unified = (host.sys / "fs/cgroup/cgroup.controllers").exists()
    yield feature("KTD", "csm.enabled" in asked)
    yield feature("UnifiedCgroupHierarchy", unified)
    yield feature("KernelModuleIntegrity", pinned and "module.sig_enforce" in asked)


def from_modules(proc: Path, known_modules: str) -> Found:
    """What the loaded modules tell; proc_modules(5)."""
    lines = (proc / "modules").read_text().splitlines()
    drivers = {line.split()[0] for line in lines if "nvidia" in line.split()[0]}
    yield feature("GPUSupport", bool(drivers))
    known: set[str] = set()
    try:
        known = known_in(known_modules)
    except OSError as error:
        yield Unreadable(f"{why(error, known_modules)}; no foreign module is known")
    except ValueError as error:
        yield Unreadable(f"{known_modules}: {error}; no foreign module is known")
    foreign = {line.split()[0] for line in lines if FOREIGN.search(line)}
    unknown = ",".join(sorted(foreign - drivers - known))
    yield feature("UnknownModules", bool(unknown), unknown)


def feature(name: str, present: bool, value: str = "") -> Metric:  # noqa: FBT001 - it reads as a sentence
    """Whether there is a feature."""
    return FEATURE(float(present), os_feature=name, value=value)


def known_in(path: str) -> set[str]:
    """The names in the list at `path`.

    Raises:
        OSError: it can't be read.
        ValueError: it is not such a list.
    """
    if not path:
        return set()
    modules = msgspec.json.decode(Path(path).read_bytes(), type=tuple[KnownModule, ...])
    return {module.module_name for module in modules}


def parameters(command_line: str) -> set[str]:
    """The names of the kernel parameters that are on; `-` in them is `_`, and the last of several of one name holds.

    https://docs.kernel.org/admin-guide/kernel-parameters.html
    """
    states = {}
    for word in WORD.findall(command_line):
        name, assigned, value = word.replace('"', "").partition("=")
        states[name.replace("-", "_")] = not assigned or value in TRUE
    return {name for name, on in states.items() if on}

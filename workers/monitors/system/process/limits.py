"""Limits that a process or a control group has for itself, and how near to them it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from workers.monitors.system.process.tasks import GONE

UNLIMITED = {"max", "unlimited"}
SERVICES = ("*", "system.slice/*")
"""Groups that are looked at: slices, the whole of all pods among them, and services. A pod's own limit is its own."""


def open_files(proc: Path, pid: int) -> int | None:
    """How many files a process has open; None if it is gone or may not be looked at.

    Linux 6.2 and later tell everybody by the size of the folder; before, whoever may list it can count.
    """
    try:
        folder = f"{proc}/{pid}/fd"
        return os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 - called for each process
    except (*GONE, PermissionError):
        return None


def files_limit(proc: Path, pid: int) -> int | None:
    """The soft RLIMIT_NOFILE of a process; None if it has none or is gone. proc_pid_limits(5)."""
    try:
        lines = (proc / str(pid) / "limits").read_text().splitlines()
    except (*GONE, PermissionError):
        return None
    soft = next(line.split()[3] for line in lines if line.startswith("Max open files"))
    return None if soft in UNLIMITED else int(soft)


def groups_near_limit(cgroups: Path, percent: float) -> Iterator[str]:
    """The control groups that use `percent` or more of their pids.max, by the path that cgroups(7) gives them."""
    top = cgroups / "pids" if (cgroups / "pids").is_dir() else cgroups
    for pattern in SERVICES:
        for group in sorted(top.glob(pattern)):
            try:
                limit = (group / "pids.max").read_text().strip()
                used = int((group / "pids.current").read_text())
            except (*GONE, NotADirectoryError, PermissionError):
                continue
            if limit not in UNLIMITED and 100 * used >= percent * int(limit):
                yield f"/{group.relative_to(top)}"

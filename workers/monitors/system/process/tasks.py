"""The processes of the machine, as /proc tells of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

KTHREADD = 2
PF_KTHREAD = 0x00200000
GONE = (FileNotFoundError, ProcessLookupError)


class Task(msgspec.Struct, frozen=True):
    """One process; `started` is in clock ticks since boot and tells apart two that had the same `pid`."""

    pid: int
    name: str
    state: str
    parent: int
    flags: int
    started: int

    @property
    def key(self) -> tuple[int, int, str]:
        """The process in this state."""
        return self.pid, self.started, self.state


def tasks(proc: Path) -> list[Task]:
    """The processes that can be seen; those that end meanwhile, and those that may not be read, are left out."""
    found = []
    for name in os.listdir(proc):  # noqa: PTH208 - with Path all takes 62 ms, not 18 (1,082 processes, Linux 6.18, 2 CPUs)
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - likewise
                    found.append(task(file.read(4096).decode(errors="replace")))
            except (*GONE, PermissionError):
                continue
    return found


def task(stat: str) -> Task:
    """The process that the text of /proc/PID/stat tells of; its name may hold spaces and parentheses."""
    head, _, tail = stat.rpartition(")")
    pid, _, name = head.partition(" (")
    words = tail.split()
    return Task(int(pid), name, words[0], int(words[1]), int(words[6]), int(words[19]))


def command_line(proc: Path, pid: int) -> bytes:
    """The words of a process's command line, with spaces between; empty if it is gone or a kernel thread."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").strip()
    except (*GONE, PermissionError):
        return b""

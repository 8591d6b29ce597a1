"""What a process uses of the machine, as it measures it itself: nobody else has to wait for its memory map."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Proportional set size and private dirty memory in bytes; CPU time, user and system, in seconds."""

    memory: int
    private: int
    cpu: float


def usage() -> Usage:
    """This process's usage now; proc_pid_smaps(5) smaps_rollup, 0.4 ms for 40 MB."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        fields[name] = int(number) * 1024
    return Usage(fields["Pss:"], fields["Private_Dirty:"], time.process_time())

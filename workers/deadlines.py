"""Shared memory in which each worker says until when it will have come back; the supervisor reads it from outside.

A worker writes before it goes into a check and after it; nothing is sent, so a worker that hangs can't forget to.
"""

from __future__ import annotations

import math
import mmap
import struct
import time

FIELDS = 3
SIZE = FIELDS * struct.calcsize("d")
CHECK, STARTED, DEADLINE = range(FIELDS)


class Slot:
    """One worker's place. Times are of CLOCK_MONOTONIC, which all processes of a machine share; clock_gettime(2)."""

    def __init__(self, cells: memoryview[float]) -> None:
        self.cells = cells

    def reset(self, deadline: float) -> None:
        """Give the place to a new process, which must have written to it before `deadline`."""
        self.cells[CHECK] = 0.0
        self.cells[STARTED] = math.nan
        self.cells[DEADLINE] = deadline

    def begin(self, check: int, timeout: float) -> None:
        """Check number `check` starts now and ends within `timeout` seconds."""
        now = time.monotonic()
        self.cells[CHECK], self.cells[STARTED], self.cells[DEADLINE] = float(check), now, now + timeout

    def rest(self, until: float, grace: float) -> None:
        """No check runs; the worker wakes up by itself at `until` and may be late by `grace` seconds."""
        self.cells[STARTED] = math.nan
        self.cells[DEADLINE] = until + grace

    @property
    def check(self) -> int:
        """The number of the newest check, 0 before the first."""
        return int(self.cells[CHECK])

    @property
    def started(self) -> float | None:
        """When the check that runs now began, or None between checks."""
        started = self.cells[STARTED]
        return None if math.isnan(started) else started

    @property
    def deadline(self) -> float:
        """When the worker will be late."""
        return self.cells[DEADLINE]


class Deadlines:
    """All places: made before the first fork and inherited. One aligned 8-byte write is never seen by halves."""

    def __init__(self, places: int) -> None:
        self.memory: memoryview[float] = memoryview(mmap.mmap(-1, places * SIZE)).cast("d")
        self.free = list(range(places))

    def take(self) -> int:
        """The number of a free place.

        Raises:
            IndexError: all are taken.
        """
        return self.free.pop()

    def give_back(self, place: int) -> None:
        """Let another process have `place`; its last one is known to be dead."""
        self.free.append(place)

    def slot(self, place: int) -> Slot:
        """The place with the number `place`."""
        return Slot(self.memory[place * FIELDS : (place + 1) * FIELDS])

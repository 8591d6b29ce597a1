"""The kernel's log as its own device gives it: Documentation/ABI/testing/dev-kmsg."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONGEST_RECORD = 8192
"""Bytes of a read: the kernel refuses a record that does not fit, and its records are shorter."""
LONGEST_LINE = 4096
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class Line(NamedTuple):
    """One record: its number, when it was written in microseconds since boot, and its text."""

    seq: int
    usec: int
    text: bytes


class KernelLog:
    """Reads records without waiting. `lost` counts those that were overwritten before they were read."""

    def __init__(self, path: Path, after: int) -> None:
        """Open the device at the oldest record that it has.

        Args:
            path: The device.
            after: Go on after the record of this number.

        Raises:
            OSError: it can't be opened.
        """
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.after = after
        self.lost = 0

    def read(self, limit: int) -> Iterator[Line]:
        """Yield the records that are there, at most `limit`; those up to `after` are passed over."""
        for _ in range(limit):
            try:
                record = os.read(self.descriptor, LONGEST_RECORD)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Records were overwritten; the next read goes on at the oldest that is left.
                continue
            line = parse(record)
            if line.seq <= self.after:
                continue
            if self.after >= 0:
                self.lost += line.seq - self.after - 1
            self.after = line.seq
            yield line

    def close(self) -> None:
        """Let go of the device."""
        os.close(self.descriptor)


def numbers(path: Path, since_usec: float) -> tuple[int, int]:
    """The number of the last record before `since_usec` (microseconds since boot), and that of the last one of all.

    Raises:
        OSError: the device can't be opened.
    """
    log = KernelLog(path, -1)
    before = -1
    try:
        for line in log.read(1 << 20):
            if line.usec < since_usec:
                before = line.seq
        return before, log.after
    finally:
        log.close()


def parse(record: bytes) -> Line:
    """One record: `level,number,microseconds,flags;text`, then lines with details, which are left out."""
    head, _, rest = record.partition(b";")
    _, seq, usec, *_ = head.split(b",", 3)
    text = rest[: rest.find(b"\n")][:LONGEST_LINE]
    if b"\\x" in text:
        text = ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), text)
    return Line(int(seq), int(usec), text)

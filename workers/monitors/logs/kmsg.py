"""The kernel's log as its own device gives it: Documentation/ABI/testing/dev-kmsg."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from workers.monitors.logs.source import LONGEST_LINE, KmsgPlace, Line, Source

LONGEST_RECORD = 8192
"""Bytes of a read: the kernel refuses a record that does not fit, and its records are shorter."""
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
PARTS = (b"c", b"+")
"""Flags of the beginning of a line and of what continues it."""
FRAGMENT_WAITS = 0.1
"""Seconds that the beginning of a line waits for its continuation."""
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""By number; syslog(3)."""
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "security", "console", "solaris-cron"),
    *(f"local{number}" for number in range(8)),
)
"""By number; syslog(3), RFC 5424."""


class Record(NamedTuple):
    """One record: the number of its level and facility, its own number, and whether it is a part of a line."""

    priority: int
    seq: int
    flag: bytes
    line: Line


class KernelLog(Source):
    """Reads records without waiting. `lost` counts those that were overwritten before they were read."""

    def __init__(
        self,
        path: Path,
        after: int,
        *,
        not_before: int = 0,
        level: int = len(LEVELS),
        facilities: frozenset[int] = frozenset(),
    ) -> None:
        """Open the device at the oldest record that it has.

        Args:
            path: The device.
            after: Go on after the record of this number.
            not_before: Only records from so many microseconds after the boot and later ones.
            level: Only records of this level's number or a lower one, which is worse.
            facilities: Only records of these facilities' numbers; none: of all.

        Raises:
            OSError: it can't be opened.
        """
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.after = after
        self.given = after
        self.not_before = not_before
        self.level = level
        self.facilities = facilities
        self.fragment: Line | None = None
        self.fragment_at = 0.0

    def fileno(self) -> int:
        """The device."""
        return self.descriptor

    def read(self, limit: int) -> list[Line]:
        """The lines that are there, from at most `limit` records."""
        lines: list[Line] = []
        for record in self.records(limit):
            if record.flag == b"+" and self.fragment:
                text = self.fragment.text + record.line.text
                self.fragment = self.fragment._replace(text=text[:LONGEST_LINE])
                continue
            if self.fragment:
                lines += self.whole_fragment()
            if not self.wanted(record):
                continue
            if record.flag in PARTS:
                self.fragment, self.fragment_at = record.line, time.monotonic()
                self.given = record.seq - 1
            else:
                lines.append(record.line)
        if time.monotonic() - self.fragment_at >= FRAGMENT_WAITS:
            lines += self.whole_fragment()
        if not self.fragment:
            self.given = self.after
        return lines

    def whole_fragment(self) -> list[Line]:
        """The line that has come in parts so far, if there is one."""
        fragment, self.fragment = self.fragment, None
        return [fragment._replace(text=fragment.text.strip())] if fragment else []

    def records(self, limit: int) -> Iterator[Record]:
        """Yield the records that are there, at most `limit`; those up to `after` are passed over."""
        for _ in range(limit):
            try:
                record = parse(os.read(self.descriptor, LONGEST_RECORD))
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Records were overwritten; the next read goes on at the oldest that is left.
                continue
            if record.seq <= self.after:
                continue
            if self.after >= 0:
                self.lost += record.seq - self.after - 1
            self.after = record.seq
            yield record

    def wanted(self, record: Record) -> bool:
        """Whether `record` says something, and is of a time, a level and a facility that is to be given."""
        return (
            record.line.text != b""
            and record.line.usec >= self.not_before
            and record.priority & 7 <= self.level
            and (not self.facilities or record.priority >> 3 in self.facilities)
        )

    def place(self) -> KmsgPlace:
        """The number of the last record before which nothing is missing."""
        return KmsgPlace(self.given)

    def wake_after(self) -> float | None:
        """The beginning of a line does not wait for ever."""
        return FRAGMENT_WAITS if self.fragment else None

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
        for record in log.records(1 << 20):
            if record.line.usec < since_usec:
                before = record.seq
        return before, log.after
    finally:
        log.close()


def parse(data: bytes) -> Record:
    """One record: `priority,number,microseconds,flag;text`, then lines with details."""
    head, _, rest = data.partition(b";")
    priority, seq, usec, flag = head.split(b",", 4)[:4]
    text, _, details = rest.partition(b"\n")
    if b"\\x" in text:
        text = ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), text)
    if flag not in PARTS:
        text = text.strip()
    number = int(priority)
    return Record(number, int(seq), flag, Line(text, int(usec), fields_of(number), details.rstrip(b"\n")))


@cache
def fields_of(priority: int) -> dict[str, str]:
    """What the number before a record says of it."""
    facility = priority >> 3
    name = FACILITIES[facility] if facility < len(FACILITIES) else str(facility)
    return {"level": LEVELS[priority & 7], "facility": name}

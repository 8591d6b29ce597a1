"""Opens the log that the options name, where it is to be read from."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from nodedoctor.duration import seconds
from workers.monitors.logs.file import FileLog, Translation
from workers.monitors.logs.journal import JournalLog
from workers.monitors.logs.kmsg import FACILITIES, LEVELS, KernelLog, numbers
from workers.monitors.logs.options import LogPatternOptions
from workers.monitors.logs.position import Position
from workers.monitors.logs.source import FilePlace, JournalPlace, KmsgPlace, Source

KMSG = "/dev/kmsg"
ALWAYS = -(1 << 62)
"""A time before all lines."""

logger = logging.getLogger(__name__)


class Clock(msgspec.Struct, frozen=True):
    """When the machine booted by its wall clock, in microseconds, and the id of that boot."""

    boot_usec: int
    boot: str

    def start_usec(self, options: LogPatternOptions, known: Position | None, now_usec: float) -> int:
        """From when on lines count, in microseconds since boot.

        For a log that was never read before that is not before the boot, and the later one of `delay` after it and
        `lookback` before now; for another one, `delay` alone.
        """
        delay = seconds(options.delay) * 1e6
        if known:
            return round(delay) if delay else ALWAYS
        return round(max(delay, now_usec - seconds(options.lookback) * 1e6))


def open_source(options: LogPatternOptions, known: Position | None, clock: Clock) -> Source:
    """The log of `options`, behind what `known` says that was read.

    Raises:
        OSError: it can't be opened; a PermissionError names what is missing.
        Undetermined: likewise, with the reason that it carries.
    """
    if options.source == "kmsg":
        return open_kmsg(options, known, clock)
    since_usec = clock.start_usec(options, known, time.time() * 1e6 - clock.boot_usec)
    place = known.place if known else None
    if options.source == "journal":
        return JournalLog(
            Path(options.path) if options.path else None,
            place if isinstance(place, JournalPlace) else None,
            since_usec=since_usec,
            boot_usec=clock.boot_usec,
            identifiers=options.identifiers,
            units=options.units,
            priority=options.priority,
            facilities=options.facilities,
        )
    return FileLog(
        Path(options.path),
        place if isinstance(place, FilePlace) else None,
        since_usec=since_usec,
        boot_usec=clock.boot_usec,
        translation=translation_of(options),
    )


def translation_of(options: LogPatternOptions) -> Translation | None:
    """How a line of a file is read, if the options say that."""
    if not options.timestamp and not options.skip:
        return None
    return Translation(
        options.timestamp,
        options.timestamp_format,
        options.message_pattern,
        tuple(map(str.encode, options.skip)),
    )


def open_kmsg(options: LogPatternOptions, known: Position | None, clock: Clock) -> KernelLog:
    """The kernel's log. Its clock drifts from every other one: what is new is told by the records' numbers.

    Raises:
        OSError: it can't be opened.
    """
    path = Path(options.path or KMSG)
    try:
        since_usec = clock.start_usec(options, None, time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
        before, newest = numbers(path, since_usec)
        return KernelLog(
            path,
            last_read(known, clock, path, newest, before if seconds(options.lookback) else newest),
            not_before=round(seconds(options.delay) * 1e6),
            level=LEVELS.index(options.priority),
            facilities=frozenset(FACILITIES.index(name) for name in options.facilities),
        )
    except PermissionError as error:
        error.strerror = f"{error.strerror}: reading it needs CAP_SYSLOG (run the agent as root)"
        raise


def last_read(known: Position | None, clock: Clock, path: Path, newest: int, unknown: int) -> int:
    """The number of the record behind which to go on; `unknown` if nothing is known of what was read."""
    if known and known.boot != clock.boot:
        # Everything in the ring is of this boot, and nobody has read it.
        return -1
    if not known or not isinstance(known.place, KmsgPlace):
        return unknown
    if known.place.seq > newest:
        logger.warning("the position is ahead of %s, so it is not of this log; it is not used", path)
        return unknown
    return known.place.seq

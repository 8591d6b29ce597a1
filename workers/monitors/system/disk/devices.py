"""What block devices do: how busy they are, how long one waits for them, and whether they still answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.monitor import ConditionType, Gauge, Observation, counter
from nodedoctor.types import Severity

STALLED = ConditionType("DiskStalled", reason="NoRequestCompletes", ok_reason="RequestsComplete")
SLOW = ConditionType(
    "DiskSlow", reason="RequestsWaitLong", ok_reason="RequestsAreFast", severity=Severity.WARNING
)
DEVICE, OPERATION = ("device",), ("device", "operation")
COMPLETED = counter("disk_requests_completed_total", "Requests that the device has completed", OPERATION)
SPENT = counter("disk_request_time_seconds_total", "Time that all requests together took", OPERATION)
READ = counter("disk_read_bytes_total", "Bytes read from the device", DEVICE)
WRITTEN = counter("disk_written_bytes_total", "Bytes written to the device", DEVICE)
BUSY = counter("disk_io_time_seconds_total", "Time in which the device had requests", DEVICE)
WEIGHTED = counter(
    "disk_io_weighted_seconds_total", "Time in which it had requests, times their number", DEVICE
)
IN_FLIGHT = Gauge("disk_requests_in_flight", "Requests that the device has not completed", DEVICE)
UTILISATION = Gauge(
    "disk_utilisation_ratio", "Share of the time since the last check in which it was busy", DEVICE
)
WAIT = Gauge(
    "disk_wait_seconds", "Average time of the requests since the last check; absent without any", OPERATION
)
METRICS = (COMPLETED, SPENT, READ, WRITTEN, BUSY, WEIGHTED, IN_FLIGHT, UTILISATION, WAIT)
SECTOR = 512
"""Bytes, whatever the device's own sectors are."""
OPERATIONS = {"read": (0, 3), "write": (4, 7), "discard": (11, 14), "flush": (15, 16)}
"""Where the number and the milliseconds of each stand; discards since Linux 4.18, flushes since 5.5."""


class Counts(msgspec.Struct, frozen=True):
    """The numbers of one device at one moment (seconds), as they stand after its name in diskstats."""

    at: float
    numbers: tuple[int, ...]

    @property
    def in_flight(self) -> int:
        """Requests that are not completed."""
        return self.numbers[8]

    @property
    def completed(self) -> tuple[int, ...]:
        """Requests completed, by operation."""
        return tuple(self.numbers[n] for n, _ in OPERATIONS.values() if n < len(self.numbers))


class Limits(msgspec.Struct, frozen=True):
    """From when on a device is stalled or slow; seconds, and requests that an average needs."""

    stalled: float
    slow: float
    fewest: int


class Device:
    """One block device, from check to check."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.last: Counts | None = None
        self.alive_at = 0.0

    def look(self, now: Counts) -> Iterator[Observation]:
        """What its counters say, and what has changed since the last look."""
        yield from totals(self.name, now)
        last, self.last = self.last, now
        if last is None or not last.in_flight or now.completed != last.completed:
            self.alive_at = now.at
        stalled = now.at - self.alive_at >= self.limits.stalled and now.in_flight > 0
        yield STALLED.when(
            stalled, f"{self.name} has requests and has completed none for {self.limits.stalled:g} s"
        )
        if last is not None:
            yield from self.changes(last, now)

    def changes(self, last: Counts, now: Counts) -> Iterator[Observation]:
        """How busy it was between two looks, and how long its requests took. Times begin anew after 7 weeks."""
        busy = now.numbers[9] - last.numbers[9]
        if now.at > last.at and busy >= 0:
            yield UTILISATION(min(1.0, busy / 1000 / (now.at - last.at)), device=self.name)
        for operation, (requests, average) in waits(last, now).items():
            yield WAIT(average, device=self.name, operation=operation)
            slow = average >= self.limits.slow and requests >= self.limits.fewest
            text = f"a {operation} on {self.name} takes more than {self.limits.slow:g} s on average"
            yield SLOW.when(slow, text)


def totals(name: str, now: Counts) -> Iterator[Observation]:
    """The counters of a device since boot."""
    for operation, (number, spent) in OPERATIONS.items():
        if spent < len(now.numbers):
            yield COMPLETED(now.numbers[number], device=name, operation=operation)
            yield SPENT(now.numbers[spent] / 1000, device=name, operation=operation)
    yield READ(now.numbers[2] * SECTOR, device=name)
    yield WRITTEN(now.numbers[6] * SECTOR, device=name)
    yield IN_FLIGHT(now.in_flight, device=name)
    yield BUSY(now.numbers[9] / 1000, device=name)
    yield WEIGHTED(now.numbers[10] / 1000, device=name)


def waits(last: Counts, now: Counts) -> dict[str, tuple[int, float]]:
    """The number of requests between two looks and their average time in seconds, by operation."""
    found = {}
    for operation, (number, spent) in OPERATIONS.items():
        if spent < len(now.numbers):
            requests = now.numbers[number] - last.numbers[number]
            took = now.numbers[spent] - last.numbers[spent]
            if requests > 0 and took >= 0:
                found[operation] = requests, took / requests / 1000
    return found


def diskstats(proc: Path, at: float) -> dict[str, Counts]:
    """The counters of all devices; https://docs.kernel.org/admin-guide/iostats.html."""
    rows = [line.split() for line in (proc / "diskstats").read_text().splitlines()]
    return {row[2]: Counts(at, tuple(map(int, row[3:]))) for row in rows}


def whole_disk(device: str, sys: Path) -> str | None:
    """The name of the disk on which the device major:minor lies; None for one without a block device, such as tmpfs.

    A dm or md device counts for itself: what it is made of would be counted twice.
    """
    link = sys / "dev/block" / device
    if not link.exists():
        return None
    block = link.resolve()
    return block.parent.name if (block / "partition").exists() else block.name

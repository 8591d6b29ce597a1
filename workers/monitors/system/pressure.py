"""How much work waits for CPU, memory and I/O: pressure stall information."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal

import msgspec

from nodedoctor.monitor import (
    ConditionType,
    Finding,
    Gauge,
    Monitor,
    Observation,
    Options,
    Percent,
    counter,
    order_faults,
)

CPU = ConditionType(
    "CPUPressureHigh", "TasksWaitForCPU", "CPUPressureLow", warning_reason="CPUPressureRising"
)
MEMORY = ConditionType(
    "MemoryPressureHigh", "TasksWaitForMemory", "MemoryPressureLow", warning_reason="MemoryPressureRising"
)
IO = ConditionType("IOPressureHigh", "TasksWaitForIO", "IOPressureLow", warning_reason="IOPressureRising")
RATIO = Gauge("pressure_ratio", "Share of time that tasks waited", ("resource", "kind", "window"))
STALLED = counter("pressure_stalled_seconds_total", "Time that tasks waited", ("resource", "kind"))
NOT_MEASURED = {errno.ENOENT, errno.EOPNOTSUPP}
"""What opening or reading a pressure file fails with when the kernel was built without PSI or booted with psi=0."""


class Limits(Options, frozen=True):
    """Percent of time that tasks waited. `some` is at least one task, `full` is all that wanted to run."""

    kind: Literal["some", "full"] = "some"
    """`some` or `full`."""
    window: Literal["avg10", "avg60", "avg300"] = "avg60"
    """Over which time: avg10, avg60 or avg300, in seconds."""
    warning_threshold: Percent = 70
    """Percent of the time at which to warn."""
    critical_threshold: Percent = 95
    """Percent of the time that is a problem."""


class MemoryLimits(Limits, frozen=True):
    """Limits for memory. A node where all tasks wait for it at once is thrashing, long before that is all they do."""

    kind: Literal["some", "full"] = "full"
    warning_threshold: Percent = 10
    critical_threshold: Percent = 30


class IoLimits(Limits, frozen=True):
    """Limits for I/O. One task that waits for a disk is no problem: `full` by default."""

    kind: Literal["some", "full"] = "full"
    warning_threshold: Percent = 40
    critical_threshold: Percent = 80


class PressureOptions(Options, frozen=True):
    """What counts as too much waiting, for each resource."""

    cpu: Limits = Limits()
    memory: MemoryLimits = MemoryLimits()
    io: IoLimits = IoLimits()

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem, and what is compared exists."""
        if self.cpu.kind == "full":
            yield (
                "cpu.kind",
                "found 'full', allowed: some (for the whole machine the kernel reports 0 as full)",
            )
        for name, limits in (("cpu", self.cpu), ("memory", self.memory), ("io", self.io)):
            thresholds = (limits.warning_threshold, "criticalThreshold", limits.critical_threshold)
            yield from order_faults(f"{name}.warningThreshold", *thresholds)


class Pressure(msgspec.Struct, frozen=True):
    """One line of a pressure file: shares of time in percent by window, and the sum in microseconds."""

    averages: dict[str, float]
    total: int


class PressureMonitor(Monitor[PressureOptions]):
    """Compares the time that tasks waited with thresholds.

    Reads /proc/pressure/* (https://docs.kernel.org/accounting/psi.html). Tasks that sleep in uninterruptible waits
    for other reasons do not count in it, as they do in the load average.
    """

    kind, options_type = "pressure-health-check", PressureOptions
    conditions = (CPU, MEMORY, IO)
    metrics = (RATIO, STALLED)
    interval = 10.0
    timeout = 5.0

    def check(self) -> Iterator[Observation]:
        """Look at each resource."""
        yield from self.check_resource("cpu", CPU, self.options.cpu)
        yield from self.check_resource("memory", MEMORY, self.options.memory)
        yield from self.check_resource("io", IO, self.options.io)

    def check_resource(
        self, resource: str, condition: ConditionType, limits: Limits
    ) -> Iterator[Observation]:
        """How long tasks waited for `resource`."""
        try:
            lines = pressures((self.host.proc / "pressure" / resource).read_text())
        except OSError as error:
            if error.errno not in NOT_MEASURED:
                raise
            text = (
                "the kernel does not measure pressure: boot it with psi=1 (it needs CONFIG_PSI, Linux 4.20)"
            )
            yield condition.unknown(text, "NoPressureInformation")
            return
        yield from samples(resource, lines)
        yield finding(condition, limits, resource, lines)


def finding(condition: ConditionType, limits: Limits, resource: str, lines: dict[str, Pressure]) -> Finding:
    """What `lines`, of which `limits.kind` is one, say about `resource`."""
    waited = lines[limits.kind].averages[limits.window]
    return condition.graded(
        waited,
        limits.warning_threshold,
        limits.critical_threshold,
        lambda limit: f"{limits.kind} tasks waited for {resource} more than {limit:g} % of the time",
    )


def samples(resource: str, lines: dict[str, Pressure]) -> Iterator[Observation]:
    """The metrics of one resource."""
    for kind, pressure in lines.items():
        yield STALLED(pressure.total / 1e6, resource=resource, kind=kind)
        for window, share in pressure.averages.items():
            yield RATIO(share / 100, resource=resource, kind=kind, window=window)


def pressures(text: str) -> dict[str, Pressure]:
    """The lines of a pressure file by kind. Before Linux 5.13 that of the CPU has no `full`."""
    found = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        total = int(values.pop("total"))
        found[kind] = Pressure({window: float(share) for window, share in values.items()}, total)
    return found

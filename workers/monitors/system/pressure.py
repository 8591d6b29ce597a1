"""How much work waits for CPU, memory and I/O: pressure stall information."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import msgspec

from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options, Percent, counter

CONDITIONS = {
    "cpu": ConditionType(
        "CPUPressureHigh", "TasksWaitForCPU", "CPUPressureLow", warning_reason="CPUPressureRising"
    ),
    "memory": ConditionType(
        "MemoryPressureHigh", "TasksWaitForMemory", "MemoryPressureLow", warning_reason="MemoryPressureRising"
    ),
    "io": ConditionType(
        "IOPressureHigh", "TasksWaitForIO", "IOPressureLow", warning_reason="IOPressureRising"
    ),
}
RATIO = Gauge("pressure_ratio", "Share of time that tasks waited", ("resource", "kind", "window"))
STALLED = counter("pressure_stalled_seconds_total", "Time that tasks waited", ("resource", "kind"))


class Limits(Options, frozen=True):
    """Percent of time that tasks waited. `some` is at least one task, `full` is all that wanted to run."""

    kind: str = "some"
    """`some` or `full`."""
    window: str = "avg60"
    """Over which time: avg10, avg60 or avg300, in seconds."""
    warning_threshold: Percent = 60
    critical_threshold: Percent = 90


class PressureOptions(Options, frozen=True):
    """What counts as too much waiting, for each resource."""

    cpu: Limits = Limits(kind="some", warning_threshold=70, critical_threshold=95)
    memory: Limits = Limits(kind="full", warning_threshold=10, critical_threshold=30)
    io: Limits = Limits(kind="full", warning_threshold=40, critical_threshold=80)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Known words, and the warning before the problem."""
        for name in CONDITIONS:
            limits: Limits = getattr(self, name)
            if limits.kind not in {"some", "full"}:
                yield f"{name}.kind", f"found {limits.kind!r}, allowed: some, full"
            if limits.window not in {"avg10", "avg60", "avg300"}:
                yield f"{name}.window", f"found {limits.window!r}, allowed: avg10, avg60, avg300"
            if limits.warning_threshold >= limits.critical_threshold:
                allowed = f"must be below criticalThreshold ({limits.critical_threshold:g})"
                yield f"{name}.warningThreshold", f"found {limits.warning_threshold:g}, {allowed}"


class Pressure(msgspec.Struct, frozen=True):
    """One line of a pressure file: shares of time in percent by window, and the sum in microseconds."""

    averages: dict[str, float]
    total: int


class PressureMonitor(Monitor[PressureOptions]):
    """Compares the time that tasks waited with thresholds.

    Reads /proc/pressure/* (https://docs.kernel.org/accounting/psi.html).
    """

    kind, options_type = "pressure-health-check", PressureOptions
    conditions = tuple(CONDITIONS.values())
    metrics = (RATIO, STALLED)
    interval = 10.0
    timeout = 5.0

    def check(self) -> Iterator[Observation]:
        """Look at each resource."""
        for resource, condition in CONDITIONS.items():
            try:
                lines = pressures((self.host.proc / "pressure" / resource).read_text())
            except OSError as error:
                # Without CONFIG_PSI there is no file; with psi=0 it is there and can't be read.
                if error.errno not in {errno.ENOENT, errno.EOPNOTSUPP}:
                    raise
                yield condition.unknown(
                    "the kernel does not measure pressure: boot it with psi=1", "NoPressureInformation"
                )
                continue
            yield from samples(resource, lines)
            yield self.finding(resource, condition, lines)

    def finding(self, resource: str, condition: ConditionType, lines: dict[str, Pressure]) -> Finding:
        """What `lines` say about `resource`. Before Linux 5.13 the CPU has no `full` line: nothing waits in full."""
        limits: Limits = getattr(self.options, resource)
        pressure = lines.get(limits.kind)
        waited = pressure.averages[limits.window] if pressure else 0.0
        limit, warning = limits.critical_threshold, limits.warning_threshold
        if waited >= limit:
            return condition.when(
                True, f"{limits.kind} tasks waited for {resource} more than {limit:g} % of the time"
            )
        text = f"{limits.kind} tasks waited for {resource} more than {warning:g} % of the time"
        return condition.warn_when(waited >= warning, text)


def samples(resource: str, lines: dict[str, Pressure]) -> Iterator[Observation]:
    """The metrics of one resource."""
    for kind, pressure in lines.items():
        yield STALLED(pressure.total / 1e6, resource=resource, kind=kind)
        for window in ("avg10", "avg60"):
            yield RATIO(pressure.averages[window] / 100, resource=resource, kind=kind, window=window)


def pressures(text: str) -> dict[str, Pressure]:
    """The lines of a pressure file by kind."""
    found = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        total = int(values.pop("total"))
        found[kind] = Pressure({window: float(share) for window, share in values.items()}, total)
    return found

"""How busy the processors are, and whether they may run at full speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.monitor import ConditionType, Gauge, Host, Monitor, Observation, Options, Percent, counter
from nodedoctor.types import Severity

OVERLOADED = ConditionType(
    "CPUOverloaded", reason="CPUBusy", ok_reason="CPUHasCapacity", warning_reason="CPUGettingBusy"
)
STOLEN = ConditionType(
    "CPUStealHigh", reason="HypervisorTakesTime", ok_reason="CPUNotStolen", severity=Severity.WARNING
)
THROTTLED = ConditionType(
    "CPUThrottled", reason="ThermalThrottling", ok_reason="NoThermalThrottling", severity=Severity.WARNING
)
UTILIZATION = Gauge("cpu_utilization_ratio", "Share of CPU time in use between two checks")
STEAL = Gauge("cpu_steal_ratio", "Share of CPU time that the hypervisor took for others")
LOAD = Gauge("cpu_load_per_core", "Load average divided by the number of processors", ("minutes",))
THROTTLES = counter("cpu_thermal_throttles_total", "Thermal throttling events of all processors since boot")
FIRST_SAMPLE = 0.2
"""Seconds over which the first check measures; later ones measure since the check before."""


class CpuOptions(Options, frozen=True):
    """Thresholds. Load is a metric and no problem unless asked: tasks that wait for a disk count in it."""

    warning_threshold: Percent = 90
    """Percent of all processors' time in use at which to warn."""
    critical_threshold: Percent = 98
    """Percent of all processors' time in use that is a problem."""
    steal_threshold: Percent = 20
    """Percent of time taken by the hypervisor that is a problem."""
    load_per_core_threshold: float | None = None
    """5-minute load per processor that is a problem; none: load is only measured."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem."""
        if self.warning_threshold >= self.critical_threshold:
            allowed = f"must be below criticalThreshold ({self.critical_threshold:g})"
            yield "warningThreshold", f"found {self.warning_threshold:g}, {allowed}"


class Times(msgspec.Struct, frozen=True):
    """CPU time of all processors since boot, in clock ticks; proc_stat(5)."""

    busy: int
    stolen: int
    total: int


class CpuMonitor(Monitor[CpuOptions]):
    """Compares CPU utilisation, steal and load with thresholds, and counts thermal throttling.

    Reads /proc/stat, /proc/loadavg (proc(5)) and /sys/devices/system/cpu/cpu*/thermal_throttle (absent on virtual
    machines and other architectures: nothing is throttled then, as far as the node can know).
    """

    kind, options_type = "cpu-health-check", CpuOptions
    conditions = (OVERLOADED, STOLEN, THROTTLED)
    metrics = (UTILIZATION, STEAL, LOAD, THROTTLES)
    timeout = 5.0

    def __init__(self, name: str, options: CpuOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.before: Times | None = None
        self.throttles: int | None = None

    def check(self) -> Iterator[Observation]:
        """Look at what happened since the last check."""
        yield from self.check_times()
        yield from self.check_load()
        yield from self.check_throttling()

    def check_times(self) -> Iterator[Observation]:
        """Utilisation and steal."""
        before = self.before
        if before is None:
            before = cpu_times((self.host.proc / "stat").read_text())
            time.sleep(FIRST_SAMPLE)
        self.before = now = cpu_times((self.host.proc / "stat").read_text())
        busy, stolen = shares(before, now)
        limit, warning = self.options.critical_threshold, self.options.warning_threshold
        yield UTILIZATION(busy)
        yield STEAL(stolen)
        if busy * 100 >= limit:
            yield OVERLOADED.when(True, f"the processors are busier than {limit:g} %")
        else:
            yield OVERLOADED.warn_when(busy * 100 >= warning, f"the processors are busier than {warning:g} %")
        steal = self.options.steal_threshold
        yield STOLEN.when(stolen * 100 >= steal, f"the hypervisor takes more than {steal:g} % of the time")

    def check_load(self) -> Iterator[Observation]:
        """Load per processor that is online."""
        cores = online((self.host.proc / "stat").read_text())
        loads = [float(word) / cores for word in (self.host.proc / "loadavg").read_text().split()[:3]]
        for minutes, load in zip(("1", "5", "15"), loads, strict=True):
            yield LOAD(load, minutes=minutes)
        limit = self.options.load_per_core_threshold
        if limit is not None:
            yield OVERLOADED.when(loads[1] >= limit, f"the load per processor is above {limit:g}", "LoadHigh")

    def check_throttling(self) -> Iterator[Observation]:
        """Whether a processor was throttled since the last check."""
        count = throttle_count(self.host.sys)
        before, self.throttles = self.throttles, count
        if count is not None:
            yield THROTTLES(count)
        throttled = count is not None and before is not None and count > before
        yield THROTTLED.when(throttled, "processors were slowed down because they are too hot")


def cpu_times(stat: str) -> Times:
    """The times in the text of /proc/stat. Guest time is part of user time already; waiting for I/O is idle."""
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(word) for word in stat.split(maxsplit=9)[1:9]
    )
    busy = user + nice + system + irq + softirq
    return Times(busy=busy, stolen=steal, total=busy + idle + iowait + steal)


def shares(before: Times, now: Times) -> tuple[float, float]:
    """Shares of time in use and stolen between two readings, 0 to 1. Counters that went backwards count as still."""
    total = max(now.total - before.total, 1)
    return (
        min(1.0, max(0.0, (now.busy - before.busy) / total)),
        min(1.0, max(0.0, (now.stolen - before.stolen) / total)),
    )


def online(stat: str) -> int:
    """The number of processors that /proc/stat lists: those that are online."""
    return max(1, sum(line.startswith("cpu") and line[3:4].isdigit() for line in stat.splitlines()))


def throttle_count(sys: Path) -> int | None:
    """Thermal throttling events of all cores, or None where the processor does not tell."""
    counts = [
        int(path.read_text())
        for path in sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    return sum(counts) if counts else None

"""How busy the processors are, and whether they may run at full speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.host import Host
from nodedoctor.monitor import (
    ConditionType,
    Gauge,
    Monitor,
    Observation,
    Options,
    Percent,
    counter,
    order_faults,
)
from nodedoctor.types import Severity
from workers.throttling import Throttling, own_throttling

OVERLOADED = ConditionType(
    "CPUOverloaded",
    reason="CPUBusy",
    ok_reason="CPUHasCapacity",
    severity=Severity.WARNING,
    warning_reason="CPUGettingBusy",
)
STOLEN = ConditionType(
    "CPUStealHigh", reason="HypervisorTakesTime", ok_reason="CPUNotStolen", severity=Severity.WARNING
)
THROTTLED = ConditionType(
    "CPUThermalThrottled",
    reason="ThermalThrottling",
    ok_reason="NoThermalThrottling",
    severity=Severity.WARNING,
)
AGENT_THROTTLED = ConditionType(
    "AgentThrottled",
    reason="CPULimitTooLow",
    ok_reason="AgentNotThrottled",
    severity=Severity.WARNING,
)
UTILIZATION = Gauge("cpu_utilization_ratio", "Share of CPU time in use between two checks")
STEAL = Gauge("cpu_steal_ratio", "Share of CPU time that the hypervisor took for others")
ONLINE = Gauge("cpu_online_processors", "Processors that are online")
LOAD = Gauge("cpu_load_per_core", "Load average divided by the number of online processors", ("minutes",))
THROTTLES = counter(
    "cpu_throttles_total",
    "Thermal throttling events since boot, as all online processors count them",
    ("scope",),
)
AGENT_SECONDS = counter(
    "agent_cpu_throttled_seconds_total", "Time for which the agent was held back by its own CPU limit"
)
AGENT_PERIODS = counter(
    "agent_cpu_throttled_periods_total", "Scheduling periods in which the agent used up its CPU limit"
)
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
    agent_throttled_threshold: Percent = 25
    """Percent of scheduling periods in which the agent's own CPU limit held it back that is a problem."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem, and there is a load that is none."""
        if self.load_per_core_threshold is not None and self.load_per_core_threshold <= 0:
            yield "loadPerCoreThreshold", f"found {self.load_per_core_threshold:g}, allowed: more than 0"
        yield from order_faults(
            "warningThreshold", self.warning_threshold, "criticalThreshold", self.critical_threshold
        )


class Times(msgspec.Struct, frozen=True):
    """CPU time of all processors since boot, in clock ticks; proc_stat(5)."""

    busy: int
    stolen: int
    idle: int

    @property
    def total(self) -> int:
        """All the time that the kernel has accounted for."""
        return self.busy + self.stolen + self.idle


class CpuMonitor(Monitor[CpuOptions]):
    """Compares CPU utilisation, steal and load with thresholds, and notices thermal throttling.

    Reads /proc/stat (proc_stat(5)), /proc/loadavg (proc_loadavg(5)) and the throttle counters of
    Documentation/ABI/testing/sysfs-devices-system-cpu, which count since boot: only growth between two checks is a
    problem. Virtual machines and other architectures have none; as far as such a node can know, it is not throttled.
    """

    kind, options_type = "cpu-health-check", CpuOptions
    conditions = (OVERLOADED, STOLEN, THROTTLED, AGENT_THROTTLED)
    metrics = (UTILIZATION, STEAL, ONLINE, LOAD, THROTTLES, AGENT_SECONDS, AGENT_PERIODS)
    timeout = 5.0

    def __init__(self, name: str, options: CpuOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.before: Times | None = None
        self.throttles: dict[Path, int] = {}
        self.held_back: Throttling | None = None

    def check(self) -> Iterator[Observation]:
        """Look at what happened since the last check."""
        stat = self.stat()
        yield from self.check_times(cpu_times(stat))
        yield from self.check_load(online(stat))
        yield from self.check_throttling()
        yield from self.check_agent(own_throttling())

    def stat(self) -> str:
        """The text of /proc/stat."""
        return (self.host.proc / "stat").read_text()

    def check_times(self, now: Times) -> Iterator[Observation]:
        """Utilisation and steal."""
        measured = self.measured(now)
        if measured is None:
            for condition in (OVERLOADED, STOLEN):
                yield condition.unknown("the times in /proc/stat stand still", "NoCPUTimes")
            return
        busy, stolen = measured
        yield UTILIZATION(busy)
        yield STEAL(stolen)
        yield OVERLOADED.graded(
            busy * 100,
            self.options.warning_threshold,
            self.options.critical_threshold,
            lambda limit: f"the processors are busier than {limit:g} %",
        )
        steal = self.options.steal_threshold
        yield STOLEN.when(stolen * 100 >= steal, f"the hypervisor takes more than {steal:g} % of the time")

    def measured(self, now: Times) -> tuple[float, float] | None:
        """Shares of time in use and stolen since the last check, else over a short sample; None without any."""
        found = shares(self.before, now) if self.before else None
        if found is None:
            time.sleep(FIRST_SAMPLE)
            first, now = now, cpu_times(self.stat())
            found = shares(first, now)
        self.before = now
        return found

    def check_load(self, cores: int) -> Iterator[Observation]:
        """Load per processor that is online."""
        yield ONLINE(cores)
        loads = [float(word) / cores for word in (self.host.proc / "loadavg").read_text().split()[:3]]
        for minutes, load in zip(("1", "5", "15"), loads, strict=True):
            yield LOAD(load, minutes=minutes)
        limit = self.options.load_per_core_threshold
        if limit is not None:
            yield OVERLOADED.when(loads[1] >= limit, f"the load per processor is above {limit:g}", "LoadHigh")

    def check_throttling(self) -> Iterator[Observation]:
        """Whether a processor was throttled since the last check."""
        before, self.throttles = self.throttles, throttle_counts(self.host.sys)
        for scope in ("core", "package"):
            counts = [n for path, n in self.throttles.items() if path.name == f"{scope}_throttle_count"]
            if counts:
                yield THROTTLES(sum(counts), scope=scope)
        # Compared one by one: a processor that comes online brings its old count along, which is no throttling.
        throttled = any(count > before.get(path, count) for path, count in self.throttles.items())
        yield THROTTLED.when(throttled, "processors were slowed down because they are too hot")

    def check_agent(self, now: Throttling | None) -> Iterator[Observation]:
        """Whether the agent's own limit held it back since the last check: what it measures is late then."""
        before, self.held_back = self.held_back, now
        if now:
            yield AGENT_SECONDS(now.seconds)
            yield AGENT_PERIODS(now.throttled)
        share = 0.0
        if now and before and now.periods > before.periods:
            share = 100 * (now.throttled - before.throttled) / (now.periods - before.periods)
        text = "the agent is slowed down by its own CPU limit, its probes too: raise the limit"
        yield AGENT_THROTTLED.when(share > self.options.agent_throttled_threshold, text)


def cpu_times(stat: str) -> Times:
    """The times in the text of /proc/stat. Guest time is part of user time already; waiting for I/O is idle."""
    words = stat.partition("\n")[0].split()
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in words[1:9])
    return Times(busy=user + nice + system + irq + softirq, stolen=steal, idle=idle + iowait)


def shares(before: Times, now: Times) -> tuple[float, float] | None:
    """Shares of time in use and stolen between two readings, 0 to 1.

    None if no time was accounted for, or less than before: a machine that was restored elsewhere counts anew.
    A single counter may fall, as the time waited for I/O does (proc_stat(5)); it counts as still then.
    """
    if now.total <= before.total:
        return None
    busy = max(0, now.busy - before.busy)
    stolen = max(0, now.stolen - before.stolen)
    total = busy + stolen + max(0, now.idle - before.idle)
    return busy / total, stolen / total


def online(stat: str) -> int:
    """The number of processors that /proc/stat lists: those that are online."""
    return max(1, sum(line.startswith("cpu") and line[3:4].isdigit() for line in stat.splitlines()))


def throttle_counts(sys: Path) -> dict[Path, int]:
    """Thermal throttling events by counter; empty where the processors do not tell."""
    counts = {}
    for path in sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"):
        # A processor that goes offline takes its folder away between the listing and the reading.
        with contextlib.suppress(FileNotFoundError):
            counts[path] = int(path.read_text())
    return counts

"""How busy the processors are, and whether they may run at full speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
BUSIEST = Gauge("cpu_busiest_core_ratio", "Share of time in use of the processor that is busiest")
IOWAIT = Gauge(
    "cpu_iowait_ratio", "Share of CPU time idle while a disk was waited for; the kernel only estimates it"
)
STEAL = Gauge("cpu_steal_ratio", "Share of CPU time that the hypervisor took for others")
ONLINE = Gauge("cpu_online_processors", "Processors that are online")
LOAD = Gauge("cpu_load_per_core", "Load average divided by the number of online processors", ("minutes",))
THROTTLES = counter(
    "cpu_throttles_total",
    "Thermal throttling events since boot, as all online processors count them",
    ("scope",),
)
AGENT_SECONDS = counter(
    "agent_cpu_throttled_seconds_total", "Time for which the agent was held back by a CPU limit"
)
AGENT_PERIODS = counter(
    "agent_cpu_throttled_periods_total", "Scheduling periods in which the agent's CPU limit was used up"
)
ALL = "cpu"
"""What /proc/stat calls all processors together."""
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
    """Percent of scheduling periods in which a CPU limit held the agent back that is a problem."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem, and there is a load that is none."""
        if self.load_per_core_threshold is not None and self.load_per_core_threshold <= 0:
            yield "loadPerCoreThreshold", f"found {self.load_per_core_threshold:g}, allowed: more than 0"
        yield from order_faults(
            "warningThreshold", self.warning_threshold, "criticalThreshold", self.critical_threshold
        )


class Times(msgspec.Struct, frozen=True):
    """CPU time of one or all processors since boot, in clock ticks; proc_stat(5)."""

    busy: int
    stolen: int
    idle: int
    waiting: int = 0
    """The part of `idle` in which a disk was waited for."""

    @property
    def total(self) -> int:
        """All the time that the kernel has accounted for."""
        return self.busy + self.stolen + self.idle


class Shares(NamedTuple):
    """Shares of the time between two readings, 0 to 1."""

    busy: float
    stolen: float
    waiting: float


class CpuMonitor(Monitor[CpuOptions]):
    """Compares CPU utilisation, steal and load with thresholds, and notices thermal throttling.

    Reads /proc/stat (proc_stat(5)), /proc/loadavg (proc_loadavg(5)) and the throttle counters of
    Documentation/ABI/testing/sysfs-devices-system-cpu, which count since boot: only growth between two checks is a
    problem. Virtual machines and other architectures have none; as far as such a node can know, it is not throttled.
    """

    kind, options_type = "cpu-health-check", CpuOptions
    conditions = (OVERLOADED, STOLEN, THROTTLED, AGENT_THROTTLED)
    metrics = (UTILIZATION, BUSIEST, IOWAIT, STEAL, ONLINE, LOAD, THROTTLES, AGENT_SECONDS, AGENT_PERIODS)
    timeout = 5.0

    def __init__(self, name: str, options: CpuOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.before: dict[str, Times] = {}
        self.throttles: dict[Path, int] = {}
        self.held_back: dict[Path, Throttling] = {}

    def check(self) -> Iterator[Observation]:
        """Look at what happened since the last check."""
        stat = self.stat()
        yield from self.check_times(processors(stat))
        yield from self.check_load(online(stat))
        yield from self.check_throttling()
        yield from self.check_agent(own_throttling())

    def stat(self) -> str:
        """The text of /proc/stat."""
        return (self.host.proc / "stat").read_text()

    def check_times(self, now: dict[str, Times]) -> Iterator[Observation]:
        """Utilisation and steal."""
        measured = self.measured(now)
        if ALL not in measured:
            for condition in (OVERLOADED, STOLEN):
                yield condition.unknown("the times in /proc/stat stand still", "NoCPUTimes")
            return
        total = measured.pop(ALL)
        yield UTILIZATION(total.busy)
        yield IOWAIT(total.waiting)
        yield STEAL(total.stolen)
        if measured:
            yield BUSIEST(max(one.busy for one in measured.values()))
        yield OVERLOADED.graded(
            total.busy * 100,
            self.options.warning_threshold,
            self.options.critical_threshold,
            lambda limit: f"the processors are busier than {limit:g} %",
        )
        steal = self.options.steal_threshold
        yield STOLEN.when(
            total.stolen * 100 >= steal, f"the hypervisor takes more than {steal:g} % of the time"
        )

    def measured(self, now: dict[str, Times]) -> dict[str, Shares]:
        """Shares since the last check, else over a short sample, by processor; without those that stood still."""
        found = all_shares(self.before, now)
        if ALL not in found:
            time.sleep(FIRST_SAMPLE)
            first, now = now, processors(self.stat())
            found = all_shares(first, now)
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

    def check_agent(self, now: dict[Path, Throttling]) -> Iterator[Observation]:
        """Whether a limit held the agent back since the last check: what it measures is late then."""
        before, self.held_back = self.held_back, now
        if now:
            yield AGENT_SECONDS(max(one.seconds for one in now.values()))
            yield AGENT_PERIODS(max(one.throttled for one in now.values()))
        share = max((one.share(before[file]) for file, one in now.items() if file in before), default=0.0)
        text = "the agent is slowed down by the CPU limit of its container, pod or slice, its probes too: raise it"
        yield AGENT_THROTTLED.when(share * 100 > self.options.agent_throttled_threshold, text)


def cpu_times(stat: str) -> Times:
    """The times in the first line of `stat`. Guest time is part of user time already; waiting for I/O is idle."""
    words = stat.partition("\n")[0].split()
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in words[1:9])
    return Times(busy=user + nice + system + irq + softirq, stolen=steal, idle=idle + iowait, waiting=iowait)


def processors(stat: str) -> dict[str, Times]:
    """The times in the text of /proc/stat: of all processors together, and of each that is online."""
    return {line.split()[0]: cpu_times(line) for line in stat.splitlines() if line.startswith(ALL)}


def all_shares(before: dict[str, Times], now: dict[str, Times]) -> dict[str, Shares]:
    """Shares by processor, of those that have any."""
    found = {name: shares(before[name], times) for name, times in now.items() if name in before}
    return {name: one for name, one in found.items() if one}


def shares(before: Times, now: Times) -> Shares | None:
    """Shares of the time between two readings.

    None if no time was accounted for, or less than before: a machine that was restored elsewhere counts anew.
    A single counter may fall, as the time waited for I/O does (proc_stat(5)); it counts as still then.
    """
    if now.total <= before.total:
        return None
    busy = max(0, now.busy - before.busy)
    stolen = max(0, now.stolen - before.stolen)
    total = busy + stolen + max(0, now.idle - before.idle)
    waiting = min(total, max(0, now.waiting - before.waiting))
    return Shares(busy / total, stolen / total, waiting / total)


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

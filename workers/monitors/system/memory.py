"""How much memory and swap are left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import (
    ConditionType,
    EventReason,
    Gauge,
    Monitor,
    Observation,
    Options,
    Percent,
    counter,
    order_faults,
)
from nodedoctor.types import Severity

LOW = ConditionType(
    "MemoryLow",
    reason="LittleMemoryAvailable",
    ok_reason="MemoryAvailable",
    warning_reason="MemoryGettingLow",
)
SWAP_HIGH = ConditionType(
    "SwapUsedHigh", reason="SwapAlmostFull", ok_reason="SwapHasSpace", severity=Severity.WARNING
)
SIZE = Gauge("memory_size_bytes", "Memory that the kernel manages")
AVAILABLE = Gauge("memory_available_bytes", "Memory that new processes can have without swapping")
USED = Gauge("memory_used_ratio", "Share of memory that is not available")
SWAP_SIZE = Gauge("swap_size_bytes", "Size of all swap areas")
SWAP_FREE = Gauge("swap_free_bytes", "Swap that is not in use")
SWAP_USED = Gauge("swap_used_ratio", "Share of swap in use; 0 without swap")

OOM_KILLS = counter("oom_kills_total", "Processes that the kernel has killed since boot to free memory")
KILLED = EventReason("OOMKilled")


class MemoryOptions(Options, frozen=True):
    """Thresholds."""

    warning_threshold: Percent = 85
    """Percent of memory not available at which to warn."""
    critical_threshold: Percent = 95
    """Percent of memory not available that is a problem."""
    swap_threshold: Percent = 90
    """Percent of swap in use that is a problem; a machine without swap has none."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem."""
        yield from order_faults(
            "warningThreshold", self.warning_threshold, "criticalThreshold", self.critical_threshold
        )


class MemoryMonitor(Monitor[MemoryOptions]):
    """Compares memory that is not available, and swap in use, with thresholds.

    Reads /proc/meminfo (proc_meminfo(5)). Caches that the kernel can drop are available; those that it does not
    know as such (the ARC of ZFS) are not. The kernel's kills are counted in /proc/vmstat (oom_kill, Linux 4.13).
    """

    kind, options_type = "memory-health-check", MemoryOptions
    conditions = (LOW, SWAP_HIGH)
    metrics = (SIZE, AVAILABLE, USED, SWAP_SIZE, SWAP_FREE, SWAP_USED, OOM_KILLS)
    events = (KILLED,)
    timeout = 5.0

    def __init__(self, name: str, options: MemoryOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.killed: int | None = None

    def check(self) -> Iterator[Observation]:
        """Look at what was killed, at swap, then at memory."""
        yield from self.check_kills(oom_kills(self.host.proc / "vmstat"))
        sizes = meminfo((self.host.proc / "meminfo").read_text())
        yield from self.check_swap(sizes.get("SwapTotal", 0), sizes.get("SwapFree", 0))
        if not sizes.get("MemTotal") or "MemAvailable" not in sizes:
            raise Undetermined(
                "/proc/meminfo has no MemAvailable: Linux 3.14 or later has it", "NoMemAvailable"
            )
        yield from self.check_memory(sizes["MemTotal"], sizes["MemAvailable"])

    def check_kills(self, killed: int | None) -> Iterator[Observation]:
        """What the kernel has killed since the last check; what it killed before the first is history."""
        before, self.killed = self.killed, killed
        if killed is None:
            return
        yield OOM_KILLS(killed)
        if before is not None and killed > before:
            yield KILLED(f"the kernel has killed {killed - before} process(es) for want of memory")

    def check_memory(self, total: int, available: int) -> Iterator[Observation]:
        """Whether too little of `total` bytes is available."""
        used = max(0.0, 1 - available / total)
        yield SIZE(total)
        yield AVAILABLE(available)
        yield USED(used)
        yield LOW.graded(
            used * 100,
            self.options.warning_threshold,
            self.options.critical_threshold,
            lambda limit: f"more than {limit:g} % of memory are in use",
        )

    def check_swap(self, total: int, free: int) -> Iterator[Observation]:
        """Whether too little of `total` bytes of swap is free; without any, there is nothing to run out of."""
        used = (total - free) / total if total else 0.0
        yield SWAP_SIZE(total)
        yield SWAP_FREE(free)
        yield SWAP_USED(used)
        limit = self.options.swap_threshold
        yield SWAP_HIGH.when(total > 0 and used * 100 >= limit, f"more than {limit:g} % of swap are in use")


def meminfo(text: str) -> dict[str, int]:
    """The sizes in the text of /proc/meminfo, in bytes; what is only a number of pages is left out."""
    lines = (line.split() for line in text.splitlines())
    return {name.rstrip(":"): int(number) * 1024 for name, number, *unit in lines if unit == ["kB"]}


def oom_kills(path: Path) -> int | None:
    """How many processes the kernel has killed for want of memory; None if it does not count them."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

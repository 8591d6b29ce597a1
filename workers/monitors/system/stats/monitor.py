"""Measures what Node Problem Detector's system-stats-monitor measures."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from nodedoctor.host import Host
from nodedoctor.monitor import EventReason, Gauge, Monitor, Observation
from workers.monitors.system.stats import cpu, disk, features, host, memory, net
from workers.monitors.system.stats.options import KNOWN, StatsOptions
from workers.monitors.system.stats.source import Source, Unreadable

UNAVAILABLE = EventReason("StatsUnavailable")

logger = logging.getLogger(__name__)


class StatsMonitor(Monitor[StatsOptions]):
    """Yields the metrics of Node Problem Detector's system-stats-monitor, those that are asked for, and no condition.

    Names, types and labels are Node Problem Detector's; values are the kernel's where Node Problem Detector's are not
    what it says they are: counters are what the kernel has counted since boot, and CPU times are in seconds, not in
    clock ticks. What can't be read is said once, until it can be read again; the other metrics are there all the same.
    """

    kind, options_type = "system-stats", StatsOptions
    metrics = tuple(gauge for section in KNOWN.values() for gauge in section)
    events = (UNAVAILABLE,)
    # A file system may be mounted in a folder that is closed to everybody but its owner.
    capabilities = ("CAP_DAC_READ_SEARCH",)
    interval = 60.0

    def __init__(self, name: str, options: StatsOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.names = options.names()
        self.sources = [
            s for s in sources(options, self.host) if any(g.name in self.names for g in s.metrics)
        ]
        self.told: set[str] = set()

    @classmethod
    def metrics_of(cls, name: str, options: StatsOptions) -> tuple[Gauge, ...]:  # noqa: ARG003 - as Monitor has it
        """Those that are asked for, under the names that they are given."""
        names = options.names()
        return tuple(msgspec.structs.replace(g, name=names[g.name]) for g in cls.metrics if g.name in names)

    def check(self) -> Iterator[Observation]:
        """Read each source once."""
        unreadable = set()
        for source in self.sources:
            for found in source.found():
                if isinstance(found, Unreadable):
                    unreadable.add(found.text)
                elif found.name in self.names:
                    yield msgspec.structs.replace(found, name=self.names[found.name])
        for text in sorted(unreadable - self.told):
            logger.warning("%s", text, extra={"monitor": self.name})
            yield UNAVAILABLE(text)
        self.told = unreadable


def sources(options: StatsOptions, machine: Host) -> Iterator[Source]:
    """Everything that metrics are read from."""
    yield from cpu.sources(machine.proc)
    yield from disk.sources(
        machine,
        whole=options.disk.include_root_block_devices,
        attached=options.disk.include_all_attached_block_devices,
    )
    yield from host.sources(machine.proc)
    yield from memory.sources(machine.proc)
    yield from net.sources(machine.proc, options.net.exclude_interfaces)
    yield from features.sources(machine, options.os_feature.known_modules)

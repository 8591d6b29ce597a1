"""Which metrics there are to be, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nodedoctor.monitor import Gauge, Options
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import did_you_mean
from workers.monitors.system.stats import cpu, disk, features, host, memory, net

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
KNOWN = {
    "cpu": cpu.METRICS,
    "disk": disk.METRICS,
    "host": host.METRICS,
    "memory": memory.METRICS,
    "net": net.METRICS,
    "osFeature": features.METRICS,
}
"""By section, what there is."""


class Section(Options, frozen=True):
    """The metrics of one component."""

    metrics: dict[str, str] = {}
    """What to measure, by Node Problem Detector's name (cpu/load_1m), and the name to export it under (cpu_load_1m)."""


class DiskSection(Section, frozen=True):
    """The metrics of disks. Activity is told of all devices in /proc/diskstats unless some are chosen."""

    include_root_block_devices: bool = False
    """Tell the activity of whole disks."""
    include_all_attached_block_devices: bool = False
    """Tell the activity of devices with mounted file systems."""


class NetSection(Section, frozen=True):
    """The metrics of network interfaces."""

    exclude_interfaces: str = ""
    """A regular expression (RE2); interfaces in whose names it is found are left out."""


class OsFeatureSection(Section, frozen=True):
    """What the kernel was started with and holds."""

    known_modules: str = ""
    """An absolute path: a JSON list of {"moduleName": ...}, foreign kernel modules that are not to be told of."""


class StatsOptions(Options, frozen=True):
    """What to measure."""

    cpu: Section = Section()
    disk: DiskSection = DiskSection()
    host: Section = Section()
    memory: Section = Section()
    net: NetSection = NetSection()
    os_feature: OsFeatureSection = OsFeatureSection()

    def faults(self) -> Iterator[tuple[str, str]]:
        """Metrics that there are not, names that can't be, and nothing to measure."""
        taken: dict[str, str] = {}
        for section, asked in self.sections().items():
            yield from metric_faults(section, asked.metrics, taken)
        if not any(asked.metrics for asked in self.sections().values()):
            yield "cpu", f"there is nothing to measure: name metrics in {', '.join(KNOWN)}"
        try:
            compile_pattern(self.net.exclude_interfaces)
        except ValueError as error:
            yield "net.excludeInterfaces", str(error)
        path = self.os_feature.known_modules
        if path and not path.startswith("/"):
            yield "osFeature.knownModules", f"found {path!r}, allowed: an absolute path"

    def sections(self) -> dict[str, Section]:
        """The sections by their names."""
        asked = (self.cpu, self.disk, self.host, self.memory, self.net, self.os_feature)
        return dict(zip(KNOWN, asked, strict=True))

    def names(self) -> dict[str, str]:
        """The name to export each metric under, by the name that its source gives it."""
        return {
            exported(metric): exported(name)
            for section in self.sections().values()
            for metric, name in section.metrics.items()
        }


def metric_faults(section: str, metrics: dict[str, str], taken: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the `metrics` of one section; `taken` are the names of those before, and whose."""
    known = [original(gauge) for gauge in KNOWN[section]]
    for metric, name in metrics.items():
        if metric not in known:
            allowed = f"allowed: {', '.join(known)}{did_you_mean(metric, known)}"
            yield f"{section}.metrics", f"unknown metric {metric!r}; {allowed}"
        elif not NAME.match(exported(name)):
            allowed = "allowed: letters, digits, _ and :, no digit first; a slash becomes an underscore"
            yield f"{section}.metrics.{metric}", f"found {name!r}, {allowed}"
        elif exported(name) in taken:
            owner = taken[exported(name)]
            yield f"{section}.metrics.{metric}", f"{exported(name)!r} is the name of {owner} already"
        else:
            taken[exported(name)] = metric


def exported(name: str) -> str:
    """`name` as Prometheus takes it."""
    return name.replace("/", "_")


def original(gauge: Gauge) -> str:
    """What Node Problem Detector's configuration calls a metric."""
    return gauge.name.replace("_", "/", 1)

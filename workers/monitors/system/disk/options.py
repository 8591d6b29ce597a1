"""What the disk monitor can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options, Percent, order_faults

Hours = Annotated[float, Meta(ge=0, le=720)]


class DiskPath(Options, frozen=True):
    """One file system, by any path on it."""

    path: str
    """An absolute path; one that is not there is left out."""
    warning_threshold: Percent = 85
    """Percent of the space in use at which to warn."""
    critical_threshold: Percent = 95
    """Percent of the space in use that is a problem."""
    inode_warning_threshold: Percent = 85
    """Percent of the inodes in use at which to warn."""
    inode_critical_threshold: Percent = 95
    """Percent of the inodes in use that is a problem."""
    required: bool = False
    """Whether it is a problem when nothing is there (condition DiskPathMissing)."""
    writable: bool = False
    """Whether it is a problem when it is read-only at all, even if it was mounted so."""
    write_probe: bool = False
    """Whether to write and sync a small nameless file in the folder at each check: a frozen file system shows so alone."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """An absolute path, the warning before the problem."""
        if not self.path.startswith("/"):
            yield "path", f"found {self.path!r}, allowed: an absolute path"
        yield from order_faults(
            "warningThreshold", self.warning_threshold, "criticalThreshold", self.critical_threshold
        )
        inodes = (self.inode_warning_threshold, "inodeCriticalThreshold", self.inode_critical_threshold)
        yield from order_faults("inodeWarningThreshold", *inodes)


class DiskOptions(Options, frozen=True):
    """Which file systems to watch."""

    paths: tuple[DiskPath, ...] = (DiskPath("/"),)
    """The paths, at least one and each once."""
    forecast_hours: Hours = 4
    """A file system that will be full within so many hours is warned of; 0: none is."""
    forecast_window: Duration = "1h"
    """How far back the pace is taken from; the first forecast comes after a quarter of it."""
    devices: tuple[str, ...] = ()
    """Names of block devices to watch (sda, nvme0n1, dm-0); empty: those on which the paths lie."""
    stalled_for: Duration = "30s"
    """A device that has requests and completes none for so long is a problem."""
    slow_at: Duration = "500ms"
    """A device on whose requests one waits so long on average is warned of."""
    slow_requests: Annotated[int, Meta(ge=1)] = 20
    """Requests between two checks below which their average says nothing."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong with each path."""
        if not self.paths:
            yield "paths", "found none, allowed: at least one path"
        seen = set()
        for index, disk in enumerate(self.paths):
            for option, what in disk.faults():
                yield f"paths[{index}].{option}", what
            if disk.path in seen:
                yield f"paths[{index}].path", f"{disk.path!r} stands in the list already"
            seen.add(disk.path)
        for option, value in (
            ("forecastWindow", self.forecast_window),
            ("stalledFor", self.stalled_for),
            ("slowAt", self.slow_at),
        ):
            if seconds(value) <= 0:
                yield option, f"found {value!r}, allowed: more than 0"
        for index, device in enumerate(self.devices):
            if not device or "/" in device:
                yield f"devices[{index}]", f"found {device!r}, allowed: a name as in /proc/diskstats"

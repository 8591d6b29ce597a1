"""How full a file system is."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nodedoctor.monitor import ConditionType, Gauge, Observation
from workers.monitors.system.disk.options import DiskPath

SPACE_LOW = ConditionType(
    "DiskSpaceLow",
    reason="DiskAlmostFull",
    ok_reason="DiskHasSpace",
    warning_reason="DiskFillingUp",
    reasons=("DiskAlmostFull", "NoSpaceLeft", "QuotaExhausted"),
)
INODES_LOW = ConditionType(
    "DiskInodesLow", reason="InodesAlmostUsedUp", ok_reason="DiskHasInodes", warning_reason="InodesRunningOut"
)
SIZE = Gauge("disk_size_bytes", "Size of the file system", ("path",))
FREE = Gauge("disk_free_bytes", "What users without privileges can still write", ("path",))
USED = Gauge("disk_used_ratio", "Share of the file system in use, as df(1) counts it", ("path",))
INODES = Gauge(
    "disk_inodes_used_ratio", "Share of the inodes in use; absent where they are not counted", ("path",)
)


def space(disk: DiskPath, filesystem: os.statvfs_result) -> Iterator[Observation]:
    """What is said of the space of `disk`."""
    used = used_percent(filesystem)
    yield SIZE(filesystem.f_blocks * filesystem.f_frsize, path=disk.path)
    yield FREE(filesystem.f_bavail * filesystem.f_frsize, path=disk.path)
    yield USED(used / 100, path=disk.path)
    yield SPACE_LOW.graded(
        used,
        disk.warning_threshold,
        disk.critical_threshold,
        lambda limit: f"{disk.path} is fuller than {limit:g} %",
    )


def inodes(disk: DiskPath, filesystem: os.statvfs_result) -> Iterator[Observation]:
    """What is said of the inodes of `disk`; btrfs and vfat count none."""
    if not filesystem.f_files:
        return
    used = 100 * (filesystem.f_files - filesystem.f_ffree) / filesystem.f_files
    yield INODES(used / 100, path=disk.path)
    yield INODES_LOW.graded(
        used,
        disk.inode_warning_threshold,
        disk.inode_critical_threshold,
        lambda limit: f"more than {limit:g} % of the inodes of {disk.path} are used",
    )


def used_percent(filesystem: os.statvfs_result) -> float:
    """Share in use, 0 to 100 percent of what users can have: root's reserve is nobody's; statvfs(3)."""
    used = filesystem.f_blocks - filesystem.f_bfree
    return 100 * used / ((used + filesystem.f_bavail) or 1)

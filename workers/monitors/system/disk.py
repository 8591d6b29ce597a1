"""How full file systems are, and whether they can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.monitor import ConditionType, Gauge, Host, Monitor, Observation, Options, Percent

SPACE_LOW = ConditionType(
    "DiskSpaceLow", reason="DiskAlmostFull", ok_reason="DiskHasSpace", warning_reason="DiskFillingUp"
)
INODES_LOW = ConditionType(
    "DiskInodesLow", reason="InodesAlmostUsedUp", ok_reason="DiskHasInodes", warning_reason="InodesRunningOut"
)
READ_ONLY = ConditionType("DiskReadOnly", reason="FilesystemIsReadOnly", ok_reason="FilesystemsWritable")
SIZE = Gauge("disk_size_bytes", "Size of the file system", ("path",))
FREE = Gauge("disk_available_bytes", "What users without privileges can still write", ("path",))
USED = Gauge("disk_used_ratio", "Share of the file system in use, as df(1) counts it", ("path",))
INODES = Gauge(
    "disk_inodes_used_ratio", "Share of the inodes in use; absent where they are not counted", ("path",)
)
WRITABLE = Gauge("disk_writable", "1 if the file system is mounted for writing", ("path",))
READ_ONLY_BY_NATURE = {"squashfs", "iso9660", "erofs", "cramfs", "udf"}


class DiskPath(Options, frozen=True):
    """One file system, by any path on it."""

    path: str
    warning_threshold: Percent = 85
    """Percent of the space in use at which to warn."""
    critical_threshold: Percent = 95
    """Percent of the space in use that is a problem."""
    inode_warning_threshold: Percent = 85
    """Percent of the inodes in use at which to warn."""
    inode_critical_threshold: Percent = 95
    """Percent of the inodes in use that is a problem."""
    required: bool = False
    """Whether it is a problem when nothing is there; otherwise such a path is left out."""


class DiskOptions(Options, frozen=True):
    """Which file systems to watch."""

    paths: tuple[DiskPath, ...] = (DiskPath("/"),)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Absolute paths, each once, the warning before the problem."""
        seen = set()
        for index, disk in enumerate(self.paths):
            where = f"paths[{index}]"
            if not disk.path.startswith("/"):
                yield f"{where}.path", f"found {disk.path!r}, allowed: an absolute path"
            if disk.path in seen:
                yield f"{where}.path", f"{disk.path!r} stands in the list already"
            seen.add(disk.path)
            pairs = (
                ("warningThreshold", disk.warning_threshold, "criticalThreshold", disk.critical_threshold),
                (
                    "inodeWarningThreshold",
                    disk.inode_warning_threshold,
                    "inodeCriticalThreshold",
                    disk.inode_critical_threshold,
                ),
            )
            for first, warning, second, critical in pairs:
                if warning >= critical:
                    yield f"{where}.{first}", f"found {warning:g}, must be below {second} ({critical:g})"


class Mount(msgspec.Struct, frozen=True):
    """One line of mountinfo: where, what, with which options of the mount and of the file system."""

    point: str
    filesystem: str
    options: frozenset[str]
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, for whatever reason."""
        return "ro" in self.options or not self.super_options.isdisjoint({"ro", "emergency_ro"})

    @property
    def failed(self) -> bool:
        """Whether the kernel refuses writes to what was mounted for them.

        After an error ext4 and others show `ro`, since Linux 6.16 `emergency_ro`, among the options of the file
        system, while the mount keeps its `rw`. Who mounts or remounts read-only on purpose changes the mount's own
        option too (a bind mount into a container: only that one).
        """
        if self.filesystem in READ_ONLY_BY_NATURE:
            return False
        return "emergency_ro" in self.super_options or (
            "ro" in self.super_options and "ro" not in self.options
        )


class DiskMonitor(Monitor[DiskOptions]):
    """Compares used space and inodes of each file system with thresholds, and finds those that turned read-only.

    Reads statvfs(3) and the mount table of PID 1, which is the host's (proc_pid_mountinfo(5)). A path on a dead
    network mount blocks this process alone: its deadline passes and the supervisor replaces it.
    """

    kind, options_type = "disk-health-check", DiskOptions
    conditions = (SPACE_LOW, INODES_LOW, READ_ONLY)
    metrics = (SIZE, FREE, USED, INODES, WRITABLE)
    interval = 60.0

    def __init__(self, name: str, options: DiskOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.seen_writable: set[str] = set()

    def check(self) -> Iterator[Observation]:
        """Look at each path. With no path there at all, nothing can be low."""
        mounts = mount_table(self.host.proc)
        for condition in self.conditions:
            yield condition.when(False, "")
        for disk in self.options.paths:
            try:
                filesystem = os.statvfs(disk.path)
            except FileNotFoundError:
                yield SPACE_LOW.when(disk.required, f"{disk.path} is missing", "PathMissing")
                continue
            yield from space(disk, filesystem)
            yield from inodes(disk, filesystem)
            yield from self.writable(disk, mount_of(disk.path, mounts))

    def writable(self, disk: DiskPath, mount: Mount | None) -> Iterator[Observation]:
        """What is said of the mount on which `disk` lies; nothing if the table does not have it."""
        if mount is None:
            return
        if not mount.read_only:
            self.seen_writable.add(mount.point)
        turned = mount.read_only and mount.point in self.seen_writable
        yield WRITABLE(float(not mount.read_only), path=disk.path)
        yield READ_ONLY.when(mount.failed or turned, f"{disk.path} has turned read-only")


def space(disk: DiskPath, filesystem: os.statvfs_result) -> Iterator[Observation]:
    """What is said of the space of `disk`."""
    used = used_percent(filesystem)
    yield SIZE(filesystem.f_blocks * filesystem.f_frsize, path=disk.path)
    yield FREE(filesystem.f_bavail * filesystem.f_frsize, path=disk.path)
    yield USED(used / 100, path=disk.path)
    if used >= disk.critical_threshold:
        yield SPACE_LOW.when(True, f"{disk.path} is fuller than {disk.critical_threshold:g} %")
    else:
        passed = used >= disk.warning_threshold
        yield SPACE_LOW.warn_when(passed, f"{disk.path} is fuller than {disk.warning_threshold:g} %")


def inodes(disk: DiskPath, filesystem: os.statvfs_result) -> Iterator[Observation]:
    """What is said of the inodes of `disk`; btrfs and vfat count none."""
    if not filesystem.f_files:
        return
    used = 100 * (filesystem.f_files - filesystem.f_ffree) / filesystem.f_files
    yield INODES(used / 100, path=disk.path)
    if used >= disk.inode_critical_threshold:
        yield INODES_LOW.when(
            True, f"more than {disk.inode_critical_threshold:g} % of the inodes of {disk.path} are used"
        )
    else:
        passed = used >= disk.inode_warning_threshold
        text = f"more than {disk.inode_warning_threshold:g} % of the inodes of {disk.path} are used"
        yield INODES_LOW.warn_when(passed, text)


def used_percent(filesystem: os.statvfs_result) -> float:
    """Share in use, 0 to 100 percent of what users can have: root's reserve is nobody's; statvfs(3)."""
    used = filesystem.f_blocks - filesystem.f_bfree
    return 100 * used / ((used + filesystem.f_bavail) or 1)


def mount_table(proc: Path) -> list[Mount]:
    """The host's mounts, or this process's where PID 1 may not be looked at."""
    for pid in ("1", "self"):
        try:
            text = (proc / pid / "mountinfo").read_text(errors="surrogateescape")
        except (PermissionError, FileNotFoundError):
            continue
        return [parse_mount(line) for line in text.splitlines()]
    return []


def parse_mount(line: str) -> Mount:
    """One line of mountinfo; its path has blanks as octal escapes."""
    left, right = line.split(" - ", 1)
    point, options = left.split()[4:6]
    filesystem, _, *super_options = right.split()
    path = point.encode(errors="surrogateescape").decode("unicode_escape").encode("latin-1")
    shown = path.decode(errors="surrogateescape")
    return Mount(
        shown, filesystem, frozenset(options.split(",")), frozenset(",".join(super_options).split(","))
    )


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount on which `path` lies: the longest mount point above it, the last of several at one point."""
    real = os.path.realpath(path)
    above = [m for m in mounts if real == m.point or real.startswith(m.point.rstrip("/") + "/")]
    return max(enumerate(above), key=lambda pair: (len(pair[1].point), pair[0]), default=(0, None))[1]

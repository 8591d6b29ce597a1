"""How full file systems are, and whether they can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options, Percent, order_faults

SPACE_LOW = ConditionType(
    "DiskSpaceLow", reason="DiskAlmostFull", ok_reason="DiskHasSpace", warning_reason="DiskFillingUp"
)
INODES_LOW = ConditionType(
    "DiskInodesLow", reason="InodesAlmostUsedUp", ok_reason="DiskHasInodes", warning_reason="InodesRunningOut"
)
READ_ONLY = ConditionType("DiskReadOnly", reason="FilesystemIsReadOnly", ok_reason="FilesystemsWritable")
MISSING = ConditionType("DiskPathMissing", reason="NothingThere", ok_reason="RequiredPathsExist")
SIZE = Gauge("disk_size_bytes", "Size of the file system", ("path",))
FREE = Gauge("disk_free_bytes", "What users without privileges can still write", ("path",))
USED = Gauge("disk_used_ratio", "Share of the file system in use, as df(1) counts it", ("path",))
INODES = Gauge(
    "disk_inodes_used_ratio", "Share of the inodes in use; absent where they are not counted", ("path",)
)
CLOSED = Gauge("disk_read_only", "1 if nothing can be written there, for whatever reason", ("path",))
READ_ONLY_BY_NATURE = {"squashfs", "iso9660", "erofs", "cramfs", "romfs", "udf", "overlay"}
"""These close themselves whatever the mount asks for: overlay does so without an upper folder, and only then."""


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


class Mount(msgspec.Struct, frozen=True):
    """One line of mountinfo: its number, the file system's device, where, what, and the options of both."""

    number: int
    device: str
    point: str
    filesystem: str
    options: frozenset[str]
    super_options: frozenset[str]

    @property
    def closed(self) -> bool:
        """Whether the file system itself refuses writes.

        After an error ext4 says `ro`, since Linux 6.15 `emergency_ro` (in 6.12 to 6.14 neither: the kernel's log
        tells).
        """
        return not self.super_options.isdisjoint({"ro", "emergency_ro"})

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, for whatever reason."""
        return self.closed or "ro" in self.options

    @property
    def failed(self) -> bool:
        """Whether the kernel refuses writes to what was mounted for them.

        After an error the kernel closes the file system and leaves the mount's own option as it was. A person who
        mounts or remounts read-only sets both; a read-only bind mount has only its own; mount(8).
        """
        if self.filesystem in READ_ONLY_BY_NATURE:
            return False
        return "emergency_ro" in self.super_options or (self.closed and "ro" not in self.options)


class DiskMonitor(Monitor[DiskOptions]):
    """Compares used space and inodes of each file system with thresholds, and finds those that became read-only.

    Reads statvfs(3) and the mount table of PID 1, which is the host's (proc_pid_mountinfo(5)). A file system that
    was read-only when it was first seen was meant so, unless the mount says otherwise; see `Mount.failed`.
    A path on a dead network mount blocks this process alone: its deadline passes and the supervisor replaces it.
    """

    kind, options_type = "disk-health-check", DiskOptions
    conditions = (SPACE_LOW, INODES_LOW, READ_ONLY, MISSING)
    metrics = (SIZE, FREE, USED, INODES, CLOSED)
    # A path may lie in a folder that is closed to everybody but its owner.
    capabilities = ("CAP_DAC_READ_SEARCH",)
    interval = 60.0

    def __init__(self, name: str, options: DiskOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.seen_open: set[tuple[int, str]] = set()

    @classmethod
    def conditions_of(cls, name: str, options: DiskOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003 - any name
        """DiskPathMissing is only reported when a path is required."""
        required = any(disk.required for disk in options.paths)
        return tuple(condition for condition in cls.conditions if required or condition is not MISSING)

    def check(self) -> Iterator[Observation]:
        """Look at each path. What is said of none of them, such as inodes on btrfs, is fine."""
        mounts = mount_table(self.host.proc)
        self.seen_open &= {(mount.number, mount.device) for mount in mounts}
        for condition in self.conditions_of(self.name, self.options):
            yield condition.when(False, "")
        for disk in self.options.paths:
            yield from self.check_path(disk, mounts)

    def check_path(self, disk: DiskPath, mounts: list[Mount]) -> Iterator[Observation]:
        """Look at one path. One that can't be looked at is no reason to leave out the others."""
        try:
            filesystem = os.statvfs(disk.path)
        except (FileNotFoundError, NotADirectoryError):
            if disk.required:
                yield MISSING.when(True, f"{disk.path} does not exist")
        except OSError as error:
            reason = "PermissionDenied" if isinstance(error, PermissionError) else "FilesystemDoesNotAnswer"
            for condition in (SPACE_LOW, INODES_LOW, READ_ONLY):
                yield condition.unknown(f"{disk.path}: {error.strerror}", reason)
        else:
            yield from space(disk, filesystem)
            yield from inodes(disk, filesystem)
            yield from self.check_mount(disk, mount_of(disk.path, mounts))

    def check_mount(self, disk: DiskPath, mount: Mount | None) -> Iterator[Observation]:
        """Whether the mount on which `disk` lies can't be written although it should be."""
        if mount is None:
            yield READ_ONLY.unknown(f"{disk.path} is on no mount of /proc/1/mountinfo", "NoMountTable")
            return
        key = (mount.number, mount.device)
        if not mount.closed:
            self.seen_open.add(key)
        turned = mount.closed and key in self.seen_open
        unwanted = mount.read_only and disk.writable
        yield CLOSED(float(mount.read_only), path=disk.path)
        yield READ_ONLY.when(mount.failed or turned or unwanted, f"{disk.path} is read-only")


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


def mount_table(proc: Path) -> list[Mount]:
    """The host's mounts, or this process's where PID 1 may not be looked at; empty without either."""
    for pid in ("1", "self"):
        try:
            text = (proc / pid / "mountinfo").read_text(errors="surrogateescape")
        except (PermissionError, FileNotFoundError):
            continue
        # A name may hold what splitlines() takes for the end of a line; only a real newline is escaped.
        return [parse_mount(line) for line in text.split("\n") if line]
    return []


def parse_mount(line: str) -> Mount:
    """One line of mountinfo; its path has blanks as octal escapes, its source may be empty."""
    left, right = line.split(" - ", 1)
    number, _, device, _, point, options = left.split(" ")[:6]
    filesystem, _, super_options = right.split(" ", 2)
    path = point.encode(errors="surrogateescape").decode("unicode_escape").encode("latin-1")
    return Mount(
        number=int(number),
        device=device,
        point=path.decode(errors="surrogateescape"),
        filesystem=filesystem,
        options=frozenset(options.split(",")),
        super_options=frozenset(super_options.split(",")),
    )


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount on which `path` lies: the longest mount point above it, the last of several at one point."""
    real = os.path.realpath(path)
    above = [m for m in mounts if real == m.point or real.startswith(m.point.rstrip("/") + "/")]
    return max(enumerate(above), key=lambda pair: (len(pair[1].point), pair[0]), default=(0, None))[1]

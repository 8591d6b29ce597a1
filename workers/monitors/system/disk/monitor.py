"""Whether file systems have room, can be written and are sound, and whether the disks below them answer in time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nodedoctor.duration import seconds
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation
from nodedoctor.types import Severity
from workers.monitors.system.disk import devices
from workers.monitors.system.disk.devices import SLOW, STALLED, Device, Limits, diskstats, whole_disk
from workers.monitors.system.disk.errors import COUNT, ERRORS, recorded
from workers.monitors.system.disk.forecast import History, Sample
from workers.monitors.system.disk.mounts import Mount, mount_of, node_mounts, node_path
from workers.monitors.system.disk.options import DiskOptions, DiskPath
from workers.monitors.system.disk.probe import READ_ONLY, WRITE_FAILED, probe
from workers.monitors.system.disk.space import FREE, INODES, INODES_LOW, SIZE, SPACE_LOW, USED, inodes, space

MISSING = ConditionType("DiskPathMissing", reason="NothingThere", ok_reason="RequiredPathsExist")
FILLING = ConditionType(
    "DiskFillingUp", reason="FullSoon", ok_reason="NotFullSoon", severity=Severity.WARNING
)
CLOSED = Gauge("disk_read_only", "1 if nothing can be written there, for whatever reason", ("path",))
FULL_IN = Gauge(
    "disk_full_in_seconds", "Time until it is full at its present pace; absent if it does not fill", ("path",)
)


class DiskMonitor(Monitor[DiskOptions]):
    """Compares space, inodes and the pace of filling with thresholds; finds what can't be written, erred, or hangs.

    Reads statvfs(3), the mount table of PID 1, which is the host's (proc_pid_mountinfo(5)), and the counters of block
    devices (https://docs.kernel.org/admin-guide/iostats.html). A file system that was read-only when it was first seen
    was meant so, unless the mount says otherwise; see `Mount.failed`. A path on a dead network mount, or the write
    probe on a frozen file system, blocks this process alone: its deadline passes and the supervisor replaces it.
    """

    kind, options_type = "disk-health-check", DiskOptions
    conditions = (SPACE_LOW, INODES_LOW, READ_ONLY, FILLING, ERRORS, STALLED, SLOW, MISSING, WRITE_FAILED)
    metrics = (SIZE, FREE, USED, INODES, CLOSED, FULL_IN, COUNT, *devices.METRICS)
    # A path may lie in a folder that is closed to everybody but its owner; the write probe writes there.
    capabilities = ("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE")
    interval = 60.0

    def __init__(
        self,
        name: str,
        options: DiskOptions,
        host: Host | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, options, host)
        self.clock = clock
        self.seen_open: set[tuple[int, str]] = set()
        self.histories: dict[str, History] = {}
        self.devices: dict[str, Device] = {}

    @classmethod
    def conditions_of(cls, name: str, options: DiskOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003 - any name
        """What depends on an option is only reported with it."""
        left_out = {
            MISSING: not any(disk.required for disk in options.paths),
            WRITE_FAILED: not any(disk.write_probe for disk in options.paths),
            FILLING: not options.forecast_hours,
        }
        return tuple(condition for condition in cls.conditions if not left_out.get(condition))

    @classmethod
    def capabilities_of(cls, options: DiskOptions) -> tuple[str, ...]:
        """Only the write probe writes."""
        return cls.capabilities if any(disk.write_probe for disk in options.paths) else cls.capabilities[:1]

    def check(self) -> Iterator[Observation]:
        """Look at each path and device. What is said of none of them, such as inodes on btrfs, is fine.

        The write probes come last: they may hang.
        """
        mounts = node_mounts(self.host)
        self.seen_open &= {(mount.number, mount.device) for mount in mounts}
        for condition in self.conditions_of(self.name, self.options):
            yield condition.when(False, "")
        below = set(self.options.devices)
        for disk in self.options.paths:
            yield from self.check_path(disk, mounts, below)
        yield from self.check_devices(below)
        for disk in self.options.paths:
            if disk.write_probe:
                yield from self.check_write(disk, mounts)

    def check_path(self, disk: DiskPath, mounts: list[Mount], below: set[str]) -> Iterator[Observation]:
        """Look at one path. One that can't be looked at is no reason to leave out the others."""
        try:
            filesystem = os.statvfs(self.host.path(disk.path))
            mount = mount_of(node_path(self.host, disk.path), mounts)
        except (FileNotFoundError, NotADirectoryError):
            if disk.required:
                yield MISSING.when(True, f"{disk.path} does not exist")
        except OSError as error:
            yield from self.unknown(disk, error)
        else:
            yield from space(disk, filesystem)
            yield from inodes(disk, filesystem)
            yield from self.check_mount(disk, mount)
            if self.options.forecast_hours:
                yield from self.check_pace(disk, filesystem)
            if mount:
                yield from self.check_below(disk, mount, below)

    def unknown(self, disk: DiskPath, error: OSError) -> Iterator[Observation]:
        """Nothing can be told of the path `disk`."""
        reason = "PermissionDenied" if isinstance(error, PermissionError) else "FilesystemDoesNotAnswer"
        of_paths = (SPACE_LOW, INODES_LOW, READ_ONLY, ERRORS, FILLING)
        for condition in self.conditions_of(self.name, self.options):
            if condition in of_paths:
                yield condition.unknown(f"{disk.path}: {error.strerror}", reason)

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

    def check_pace(self, disk: DiskPath, filesystem: os.statvfs_result) -> Iterator[Observation]:
        """Whether `disk` will be full soon, if it goes on as it did."""
        history = self.histories.setdefault(disk.path, History(seconds(self.options.forecast_window)))
        used = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize
        history.add(Sample(self.clock(), used), filesystem.f_blocks * filesystem.f_frsize)
        left, hours = history.full_in(filesystem.f_bavail * filesystem.f_frsize), self.options.forecast_hours
        if left is not None:
            yield FULL_IN(left, path=disk.path)
        text = f"{disk.path} will be full within {hours:g} h at the pace of the last {self.options.forecast_window}"
        yield FILLING.when(history.soon(left, hours * 3600), text)

    def check_below(self, disk: DiskPath, mount: Mount, below: set[str]) -> Iterator[Observation]:
        """What the file system has recorded; adds the device on which it lies to `below`, if none are configured."""
        number = block_device(self.host, mount)
        yield from recorded(disk.path, number, self.host.sys)
        if not self.options.devices and (name := whole_disk(number, self.host.sys)):
            below.add(name)

    def check_devices(self, names: set[str]) -> Iterator[Observation]:
        """Look at the devices called `names`."""
        options = self.options
        limits = Limits(seconds(options.stalled_for), seconds(options.slow_at), options.slow_requests)
        try:
            counts = diskstats(self.host.proc, self.clock()) if names else {}
        except FileNotFoundError:
            counts = {}
        self.devices = {name: device for name, device in self.devices.items() if name in counts}
        for name in sorted(names):
            if name in counts:
                yield from self.devices.setdefault(name, Device(name, limits)).look(counts[name])
            else:
                for condition in (STALLED, SLOW):
                    yield condition.unknown(f"{name} is not in /proc/diskstats", "NoSuchDevice")

    def check_write(self, disk: DiskPath, mounts: list[Mount]) -> Iterator[Observation]:
        """Write where `disk` is, if it is there."""
        try:
            folder = self.host.path(disk.path)
            mount = mount_of(node_path(self.host, disk.path), mounts)
            there = folder.exists()
        except OSError as error:
            yield WRITE_FAILED.unknown(f"{disk.path}: {error.strerror}", "NoProbe")
            return
        inside = self.host.root != Path("/")
        if there:
            yield from probe(disk.path, folder, hidden=inside and not (mount and mount.closed))


def block_device(host: Host, mount: Mount) -> str:
    """The major:minor of the block device of `mount`; btrfs has a number of its own and names the device as source."""
    if not mount.device.startswith("0:") or not mount.source.startswith("/dev/"):
        return mount.device
    try:
        number = (host.dev / mount.source.removeprefix("/dev/")).stat().st_rdev
    except OSError:
        return mount.device
    return f"{os.major(number)}:{os.minor(number)}"

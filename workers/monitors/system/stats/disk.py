"""What disks do, and how full the file systems on them are."""

from __future__ import annotations

import os
import time
from functools import partial

from nodedoctor.host import Host
from workers.monitors.system.stats.mounts import mounts, whole_disks
from workers.monitors.system.stats.source import Found, Source, Unreadable, counter, gauge, why

IO_TIME = counter("disk_io_time", "Time in which the device was busy, in milliseconds", "device_name")
WEIGHTED = counter("disk_weighted_io", "Time of all requests together, in milliseconds", "device_name")
QUEUE = gauge("disk_avg_queue_len", "Requests in flight, on average since the last check", "device_name")
ONE_WAY = ("device_name", "direction")
OPERATIONS = counter("disk_operation_count", "Reads and writes", *ONE_WAY)
MERGED = counter("disk_merged_operation_count", "Reads and writes that became part of another", *ONE_WAY)
TRANSFERRED = counter("disk_operation_bytes_count", "Bytes read and written", *ONE_WAY)
SPENT = counter("disk_operation_time", "Time of reads and writes, in milliseconds", *ONE_WAY)
BYTES = gauge(
    "disk_bytes_used",
    "Space of the file system on the device, in bytes; free is what users without privileges can have",
    *("device_name", "fs_type", "mount_option", "state"),
)
PERCENT = gauge("disk_percent_used", "Space in use as df(1) counts it, in percent", "device_name")
OF_ACTIVITY = (IO_TIME, WEIGHTED, QUEUE, OPERATIONS, MERGED, TRANSFERRED, SPENT)
OF_SPACE = (BYTES, PERCENT)
METRICS = (*OF_ACTIVITY, *OF_SPACE)
SECTOR = 512
"""Bytes, whatever the device's own sectors are."""


def sources(host: Host, *, whole: bool, attached: bool) -> tuple[Source, ...]:
    """What these metrics are read from; see Activity for the arguments."""
    activity = Activity(host, whole=whole, attached=attached)
    return (
        Source(host.proc / "diskstats", OF_ACTIVITY, activity.read),
        Source(host.proc / "self/mountinfo", OF_SPACE, partial(space, host)),
    )


class Activity:
    """Reads the counters of devices since boot.

    Source: https://docs.kernel.org/admin-guide/iostats.html. Times are counted in 32 bits: they begin anew after
    7 weeks.

    Args:
        host: The machine.
        whole: Tell of whole disks.
        attached: Tell of devices with mounted file systems. With neither, all devices are told of.
    """

    def __init__(self, host: Host, *, whole: bool, attached: bool) -> None:
        self.host = host
        self.whole = whole
        self.attached = attached
        self.before: dict[str, tuple[float, int]] = {}

    def read(self) -> Found:
        """The counters of each device."""
        wanted = self.wanted()
        lines = (self.host.proc / "diskstats").read_text().splitlines()
        now = time.monotonic()
        before, self.before = self.before, {}
        for _, _, device, *numbers in map(str.split, lines):
            if wanted is None or device in wanted:
                counts = [int(number) for number in numbers]
                self.before[device] = now, counts[10]
                yield from queue(device, before.get(device), self.before[device])
                yield from counters(device, counts)

    def wanted(self) -> set[str] | None:
        """The names of the devices to tell of; None: all."""
        if not (self.whole or self.attached):
            return None
        whole = whole_disks(self.host.sys) if self.whole else set()
        attached = {mount.device for mount in mounts(self.host)} if self.attached else set()
        return whole | attached


def queue(device: str, before: tuple[float, int] | None, now: tuple[float, int]) -> Found:
    """The requests in flight between two readings, each the time in seconds and the sum of all requests' in ms.

    None after the first reading, and after the sum began anew.
    """
    if before and now[0] > before[0] and now[1] >= before[1]:
        yield QUEUE((now[1] - before[1]) / (now[0] - before[0]) / 1000, device_name=device)


def counters(device: str, counts: list[int]) -> Found:
    """The counters of one device; `counts` are the numbers after its name."""
    yield IO_TIME(counts[9], device_name=device)
    yield WEIGHTED(counts[10], device_name=device)
    for direction, first in (("read", 0), ("write", 4)):
        operations, merged, sectors, milliseconds = counts[first : first + 4]
        yield OPERATIONS(operations, device_name=device, direction=direction)
        yield MERGED(merged, device_name=device, direction=direction)
        yield TRANSFERRED(sectors * SECTOR, device_name=device, direction=direction)
        yield SPENT(milliseconds, device_name=device, direction=direction)


def space(host: Host) -> Found:
    """The space on each device, once however often it is mounted; statvfs(3)."""
    told = set()
    for mount in mounts(host):
        if mount.device in told:
            continue
        try:
            filesystem = os.statvfs(mount.point)
        except FileNotFoundError:
            continue  # it was unmounted meanwhile
        except OSError as error:
            yield Unreadable(why(error, mount.point))
            continue
        told.add(mount.device)
        used = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize
        free = filesystem.f_bavail * filesystem.f_frsize
        for state, size in (("free", free), ("used", used)):
            labels = {"fs_type": mount.filesystem, "mount_option": mount.options, "state": state}
            yield BYTES(size, device_name=mount.device, **labels)
        yield PERCENT(100 * used / ((used + free) or 1), device_name=mount.device)

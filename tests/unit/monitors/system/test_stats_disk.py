"""The metrics of disks: real devices and file systems, and counters of machines that are odd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from nodedoctor.host import Host
from nodedoctor.types import Event
from workers.monitors.system.stats.disk import queue
from workers.monitors.system.stats.monitor import StatsMonitor
from workers.monitors.system.stats.mounts import mounts, whole_disks
from workers.monitors.system.stats.options import KNOWN, StatsOptions, original

ACTIVITY = ("disk/io_time", "disk/operation_count")
SPACE = ("disk/bytes_used", "disk/percent_used")


def watch(*names: str, host: Host | None = None, **more: bool) -> StatsMonitor:
    """A monitor of a few metrics of disks, under their own names."""
    section = {"metrics": {name: name for name in names}, **more}
    return StatsMonitor("stats", msgspec.convert({"disk": section}, StatsOptions), host)


def devices(seen: Any) -> set[str]:
    """The devices that a check told of."""
    return {metric.labels["device_name"] for metric in seen.metrics}


def listed_by(*command: str) -> set[str]:
    """The lines that a program writes."""
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def loop_below(point: Path) -> str:
    """The name of the device that is mounted at `point`."""
    (source,) = listed_by("findmnt", "-no", "SOURCE", str(point))
    return source.removeprefix("/dev/")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine without disks, to which the test may give some."""
    for folder in ("proc/1/root", "proc/self/root", "sys/block", "sys/dev/block", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/filesystems").write_text("nodev\tsysfs\nnodev\ttmpfs\n\text4\n\tbtrfs\nnodev\tzfs\n")
    (tmp_path / "proc/diskstats").write_text("")
    return Host(proc=tmp_path / "proc", sys=tmp_path / "sys", dev=tmp_path / "dev")


def set_counters(host: Host, **numbers: str) -> None:
    """Give `host` devices with the numbers that stand after their names in /proc/diskstats."""
    lines = (f"   8       0 {name} {counts}\n" for name, counts in numbers.items())
    (host.proc / "diskstats").write_text("".join(lines))


def set_mounts(host: Host, *lines: str, pid: str = "1") -> None:
    """Give `host` a mount table of `number point filesystem source`."""
    fields = [line.split(" ") for line in lines]
    text = "".join(
        f"9 1 {n} / {point} rw,noatime - {kind} {source} rw\n" for n, point, kind, source in fields
    )
    (host.proc / pid / "mountinfo").write_text(text, errors="surrogateescape")


def test_whole_disks_are_those_that_lsblk_lists(
    ext4: Callable[..., Path], eventually: Callable[..., None]
) -> None:
    assert loop_below(ext4()) in whole_disks(Path("/sys"))
    eventually(lambda: whole_disks(Path("/sys")) == listed_by("lsblk", "-dno", "NAME"))


def test_what_is_part_of_another_or_made_of_others_is_no_whole_disk(host: Host) -> None:
    for name, number, size in (
        ("sda", "8:0", "100"),
        ("cciss!c0d0", "104:0", "100"),
        ("dm-0", "253:0", "100"),
        ("ram0", "1:0", "100"),
        ("loop0", "7:0", "0"),
        ("nvme0c0n1", "259:0", "100"),
    ):
        folder = host.sys / "block" / name
        (folder / "slaves").mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        (folder / "size").write_text(f"{size}\n")
    (host.sys / "block/sda/sda1").mkdir()
    (host.sys / "block/dm-0/slaves/sda").mkdir()
    (host.sys / "block/nvme0c0n1/hidden").write_text("1\n")
    assert whole_disks(host.sys) == {"sda", "cciss/c0d0"}


def test_activity_is_told_of_the_devices_that_are_chosen_else_of_all(
    ext4: Callable[..., Path], look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    """Others may attach and detach devices meanwhile."""
    loop = loop_below(ext4())
    root, attached = {"includeRootBlockDevices": True}, {"includeAllAttachedBlockDevices": True}

    def every() -> set[str]:
        return listed_by("awk", "{print $3}", "/proc/diskstats")

    def whole() -> set[str]:
        return listed_by("lsblk", "-dno", "NAME")

    def in_use() -> set[str]:
        return every() & {source.removeprefix("/dev/") for source in listed_by("findmnt", "-no", "SOURCE")}

    assert loop in in_use()
    eventually(lambda: devices(look(watch(*ACTIVITY))) == every())
    eventually(lambda: devices(look(watch(*ACTIVITY, **root))) == whole())
    eventually(lambda: devices(look(watch(*ACTIVITY, **attached))) == in_use())
    eventually(lambda: devices(look(watch(*ACTIVITY, **root, **attached))) == whole() | in_use())


def test_what_is_read_and_written_is_counted_once(
    ext4: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = ext4()
    loop = loop_below(point)
    monitor = watch(*(original(gauge) for gauge in KNOWN["disk"]))
    look(monitor)
    before = psutil.disk_io_counters(perdisk=True)[loop]
    (point / "file").write_bytes(b"x" * (1 << 20))
    os.sync()
    seen = look(monitor)
    after = psutil.disk_io_counters(perdisk=True)[loop]
    named = {
        ("disk_operation_count", "read"): "read_count",
        ("disk_operation_count", "write"): "write_count",
        ("disk_merged_operation_count", "read"): "read_merged_count",
        ("disk_merged_operation_count", "write"): "write_merged_count",
        ("disk_operation_bytes_count", "read"): "read_bytes",
        ("disk_operation_bytes_count", "write"): "write_bytes",
        ("disk_operation_time", "read"): "read_time",
        ("disk_operation_time", "write"): "write_time",
    }
    for (name, direction), field in named.items():
        value = seen.metric(name, device_name=loop, direction=direction)
        assert getattr(before, field) <= value <= getattr(after, field)
    written = seen.metric("disk_operation_bytes_count", device_name=loop, direction="write")
    assert written >= before.write_bytes + (1 << 20)
    assert before.busy_time <= seen.metric("disk_io_time", device_name=loop) <= after.busy_time
    assert seen.metric("disk_avg_queue_len", device_name=loop) >= 0


def test_each_column_of_a_device_is_told_under_its_name(host: Host, look: Callable[..., Any]) -> None:
    set_counters(host, sda="1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17")
    seen = look(watch(*(original(gauge) for gauge in KNOWN["disk"]), host=host))
    one_way = {(m.name, m.labels["direction"]): m.value for m in seen.metrics if "direction" in m.labels}
    assert one_way == {
        ("disk_operation_count", "read"): 1,
        ("disk_merged_operation_count", "read"): 2,
        ("disk_operation_bytes_count", "read"): 3 * 512,
        ("disk_operation_time", "read"): 4,
        ("disk_operation_count", "write"): 5,
        ("disk_merged_operation_count", "write"): 6,
        ("disk_operation_bytes_count", "write"): 7 * 512,
        ("disk_operation_time", "write"): 8,
    }
    assert seen.metric("disk_io_time", device_name="sda") == 10
    assert seen.metric("disk_weighted_io", device_name="sda") == 11


def test_the_queue_is_told_from_the_second_check_on_of_what_happened_in_between(
    host: Host, look: Callable[..., Any]
) -> None:
    monitor = watch("disk/avg_queue_len", host=host)
    set_counters(host, sda="0 0 0 0 0 0 0 0 0 0 5000")
    began = time.monotonic()
    assert look(monitor).metrics == []
    checked = time.monotonic()
    time.sleep(0.05)
    set_counters(host, sda="0 0 0 0 0 0 0 0 0 0 6000", sdb="0 0 0 0 0 0 0 0 0 0 700")
    shortest = time.monotonic() - checked
    (metric,) = look(monitor).metrics
    longest = time.monotonic() - began
    assert metric.labels == {"device_name": "sda"}
    assert 1 / longest <= metric.value <= 1 / shortest


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(None, (10.0, 100), [], id="the first reading"),
        pytest.param((10.0, 100), (20.0, 100), [0], id="nothing happened"),
        pytest.param((10.0, 100), (20.0, 5100), [0.5], id="a request half of the time"),
        pytest.param((10.0, 100), (20.0, 40100), [4], id="four requests all the time"),
        pytest.param((10.0, 100), (20.0, 99), [], id="the sum began anew"),
        pytest.param((10.0, 100), (10.0, 100), [], id="no time passed"),
    ],
)
def test_the_queue_is_the_time_of_all_requests_divided_by_the_time_that_passed(
    before: tuple[float, int] | None, now: tuple[float, int], expected: list[float]
) -> None:
    assert [metric.value for metric in queue("sda", before, now)] == expected


def test_space_is_what_df_says(ext4: Callable[..., Path], look: Callable[..., Any]) -> None:
    point = ext4("-m", "20")
    (point / "file").write_bytes(b"x" * (4 << 20))
    os.sync()
    loop = loop_below(point)
    seen = look(watch(*SPACE))
    columns = ("df", "--block-size=1", "--output=used,avail,pcent", str(point))
    used, free, percent = subprocess.run(columns, check=True, capture_output=True, text=True).stdout.split()[
        -3:
    ]
    (option,) = listed_by("findmnt", "-no", "VFS-OPTIONS", str(point))
    labels = {"device_name": loop, "fs_type": "ext4", "mount_option": option}
    assert seen.metric("disk_bytes_used", **labels, state="used") == int(used)
    assert seen.metric("disk_bytes_used", **labels, state="free") == int(free)
    share = seen.metric("disk_percent_used", device_name=loop)
    assert share == pytest.approx(100 * int(used) / (int(used) + int(free)))
    assert share == pytest.approx(int(percent.rstrip("%")), abs=1)


def test_space_is_told_once_for_a_device_that_is_mounted_twice(
    ext4: Callable[..., Path], mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = ext4()
    mounted("--bind", point)
    loop = loop_below(point)
    seen = look(watch("disk/percent_used"))
    assert [metric.labels for metric in seen.metrics].count({"device_name": loop}) == 1


def test_a_mount_that_lies_under_another_is_not_told_with_the_figures_of_that(
    ext4: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    point = ext4()
    loop = loop_below(point)
    run("mount", "-t", "tmpfs", "tmpfs", point)
    try:
        assert loop not in devices(look(watch(*SPACE)))
    finally:
        run("umount", point)
    assert loop in devices(look(watch(*SPACE)))


def test_a_device_that_is_not_in_sysfs_is_called_by_its_source(host: Host) -> None:
    (host.sys / "devices/sda1").mkdir(parents=True)
    (host.sys / "dev/block/8:1").symlink_to(host.sys / "devices/sda1")
    (host.dev / "dm-3").touch()
    (host.dev / "mapper").mkdir()
    (host.dev / "mapper/data").symlink_to("../dm-3")
    set_mounts(
        host,
        "8:1 / ext4 /dev/root",
        "0:31 /data btrfs /dev/mapper/data",
        "0:32 /other btrfs /dev/sdb",
        "0:33 /pool zfs tank/a\\040b",
        "0:34 /tmp tmpfs tmpfs",
        "0:35 /odd btrfs odd\udcff",
    )
    found = {mount.device: mount for mount in mounts(host)}
    assert list(found) == ["sda1", "dm-3", "sdb", "tank/a b", "odd\\xff"]
    assert found["dm-3"].point == host.proc / "1/root/data"


def test_the_own_mounts_serve_where_the_root_of_pid_1_can_not_be_entered(
    host: Host, look: Callable[..., Any]
) -> None:
    set_mounts(host, "0:31 /inside btrfs /dev/sda", pid="1")
    set_mounts(host, "0:31 /host/inside btrfs /dev/sdb", pid="self")
    (host.proc / "1/root/inside").mkdir(parents=True)
    (host.proc / "self/root/host/inside").mkdir(parents=True)
    monitor = watch(*SPACE, host=host)
    assert devices(look(monitor)) == {"sda"}
    (host.proc / "1/root/inside").rmdir()
    (host.proc / "1/root").rmdir()
    assert devices(look(monitor)) == {"sdb"}


ALONE = """
import json, msgspec
from pathlib import Path
from workers.privileges import keep_capabilities
from workers.monitors.system.stats.monitor import StatsMonitor, StatsOptions

keep_capabilities(StatsMonitor.capabilities)
try:
    Path("/proc/1/root").stat()
except PermissionError:
    names = {name: name for name in ("disk/percent_used", "disk/io_time")}
    section = {"metrics": names, "includeAllAttachedBlockDevices": True}
    monitor = StatsMonitor("stats", msgspec.convert({"disk": section}, StatsOptions))
    print(json.dumps([(found.name, found.labels["device_name"]) for found in monitor.check()]))
"""


def test_a_process_with_the_capabilities_of_a_worker_finds_the_disks(ext4: Callable[..., Path]) -> None:
    loop = loop_below(ext4())
    alone = subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True, text=True)
    found = json.loads(alone.stdout)
    assert ["disk_percent_used", loop] in found
    assert ["disk_io_time", loop] in found


def test_a_file_system_that_does_not_answer_is_said_once_and_the_others_are_told(
    host: Host, dead_mount: Path, look: Callable[..., Any]
) -> None:
    (host.proc / "1/root").rmdir()
    (host.proc / "1/root").symlink_to("/")
    set_mounts(
        host, f"0:31 {dead_mount} btrfs /dev/sda", "0:32 /nonexistent btrfs /dev/sdc", "0:33 / btrfs /dev/sdb"
    )
    monitor = watch(*SPACE, host=host)
    told = [found.message for found in monitor.check() if isinstance(found, Event)]
    point = f"{host.proc}/1/root{dead_mount}"
    assert told == [f"{point} can't be read: Transport endpoint is not connected"]
    assert devices(look(monitor)) == {"sdb"}
    assert not [found for found in monitor.check() if isinstance(found, Event)]


@pytest.mark.parametrize("gone", ["proc/diskstats", "sys/block", "proc/filesystems"])
def test_without_one_source_the_other_is_told(host: Host, look: Callable[..., Any], gone: str) -> None:
    set_counters(host, sda="1 2 3 4 5 6 7 8 9 10 11")
    set_mounts(host, "0:33 / btrfs /dev/sdb")
    path = host.proc.parent / gone
    path.rename(path.with_name("away"))
    monitor = watch(*ACTIVITY, *SPACE, host=host, includeRootBlockDevices=gone == "sys/block")
    told = [found.message for found in monitor.check() if isinstance(found, Event)]
    assert told == [f"{path} can't be read: No such file or directory"]
    assert devices(look(monitor)) == ({"sda"} if gone == "proc/filesystems" else {"sdb"})

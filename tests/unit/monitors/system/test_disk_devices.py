"""Block devices that hang, are slow, and are told from each other; the rules behind as tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.host import Host
from workers.monitors.system.disk.devices import diskstats, whole_disk
from workers.monitors.system.disk.monitor import DiskMonitor, block_device
from workers.monitors.system.disk.mounts import mount_table, parse_mount
from workers.monitors.system.disk.options import DiskOptions, DiskPath

MACHINES = Path(__file__).parents[3] / "proc"
BLKIO = Path("/sys/fs/cgroup/blkio")


class Bench:
    """A machine with one disk, whose counters and clock the test sets."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.proc, self.now = folder, 0.0
        asked = DiskOptions(paths=(DiskPath("/nonexistent"),), devices=("vda",), **options)
        self.monitor = DiskMonitor("disk", asked, Host(proc=folder), lambda: self.now)

    def at(self, now: float, writes: int, spent: int, in_flight: int) -> DiskMonitor:
        """The counters at `now`: writes completed, the milliseconds they took, and those under way."""
        self.now = now
        numbers = [
            9,
            0,
            80,
            5,
            writes,
            0,
            writes * 8,
            spent,
            in_flight,
            int(now * 500),
            spent,
            0,
            0,
            0,
            0,
            3,
            6,
        ]
        (self.proc / "diskstats").write_text(f" 254 0 vda {' '.join(map(str, numbers))}\n")
        return self.monitor


def test_a_device_that_completes_nothing_has_stalled_until_it_does(
    tmp_path: Path, look: Callable[..., Any]
) -> None:
    bench = Bench(tmp_path)
    assert look(bench.at(0, 100, 500, 0))["DiskStalled"] == "False"
    assert look(bench.at(60, 100, 500, 2))["DiskStalled"] == "False", "they may have come just now"
    verdict = look(bench.at(120, 100, 500, 2)).verdicts["DiskStalled"]
    assert (verdict.status, verdict.message) == ("True", "vda has requests and has completed none for 30 s")
    assert look(bench.at(180, 102, 300_000, 0))["DiskStalled"] == "False"


@pytest.mark.parametrize(
    ("writes", "spent", "expected"),
    [
        pytest.param(50, 40_000, "True", id="800 ms each"),
        pytest.param(50, 5_000, "False", id="100 ms each"),
        pytest.param(5, 40_000, "False", id="too few to tell"),
        pytest.param(50, -4_000_000_000, "False", id="the time began anew"),
    ],
)
def test_a_device_is_slow_if_many_requests_take_long(
    writes: int, spent: int, expected: str, tmp_path: Path, look: Callable[..., Any]
) -> None:
    bench = Bench(tmp_path)
    look(bench.at(0, 100, 4_000_000_100, 0))
    seen = look(bench.at(60, 100 + writes, 4_000_000_100 + spent, 0))
    assert seen["DiskSlow"] == expected
    assert (seen.metric("disk_wait_seconds", device="vda", operation="write") is None) is (spent < 0)
    assert seen.metric("disk_utilisation_ratio", device="vda") == pytest.approx(0.5)
    assert seen.metric("disk_written_bytes_total", device="vda") == (100 + writes) * 8 * 512
    assert look(bench.at(120, 200 + writes, 4_000_000_200 + spent, 0))["DiskSlow"] == "False"


def test_a_device_that_is_not_there_is_unknown(tmp_path: Path, look: Callable[..., Any]) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "diskstats").write_text("")
    assert (look(bench.monitor)["DiskStalled"], look(bench.monitor)["DiskSlow"]) == ("Unknown", "Unknown")


def test_the_counters_of_a_real_machine_are_read() -> None:
    counts = diskstats(MACHINES / "virtio-6.18", 0)["vda"]
    assert len(counts.completed) == 4
    assert counts.completed[0] > 0


def test_a_partition_is_on_its_disk_and_a_mapped_device_is_its_own(tmp_path: Path) -> None:
    for device, block in (("8:1", "sda/sda1"), ("253:0", "dm-0")):
        (tmp_path / "devices" / block).mkdir(parents=True)
        (tmp_path / "dev/block").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev/block" / device).symlink_to(tmp_path / "devices" / block)
    (tmp_path / "devices/sda/sda1/partition").write_text("1\n")
    found = [whole_disk(device, tmp_path) for device in ("8:1", "253:0", "0:40")]
    assert found == ["sda", "dm-0", None]


@pytest.fixture
def slowed() -> Iterator[Callable[[Path], None]]:
    """Lets this process write twice a second to the disk on which a file is; blkio of cgroup version 1."""
    folder = BLKIO / f"node-doctor-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no blkio: {error}")

    def slow(file: Path) -> None:
        device = file.stat().st_dev
        limit = f"{os.major(device)}:{os.minor(device)} 2"
        (folder / "blkio.throttle.write_iops_device").write_text(limit)
        (folder / "cgroup.procs").write_text(str(os.getpid()))

    yield slow
    (BLKIO / "cgroup.procs").write_text(str(os.getpid()))
    folder.rmdir()


def write(point: Path, times: int) -> None:
    """Write to the device and not only to memory, so many times."""
    descriptor = os.open(point / "file", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    for _ in range(times):
        os.pwrite(descriptor, bytes(4096), 0)
    os.close(descriptor)


def test_a_real_device_below_which_everything_waits_is_slow_until_it_does_not(
    ext4: Callable[..., Path],
    run: Callable[..., None],
    look: Callable[..., Any],
    slowed: Callable[[Path], None],
) -> None:
    point = ext4()
    device = next(m.device for m in mount_table(Path("/proc")) if m.point == str(point))
    name = whole_disk(device, Path("/sys")) or ""
    run("losetup", "--direct-io=on", f"/dev/{name}")
    options = DiskOptions(paths=(DiskPath(str(point)),), slow_at="100ms", slow_requests=4)
    monitor = DiskMonitor("disk", options)
    write(point, 4)
    before = look(monitor)
    assert before["DiskSlow"] == "False"
    slowed(point.parent)
    write(point, 4)
    seen = look(monitor)
    assert (seen["DiskSlow"], seen.verdicts["DiskSlow"].severity) == ("True", "warning")
    assert name in seen.verdicts["DiskSlow"].message
    assert seen.metric("disk_wait_seconds", device=name, operation="write") > 0.1
    series = {"name": "disk_written_bytes_total", "device": name}
    assert seen.metric(**series) >= before.metric(**series) + 4 * 4096
    (BLKIO / "cgroup.procs").write_text(str(os.getpid()))
    write(point, 4)
    assert look(monitor)["DiskSlow"] == "False"


def test_btrfs_lies_on_the_device_that_it_names_as_its_source(tmp_path: Path) -> None:
    (tmp_path / "vda2").symlink_to("/dev/loop0")
    mount = parse_mount("30 1 0:33 /sub / rw - btrfs /dev/vda2 rw")
    found = [block_device(Host(dev=dev), mount) for dev in (tmp_path, tmp_path / "none")]
    assert found == ["7:0", "0:33"]


def test_configured_devices_take_the_place_of_those_below_the_paths(
    ext4: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = ext4()
    monitor = DiskMonitor("disk", DiskOptions(paths=(DiskPath(str(point)),), devices=("loop7",)))
    look(monitor)
    assert set(monitor.devices) == {"loop7"}

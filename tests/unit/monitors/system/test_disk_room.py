"""Disks that fill, refuse writes or have erred, and what a container sees of them."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.host import Host
from workers.monitors.system.disk.forecast import MOST, History, Sample, pace
from workers.monitors.system.disk.monitor import DiskMonitor
from workers.monitors.system.disk.mounts import mount_table
from workers.monitors.system.disk.options import DiskOptions, DiskPath
from workers.monitors.system.disk.probe import refusal


def probing(point: Path) -> DiskMonitor:
    """A monitor that writes at `point`."""
    return DiskMonitor("disk", DiskOptions(paths=(DiskPath(str(point), write_probe=True),)))


@pytest.mark.parametrize(
    ("used", "filling"),
    [
        pytest.param(lambda n: 1000.0 + 7 * n, True, id="steadily"),
        pytest.param(lambda n: 1000.0 + 7 * n + (90 if n == 30 else 0), True, id="with one outlier"),
        pytest.param(lambda n: 1000.0 + 100 * (n % 15), False, id="a log and its rotation"),
        pytest.param(lambda n: 1000.0 + 100 * (n % 15) + 200 * n, True, id="a log, and something that grows"),
        pytest.param(lambda _: 1000.0, False, id="not at all"),
        pytest.param(lambda n: 9000.0 - 7 * n, False, id="being emptied"),
    ],
)
def test_a_pace_is_what_stays_when_the_ups_and_downs_are_gone(
    used: Callable[[int], float], filling: bool
) -> None:
    assert (pace([Sample(60.0 * n, used(n)) for n in range(60)]) > 0) is filling


def test_a_file_system_that_a_writer_fills_slowly_is_warned_of_until_it_stops(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs")
    now = itertools.count(0, 60)
    monitor = DiskMonitor("disk", DiskOptions(paths=(DiskPath(str(point)),)), None, lambda: next(now) / 2)
    with (point / "log").open("ab", buffering=0) as file:
        for number in range(40):
            seen = look(monitor)
            assert number > 14 or seen["DiskFillingUp"] == "False", "too early to tell"
            file.write(bytes(65536))
    verdict = look(monitor).verdicts["DiskFillingUp"]
    assert (verdict.status, verdict.severity) == ("True", "warning")
    assert verdict.message == f"{point} will be full within 4 h at the pace of the last 1h"
    assert 0 < look(monitor).metric("disk_full_in_seconds", path=str(point)) < 4 * 3600
    for _ in range(130):
        seen = look(monitor)
    assert seen["DiskFillingUp"] == "False"
    assert seen.metric("disk_full_in_seconds", path=str(point)) is None


def test_without_hours_nothing_is_forecast(look: Callable[..., Any]) -> None:
    assert "DiskFillingUp" not in look(DiskMonitor("disk", DiskOptions(forecast_hours=0))).verdicts


def test_a_recorded_error_is_told_until_the_file_system_was_checked(
    ext4: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    point = ext4()
    monitor = DiskMonitor("disk", DiskOptions(paths=(DiskPath(str(point)),)))
    assert look(monitor)["FilesystemErrors"] == "False"
    device = next(m for m in mount_table(Path("/proc")) if m.point == str(point)).device
    name = (Path("/sys/dev/block") / device).resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")
    seen = look(monitor)
    assert (seen["FilesystemErrors"], seen.verdicts["FilesystemErrors"].severity) == ("True", "warning")
    assert str(point) in seen.verdicts["FilesystemErrors"].message
    assert seen.metric("disk_filesystem_errors", path=str(point)) >= 1
    run("umount", point)
    subprocess.run(["e2fsck", "-fy", point.parent / "ext4.img"], capture_output=True, check=False)
    run("mount", "-o", "loop", point.parent / "ext4.img", point)
    assert look(monitor)["FilesystemErrors"] == "False"


def test_a_write_that_finds_no_space_says_so_and_leaves_nothing_behind(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    monitor = probing(point)
    assert (look(monitor)["DiskWriteFailed"], list(point.iterdir())) == ("False", [])
    (point / "big").write_bytes(bytes(1 << 20))
    assert (
        f"{point} refuses a write: No space left on device" in look(monitor).verdicts["DiskSpaceLow"].message
    )
    (point / "big").unlink()
    assert look(monitor)["DiskSpaceLow"] == "False"


def test_a_write_that_finds_no_inode_says_so(mounted: Callable[..., Path], look: Callable[..., Any]) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=1m,nr_inodes=3", "tmpfs")
    monitor = probing(point)
    for name in "ab":
        (point / name).touch()
    seen = look(monitor)
    assert (seen["DiskInodesLow"], seen["DiskSpaceLow"]) == ("True", "False")
    assert "refuses a write" in seen.verdicts["DiskInodesLow"].message


def test_a_write_to_what_is_read_only_says_so_until_it_is_writable(
    mounted: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "ro", "tmpfs")
    monitor = probing(point)
    assert look(monitor)["DiskReadOnly"] == "True"
    run("mount", "-o", "remount,rw", point)
    assert look(monitor)["DiskReadOnly"] == "False"


@pytest.mark.parametrize(
    ("number", "condition", "reason"),
    [
        pytest.param(errno.EIO, "DiskWriteFailed", "InputOutputError", id="a dead disk"),
        pytest.param(errno.ENOTCONN, "DiskWriteFailed", "WriteFailed", id="a dead mount"),
        pytest.param(errno.EDQUOT, "DiskSpaceLow", "QuotaExhausted", id="a quota"),
        pytest.param(errno.EROFS, "DiskReadOnly", "FilesystemIsReadOnly", id="read-only"),
    ],
)
def test_what_a_write_is_refused_for_decides_the_condition(
    number: int, condition: str, reason: str, tmp_path: Path
) -> None:
    finding = refusal("/data", tmp_path, OSError(number, os.strerror(number)), hidden=False)
    assert (finding.type, finding.bad, finding.reason) == (condition, True, reason)
    assert finding.message == f"/data refuses a write: {os.strerror(number)}"


@pytest.mark.usefixtures("as_nobody")
def test_a_folder_where_it_may_not_write_is_unknown(look: Callable[..., Any]) -> None:
    assert look(probing(Path("/etc")))["DiskWriteFailed"] == "Unknown"


INSIDE = """
import sys
from pathlib import Path
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.types import Metric
from workers.monitors.system.disk.monitor import DiskMonitor
from workers.monitors.system.disk.options import DiskOptions, DiskPath
host = Host(root=Path(sys.argv[2]))
monitor = DiskMonitor("d", DiskOptions(paths=(DiskPath(sys.argv[1], write_probe=True), DiskPath("/"))), host)
for item in monitor.check():
    if isinstance(item, Finding) and item.bad is not False:
        print(item.type, item.bad, item.message)
    if isinstance(item, Metric) and item.name in {"disk_size_bytes", "disk_read_only"}:
        print(item.name, item.labels["path"], int(item.value))
"""


@pytest.mark.parametrize(
    "namespaces",
    [
        pytest.param(("--mount",), id="it sees the node's processes"),
        pytest.param(("--mount", "--pid", "--fork", "--mount-proc"), id="it sees its own processes alone"),
    ],
)
def test_a_container_tells_of_the_node_and_not_of_itself(
    namespaces: tuple[str, ...], mounted: Callable[..., Path], tmp_path: Path
) -> None:
    """A read-only bind mount of the host was reported as a read-only file system, the overlay as the node's root."""
    point, host, script = (
        mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs"),
        tmp_path / "host",
        tmp_path / "inside",
    )
    script.write_text(INSIDE)
    host.mkdir()
    arranged = f"""
        set -e
        mount --make-rprivate /
        mount --rbind / {host}
        mount -o remount,bind,ro {host}
        mount -o remount,bind,ro {host}{point}
        mount -t tmpfs -o size=1m,ro own {point}
        exec {sys.executable} {script} {point} {host}
    """
    done = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", arranged], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"disk_size_bytes {point} {4 << 20}" in lines
    assert f"disk_read_only {point} 0" in lines
    assert "disk_read_only / 0" in lines
    problems = [line for line in lines if not line.startswith("disk_")]
    assert problems == [
        f"DiskWriteFailed None {point} is mounted read-only into the agent's container; writeProbe needs it writable"
    ]


def test_a_container_without_any_table_does_not_know_what_can_be_written(
    tmp_path: Path, look: Callable[..., Any]
) -> None:
    host = Host(root=tmp_path, proc=tmp_path / "proc")
    assert look(DiskMonitor("disk", DiskOptions(), host))["DiskReadOnly"] == "Unknown"


def filled(history: History, size: float = 1e9) -> History:
    """`history` after an hour in which a byte was written each second."""
    for minute in range(61):
        history.add(Sample(60.0 * minute, 60.0 * minute), size)
    return history


def test_a_warning_does_not_come_and_go_at_the_limit() -> None:
    history = filled(History(3600))
    assert history.full_in(7200) == pytest.approx(7200)
    assert [history.soon(left, 7200) for left in (7201, 7200, 8000, 9001, 8000, None)] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_file_system_that_was_resized_begins_anew() -> None:
    history = filled(History(3600))
    history.add(Sample(3660, 3660), 2e9)
    assert history.full_in(7200) is None


def test_the_samples_that_are_kept_are_bounded() -> None:
    history = History(3600)
    for second in range(10_000):
        history.add(Sample(float(second), 0.0), 1e9)
    assert len(history.samples) <= MOST
    assert history.samples[0].at >= 9_999 - 3600


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param({"forecast_window": "0s"}, ["forecastWindow"], id="no window"),
        pytest.param({"stalled_for": "0s", "slow_at": "0s"}, ["stalledFor", "slowAt"], id="no time"),
        pytest.param({"devices": ("vda", "/dev/vda")}, ["devices[1]"], id="a path for a name"),
    ],
)
def test_limits_that_can_never_be_right_are_faults(options: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in DiskOptions(**options).faults()] == paths


def test_only_the_write_probe_may_write_anywhere() -> None:
    assert DiskMonitor.capabilities_of(DiskOptions()) == ("CAP_DAC_READ_SEARCH",)
    asked = DiskOptions(paths=(DiskPath("/", write_probe=True),))
    assert DiskMonitor.capabilities_of(asked) == ("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE")

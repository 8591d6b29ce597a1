"""The disk monitor: file systems that are really full, closed, broken and dead, and the rules behind as tables."""

from __future__ import annotations

import errno
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.host import Host
from workers.monitors.system.disk.monitor import DiskMonitor
from workers.monitors.system.disk.mounts import Mount, mount_of, mount_table, node_mounts, parse_mount
from workers.monitors.system.disk.options import DiskOptions, DiskPath
from workers.monitors.system.disk.space import used_percent

FILLING = "filling"


def watch(*paths: str | Path | DiskPath, host: Host | None = None) -> DiskMonitor:
    """A monitor of `paths`."""
    disks = tuple(path if isinstance(path, DiskPath) else DiskPath(str(path)) for path in paths)
    return DiskMonitor("disk", DiskOptions(paths=disks), host)


def fill(folder: Path, size: int) -> None:
    """Write `size` bytes into `folder`, or as much as there is room for."""
    with (folder / FILLING).open("wb", buffering=0) as file:
        try:
            while size > 0:
                size -= file.write(bytes(min(size, 65536)))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def filesystem(blocks: int, free: int, available: int) -> os.statvfs_result:
    """What statvfs(3) tells of a file system with so many blocks; `available` is `free` without root's reserve."""
    return os.statvfs_result((4096, 4096, blocks, free, available, 100, 50, 50, 0, 255))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(filesystem(1000, 1000, 1000), 0, id="empty"),
        pytest.param(filesystem(1000, 1000, 950), 0, id="empty, with root's reserve"),
        pytest.param(filesystem(1000, 525, 475), 50, id="half of what users can have"),
        pytest.param(filesystem(1000, 50, 0), 100, id="only root's reserve is left"),
        pytest.param(filesystem(1000, 0, 0), 100, id="nothing is left"),
        pytest.param(filesystem(0, 0, 0), 0, id="a file system without a size, such as proc"),
    ],
)
def test_the_used_share_leaves_out_what_root_has_reserved(status: os.statvfs_result, expected: float) -> None:
    assert used_percent(status) == expected


def test_the_used_share_is_the_one_that_df_shows() -> None:
    shown = subprocess.run(["df", "--output=pcent", "/"], check=True, capture_output=True, text=True).stdout
    assert abs(math.ceil(used_percent(os.statvfs("/"))) - int(shown.split()[1].rstrip("%"))) <= 1


def test_the_real_machine_tells_all_it_has(look: Callable[..., Any]) -> None:
    seen = look(watch("/"))
    status = os.statvfs("/")
    assert seen.metric("disk_size_bytes", path="/") == status.f_blocks * status.f_frsize
    assert 0 < seen.metric("disk_free_bytes", path="/") < seen.metric("disk_size_bytes", path="/")
    assert 0 < seen.metric("disk_used_ratio", path="/") < 1
    assert seen.metric("disk_read_only", path="/") == 0
    assert (seen["DiskReadOnly"], set(seen.verdicts)) == (
        "False",
        {
            "DiskSpaceLow",
            "DiskInodesLow",
            "DiskReadOnly",
            "DiskFillingUp",
            "FilesystemErrors",
            "DiskStalled",
            "DiskSlow",
        },
    )


def test_a_file_system_that_is_really_full_is_a_problem_until_something_is_deleted(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    monitor = watch(point)
    assert look(monitor)["DiskSpaceLow"] == "False"
    fill(point, 5 << 20)
    verdict = look(monitor).verdicts["DiskSpaceLow"]
    assert (verdict.status, verdict.message) == ("True", f"{point} is fuller than 95 %")
    (point / FILLING).unlink()
    assert look(monitor)["DiskSpaceLow"] == "False"


def test_a_file_system_that_fills_up_is_a_warning_first(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    fill(point, int((4 << 20) * 0.9))
    seen = look(watch(point))
    verdict = seen.verdicts["DiskSpaceLow"]
    assert (verdict.status, verdict.reason, verdict.severity) == ("False", "DiskFillingUp", "warning")
    assert verdict.message == f"{point} is fuller than 85 %"
    assert seen.metric("disk_used_ratio", path=str(point)) == pytest.approx(0.9, abs=0.01)


def test_space_that_only_root_may_use_is_not_in_use_and_not_to_be_had(
    ext4: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = ext4("-m", "50")
    monitor = watch(point)
    assert look(monitor).metric("disk_used_ratio", path=str(point)) < 0.05
    status = os.statvfs(point)
    fill(point, status.f_bavail * status.f_frsize)
    assert os.statvfs(point).f_bfree > status.f_blocks * 0.3
    assert look(monitor)["DiskSpaceLow"] == "True"


def test_a_file_system_without_inodes_is_a_problem_although_it_has_space(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "size=4m,nr_inodes=64", "tmpfs")
    monitor = watch(point)
    assert look(monitor)["DiskInodesLow"] == "False"
    files = [point / str(number) for number in range(63)]
    for file in files:
        file.touch()
    with pytest.raises(OSError, match="No space left on device"):
        (point / "one more").touch()
    seen = look(monitor)
    assert (seen["DiskInodesLow"], seen["DiskSpaceLow"]) == ("True", "False")
    assert seen.verdicts["DiskInodesLow"].message == f"more than 95 % of the inodes of {point} are used"
    assert seen.metric("disk_inodes_used_ratio", path=str(point)) == 1
    for file in files[:5]:
        file.unlink()
    verdict = look(monitor).verdicts["DiskInodesLow"]
    assert (verdict.status, verdict.reason) == ("False", "InodesRunningOut")


def test_inodes_of_a_file_system_that_has_few_run_out_before_its_space(
    ext4: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = ext4("-N", "32")
    monitor = watch(point)
    assert look(monitor)["DiskInodesLow"] == "False"
    files = [point / str(number) for number in range(os.statvfs(point).f_ffree)]
    for file in files:
        file.touch()
    seen = look(monitor)
    assert (seen["DiskInodesLow"], seen["DiskSpaceLow"]) == ("True", "False")
    assert str(point) in seen.verdicts["DiskInodesLow"].message
    for file in files:
        file.unlink()
    assert look(monitor)["DiskInodesLow"] == "False"


def test_a_file_system_that_does_not_count_inodes_has_enough(look: Callable[..., Any]) -> None:
    seen = look(watch("/proc"))
    assert seen["DiskInodesLow"] == "False"
    assert seen.metric("disk_inodes_used_ratio", path="/proc") is None


def test_all_the_full_ones_are_named_and_an_empty_one_does_not_hide_them(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    full, also_full, empty = (mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs") for _ in range(3))
    for point in (full, also_full):
        fill(point, 2 << 20)
    verdict = look(watch(full, also_full, empty)).verdicts["DiskSpaceLow"]
    assert verdict.status == "True"
    assert verdict.message == f"{full} is fuller than 95 %; {also_full} is fuller than 95 %"


def test_a_file_system_that_is_remounted_read_only_is_a_problem_until_it_is_remounted_for_writing(
    mounted: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "tmpfs")
    monitor = watch(point)
    assert look(monitor)["DiskReadOnly"] == "False"
    run("mount", "-o", "remount,ro", point)
    seen = look(monitor)
    assert (seen["DiskReadOnly"], seen.metric("disk_read_only", path=str(point))) == ("True", 1)
    assert seen.verdicts["DiskReadOnly"].message == f"{point} is read-only"
    run("mount", "-o", "remount,rw", point)
    seen = look(monitor)
    assert (seen["DiskReadOnly"], seen.metric("disk_read_only", path=str(point))) == ("False", 0)


def test_a_real_error_of_the_file_system_is_found_even_by_a_monitor_that_starts_later(
    ext4: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    """Since Linux 6.15 `ro` appears nowhere in the mount table then, and writes fail all the same."""
    point = ext4()
    before = watch(point)
    assert look(before)["DiskReadOnly"] == "False"
    device = next(m for m in mount_table(Path("/proc")) if m.point == str(point)).device
    name = (Path("/sys/dev/block") / device).resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")
    with pytest.raises(OSError, match="Read-only file system"):
        (point / "file").touch()
    assert look(before)["DiskReadOnly"] == "True"
    assert look(watch(point))["DiskReadOnly"] == "True"
    run("umount", point)
    run("mount", "-o", "loop", point.parent / "ext4.img", point)
    assert look(before)["DiskReadOnly"] == "False"


def test_a_read_only_bind_mount_is_meant_so(
    mounted: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    """A read-only bind mount of the host in the container was reported as a broken file system."""
    point = mounted("--bind", mounted("-t", "tmpfs", "tmpfs"))
    monitor = watch(point)
    assert look(monitor)["DiskReadOnly"] == "False"
    run("mount", "-o", "remount,bind,ro", point)
    seen = look(monitor)
    assert (seen["DiskReadOnly"], seen.metric("disk_read_only", path=str(point))) == ("False", 1)


def test_a_file_system_that_was_mounted_read_only_is_a_problem_only_where_it_must_be_writable(
    mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "-o", "ro", "tmpfs")
    assert look(watch(point))["DiskReadOnly"] == "False"
    assert look(watch(DiskPath(str(point), writable=True)))["DiskReadOnly"] == "True"


def test_another_file_system_in_its_place_may_be_read_only(
    mounted: Callable[..., Path], run: Callable[..., None], look: Callable[..., Any]
) -> None:
    point = mounted("-t", "tmpfs", "tmpfs")
    monitor = watch(point)
    assert look(monitor)["DiskReadOnly"] == "False"
    run("umount", point)
    assert look(monitor)["DiskReadOnly"] == "False"
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", point)
    assert look(monitor)["DiskReadOnly"] == "False"


def test_a_path_that_is_not_there_is_left_out(tmp_path: Path, look: Callable[..., Any]) -> None:
    """Missing optional mounts were reported as failures."""
    seen = look(watch(tmp_path / "docker"))
    assert {verdict.status for verdict in seen.verdicts.values()} == {"False"}
    assert seen.metrics == []


def test_a_path_that_must_be_there_is_a_problem_until_it_is(tmp_path: Path, look: Callable[..., Any]) -> None:
    monitor = watch(DiskPath(str(tmp_path / "data"), required=True))
    seen = look(monitor)
    assert seen.verdicts["DiskPathMissing"].message == f"{tmp_path}/data does not exist"
    assert (seen["DiskPathMissing"], seen["DiskSpaceLow"]) == ("True", "False")
    (tmp_path / "data").mkdir()
    assert look(monitor)["DiskPathMissing"] == "False"


def test_a_mount_whose_server_is_gone_is_unknown_and_a_full_one_behind_it_is_still_found(
    dead_mount: Path, mounted: Callable[..., Path], look: Callable[..., Any]
) -> None:
    full = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    fill(full, 2 << 20)
    seen = look(watch(dead_mount, full))
    assert (seen["DiskSpaceLow"], seen["DiskReadOnly"]) == ("True", "Unknown")
    verdict = seen.verdicts["DiskReadOnly"]
    assert verdict.reason == "FilesystemDoesNotAnswer"
    assert verdict.message == f"{dead_mount}: Transport endpoint is not connected"


def test_a_path_that_may_not_be_looked_at_is_unknown(
    tmp_path: Path, look: Callable[..., Any], request: Any
) -> None:
    (tmp_path / "closed/inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("as_nobody")
    seen = look(watch(tmp_path / "closed/inner"))
    of_paths = {kind: v for kind, v in seen.verdicts.items() if kind not in {"DiskStalled", "DiskSlow"}}
    assert {(v.status, v.reason) for v in of_paths.values()} == {("Unknown", "PermissionDenied")}


@pytest.mark.usefixtures("as_nobody")
def test_the_table_of_pid_1_needs_no_privilege(look: Callable[..., Any]) -> None:
    assert look(watch("/"))["DiskReadOnly"] == "False"


def test_without_a_mount_table_it_is_unknown_what_can_be_written(
    tmp_path: Path, look: Callable[..., Any]
) -> None:
    seen = look(watch("/", host=Host(proc=tmp_path)))
    assert (seen["DiskReadOnly"], seen["DiskSpaceLow"]) == ("Unknown", "False")


def test_the_own_table_serves_where_there_is_no_pid_1(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert [mount.point for mount in mount_table(tmp_path)] == ["/"]


def test_an_empty_table_below_the_root_of_the_node_is_not_taken_for_the_nodes(tmp_path: Path) -> None:
    root, proc = tmp_path / "host", tmp_path / "proc"
    for folder in (root / "proc/1", proc / "1", proc / "self"):
        folder.mkdir(parents=True)
    (root / "proc/1/mountinfo").write_text("")
    (proc / "self/mountinfo").write_text(f"1 0 8:1 / {root}/data rw - ext4 /dev/sda1 rw\n")
    host = Host(root=root, proc=proc)
    assert [(mount.point, mount.copied) for mount in node_mounts(host)] == [("/data", True)]
    (proc / "1/mountinfo").write_text("7 0 8:2 / /srv rw - ext4 /dev/sda2 rw\n")
    assert [(mount.point, mount.copied) for mount in node_mounts(host)] == [("/srv", False)]


def test_a_mount_at_a_folder_with_an_odd_name_is_read_as_it_is_named(
    mounted: Callable[..., Path], run: Callable[..., None], tmp_path: Path
) -> None:
    odd = tmp_path / "a b\\c\u2028\u00e4#\n"
    odd.mkdir()
    run("mount", "--move", mounted("-t", "tmpfs", "tmpfs"), odd)
    try:
        assert str(odd) in {mount.point for mount in mount_table(Path("/proc"))}
    finally:
        run("umount", odd)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue",
            Mount(
                36,
                "98:0",
                "/mnt2",
                "ext3",
                frozenset({"rw", "noatime"}),
                frozenset({"rw", "errors=continue"}),
                "/dev/root",
            ),
            id="optional fields",
        ),
        pytest.param(
            "42 27 0:39 / /m ro - tmpfs  rw",
            Mount(42, "0:39", "/m", "tmpfs", frozenset({"ro"}), frozenset({"rw"})),
            id="an empty source",
        ),
    ],
)
def test_a_line_of_the_mount_table_is_read_field_by_field(line: str, expected: Mount) -> None:
    assert parse_mount(line) == expected


@pytest.mark.parametrize(
    ("line", "failed", "read_only"),
    [
        pytest.param("rw,relatime - ext4 /dev/loop0 rw,errors=remount-ro", False, False, id="writable"),
        pytest.param(
            "rw,relatime - ext4 /dev/loop0 rw,emergency_ro", True, True, id="Linux 6.15 after an error"
        ),
        pytest.param(
            "ro,relatime - ext4 /dev/sda1 rw,emergency_ro", True, True, id="a bind mount of a broken one"
        ),
        pytest.param("rw,relatime - ext4 /dev/loop0 ro", True, True, id="Linux 6.11 after an error"),
        pytest.param("ro,relatime - tmpfs x ro", False, True, id="mounted or remounted read-only"),
        pytest.param("ro,relatime - ext4 /dev/sda1 rw", False, True, id="a read-only bind mount"),
        pytest.param("ro,relatime - squashfs /dev/loop1 ro", False, True, id="a snap"),
        pytest.param("rw,relatime - iso9660 /dev/sr0 ro", False, True, id="a CD"),
        pytest.param(
            "rw,relatime - overlay overlay ro,lowerdir=/a:/b", False, True, id="overlay of layers only"
        ),
    ],
)
def test_a_file_system_has_failed_if_it_refuses_what_its_mount_was_made_for(
    line: str, failed: bool, read_only: bool
) -> None:
    mount = parse_mount(f"42 27 7:0 / /m {line}")
    assert (mount.failed, mount.read_only) == (failed, read_only)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/", 1, id="the root"),
        pytest.param("/nonexistent", 1, id="on the root"),
        pytest.param("/nonexistent/var", 2, id="a mount point"),
        pytest.param("/nonexistent/var/lib", 2, id="below a mount point"),
        pytest.param("/nonexistent/variable", 1, id="a name that only begins like one"),
        pytest.param("/nonexistent/twice/x", 4, id="the upper of two at one point"),
    ],
)
def test_a_path_lies_on_the_nearest_mount_above_it(path: str, expected: int) -> None:
    points = ["/", "/nonexistent/var", "/nonexistent/twice", "/nonexistent/twice"]
    mounts = [parse_mount(f"{n} 0 8:{n} / {point} rw - ext4 /dev/x rw") for n, point in enumerate(points, 1)]
    found = mount_of(path, mounts)
    assert found
    assert found.number == expected


@pytest.mark.parametrize(
    ("disks", "paths"),
    [
        pytest.param([DiskPath("/")], [], id="the defaults"),
        pytest.param([], ["paths"], id="nothing to watch"),
        pytest.param([DiskPath("var")], ["paths[0].path"], id="a relative path"),
        pytest.param([DiskPath("/"), DiskPath("/")], ["paths[1].path"], id="twice the same"),
        pytest.param([DiskPath("/", 95, 85)], ["paths[0].warningThreshold"], id="space the wrong way round"),
        pytest.param(
            [DiskPath("/"), DiskPath("/a", inode_critical_threshold=85)],
            ["paths[1].inodeWarningThreshold"],
            id="inodes both the same",
        ),
    ],
)
def test_paths_that_can_never_be_right_are_faults(disks: list[DiskPath], paths: list[str]) -> None:
    assert [path for path, _ in DiskOptions(paths=tuple(disks)).faults()] == paths

"""The capacity monitor with real file systems that are filled and emptied, and a real containerd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from containerd_support import containerd
from cri_support import field, grpc, serving
from network_support import Seen, give_up, look

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.kubelet import Kubelet, Settings, kubelet_of
from workers.monitors.kubernetes.capacity import CapacityMonitor, CapacityOptions, rooms, share

MEBIBYTE = 1024 * 1024
SIZE = 32 * MEBIBYTE
ROOT_ALONE = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting takes root"
)


@contextmanager
def file_system(folder: Path) -> Iterator[Path]:
    """A small one, mounted at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes=1000", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def filled(folder: Path, left: float) -> Iterator[None]:
    """So large a share of a small file system, and no more, is left."""
    whole = os.statvfs(folder)
    size = int((whole.f_bavail - left * whole.f_blocks) * whole.f_frsize)
    path = folder / "ballast"
    path.write_bytes(bytes(size))
    try:
        yield
    finally:
        path.unlink()


def monitor(root: Path, **options: Any) -> CapacityMonitor:
    """One that looks at the node whose root is `root`."""
    settings = msgspec.convert({"requestTimeout": "2s", **options}, CapacityOptions)
    assert not list(settings.faults())
    return CapacityMonitor("capacity", settings, Host(root=root, proc=root / "proc"))


def why(seen: Seen, condition: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    return str(seen[condition]), seen.verdicts[condition].reason


def told(root: Path, text: str) -> None:
    """What the kubelet's configuration file says."""
    (root / "var/lib/kubelet").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/kubelet/config.yaml").write_text(text)


def pods(number: int) -> bytes:
    """So many sandboxes; the same bytes tell where images are, by the same numbers of the fields."""
    return field(1, field(2, field(1, b"/images"))) * number


@ROOT_ALONE
def test_storage_is_low_before_the_kubelet_evicts_and_until_it_is_emptied(tmp_path: Path) -> None:
    with file_system(tmp_path / "var/lib/kubelet") as folder:
        watching = monitor(tmp_path)
        assert why(look(watching), "EphemeralStorageLow") == ("False", "StorageAvailable")
        with filled(folder, left=0.13):
            seen = look(watching)
            assert why(seen, "EphemeralStorageLow") == ("True", "CloseToEviction")
            message = seen.verdicts["EphemeralStorageLow"].message
            assert message.startswith("/var/lib/kubelet: nodefs.available is within 5 % of the threshold")
            assert seen.metric("eviction_signal_ratio", signal="nodefs.available") == pytest.approx(
                0.13, abs=0.01
            )
            assert seen.metric("eviction_threshold_ratio", signal="nodefs.available") == 0.1
            assert look(monitor(tmp_path, evictionMargin=1))["EphemeralStorageLow"] == "False"
        with filled(folder, left=0.05):
            assert why(look(watching), "EphemeralStorageLow") == ("True", "BelowEvictionThreshold")
        assert look(watching)["EphemeralStorageLow"] == "False"


@ROOT_ALONE
def test_storage_is_low_when_its_inodes_are(tmp_path: Path) -> None:
    with file_system(tmp_path / "var/lib/kubelet") as folder:
        files = [folder / str(number) for number in range(960)]
        for path in files:
            path.touch()
        seen = look(monitor(tmp_path))
        assert why(seen, "EphemeralStorageLow") == ("True", "BelowEvictionThreshold")
        assert "nodefs.inodesFree" in seen.verdicts["EphemeralStorageLow"].message
        for path in files:
            path.unlink()
        assert look(monitor(tmp_path))["EphemeralStorageLow"] == "False"


@ROOT_ALONE
def test_what_the_kubelet_was_told_is_the_threshold(tmp_path: Path) -> None:
    with file_system(tmp_path / "var/lib/kubelet") as folder, filled(folder, left=0.3):
        for text, status in (
            ("evictionHard: {nodefs.available: 40%}\n", "True"),
            ("evictionHard: {nodefs.available: 20Mi}\n", "True"),
            ("evictionHard: {nodefs.available: 2Mi}\n", "False"),
            ("evictionSoft: {nodefs.available: 40%}\n", "True"),
            ("evictionHard: {}\n", "False"),
        ):
            told(tmp_path, text)
            assert look(monitor(tmp_path))["EphemeralStorageLow"] == status, text
    with file_system(tmp_path / "var/lib/kubelet") as folder:
        told(tmp_path, "evictionHard: {}\n")
        with filled(folder, left=0.02):
            assert look(monitor(tmp_path))["EphemeralStorageLow"] == "False"


@ROOT_ALONE
def test_the_disk_of_a_real_runtimes_images_is_low_until_it_is_emptied(tmp_path: Path) -> None:
    told(tmp_path, "{}")
    (tmp_path / str(tmp_path.parent)[1:]).mkdir(parents=True)
    # The runtime's paths begin with the test's own folder, which is the node's root here.
    (tmp_path / str(tmp_path)[1:]).symlink_to("/")
    with file_system(tmp_path / "root") as folder, containerd(tmp_path):
        watching = monitor(tmp_path)
        seen = look(watching)
        assert why(seen, "ImageFilesystemLow") == ("False", "ImageStorageAvailable")
        assert why(seen, "PodCapacityLow") == ("False", "RoomForPods")
        assert seen.metric("pods_running") == 0
        assert seen.metric("pods_allocatable") == 110
        with filled(folder, left=0.18):
            seen = look(watching)
        assert why(seen, "ImageFilesystemLow") == ("True", "CloseToEviction")
        assert "imagefs.available is within 5 %" in seen.verdicts["ImageFilesystemLow"].message
        assert look(watching)["ImageFilesystemLow"] == "False"


def test_pods_are_warned_of_and_then_a_problem_until_there_are_fewer(tmp_path: Path) -> None:
    told(tmp_path, "maxPods: 20\n")
    found = []
    for number in (16, 17, 19, 5):
        with serving(tmp_path / "run/crio/crio.sock", grpc(pods(number), piece=50)):
            seen = look(monitor(tmp_path))
        found.append(why(seen, "PodCapacityLow"))
        assert seen.metric("pods_running") == number
        assert str(seen["ImageFilesystemLow"]) == "Unknown"
        assert seen.verdicts["ImageFilesystemLow"].message.startswith("/images can't be looked at")
    assert found == [
        ("False", "RoomForPods"),
        ("False", "NodeGettingFullOfPods"),
        ("True", "NodeAlmostFullOfPods"),
        ("False", "RoomForPods"),
    ]


def test_the_options_know_the_number_of_pods_better(tmp_path: Path) -> None:
    told(tmp_path, "maxPods: 20\n")
    with serving(tmp_path / "cri.sock", grpc(pods(19))):
        seen = look(monitor(tmp_path, maxPods=100, endpoint="/cri.sock", podWarningThreshold=10))
    assert why(seen, "PodCapacityLow") == ("False", "NodeGettingFullOfPods")
    assert seen.metric("pods_allocatable") == 100


def test_a_runtime_that_fails_leaves_storage_to_be_judged(tmp_path: Path) -> None:
    told(tmp_path, "evictionHard: {}\n")
    with serving(tmp_path / "run/crio/crio.sock", grpc(b"", "13")):
        seen = look(monitor(tmp_path))
    assert why(seen, "PodCapacityLow") == ("Unknown", "RuntimeFails")
    assert why(seen, "ImageFilesystemLow") == ("Unknown", "RuntimeFails")
    assert str(seen["EphemeralStorageLow"]) == "False"


def test_a_node_without_a_runtime_knows_its_storage_alone(tmp_path: Path) -> None:
    told(tmp_path, "evictionHard: {}\n")
    seen = look(monitor(tmp_path))
    assert why(seen, "PodCapacityLow") == ("Unknown", "NoRuntime")
    assert str(seen["EphemeralStorageLow"]) == "False"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(None, "NoKubelet", id="no kubelet"),
        pytest.param("[", "KubeletConfigInvalid", id="no YAML"),
        pytest.param("maxPods: many\n", "KubeletConfigInvalid", id="no number"),
        pytest.param("evictionHard: {nodefs.available: lots}\n", "KubeletConfigInvalid", id="no amount"),
    ],
)
def test_without_a_kubelets_settings_nothing_is_known(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        told(tmp_path, text)
    with pytest.raises(Undetermined) as caught:
        look(monitor(tmp_path))
    assert caught.value.reason == reason


@ROOT_ALONE
def test_who_may_not_read_the_kubelets_settings_does_not_know(tmp_path: Path) -> None:
    told(tmp_path, "{}")
    tmp_path.chmod(0o755)
    (tmp_path / "var/lib/kubelet").chmod(0o700)
    (tmp_path / "proc").mkdir()
    code = """
import os, sys
from nodedoctor.host import Host
from workers.monitors.kubernetes.capacity import CapacityMonitor, CapacityOptions
os.chroot(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    list(CapacityMonitor("capacity", CapacityOptions(), Host()).check())
except PermissionError as error:
    print(error.filename)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("/var/lib/kubelet/")


def test_flags_win_over_drop_ins_and_those_over_the_file(tmp_path: Path) -> None:
    told(
        tmp_path, "{maxPods: 1, podsPerCore: 3, evictionHard: {nodefs.available: 1%, imagefs.available: 2%}}"
    )
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop/10.conf").write_text("{maxPods: 2, evictionHard: {imagefs.available: 3%}}")
    flags = "--config-dir=/drop --max-pods=5 --eviction-soft=nodefs.available<4%,memory.available<1Gi"
    (tmp_path / "var/lib/kubelet/kubeadm-flags.env").write_text(f'KUBELET_KUBEADM_ARGS="{flags}"\n')
    kubelet = kubelet_of(Host(root=tmp_path, proc=tmp_path / "proc"))
    assert kubelet
    assert kubelet.settings.max_pods == 5
    assert kubelet.settings.thresholds("nodefs.available") == ("1%", "4%")
    assert kubelet.settings.thresholds("imagefs.available") == ("3%",)


def test_a_file_system_without_size_has_no_share_left() -> None:
    assert list(rooms(Kubelet("/var/lib/kubelet", Settings()), "nodefs", os.statvfs("/proc"))) == []


@pytest.mark.parametrize(("most", "per_core", "pods"), [(110, 0, 110), (110, 10, 40), (30, 10, 30)])
def test_pods_may_be_limited_by_cores(most: int, per_core: int, pods: int) -> None:
    assert Settings(max_pods=most, pods_per_core=per_core).pods(4) == pods


def test_thresholds_that_were_told_replace_the_defaults_unless_they_are_merged() -> None:
    few = {"nodefs.available": "1%"}
    assert Settings(eviction_hard=few).thresholds("nodefs.inodesFree") == ()
    merging = Settings(eviction_hard=few, merge_default_eviction_settings=True)
    assert merging.thresholds("nodefs.inodesFree") == ("5%",)
    assert merging.thresholds("nodefs.available") == ("1%",)


@pytest.mark.parametrize(
    ("amount", "ratio"), [("10%", 0.1), ("1Gi", 0.5), ("1.5Gi", 0.75), ("1073741824", 0.5), ("1G", 0.4657)]
)
def test_amounts_are_shares_of_the_whole(amount: str, ratio: float) -> None:
    assert share(amount, 2 * 1024 * MEBIBYTE) == pytest.approx(ratio, abs=0.001)


def test_options_that_can_not_be_are_named() -> None:
    wrong = CapacityOptions(pod_warning_threshold=99, max_pods=-1, endpoint="cri", request_timeout="0s")
    assert {o for o, _ in wrong.faults()} == {"podWarningThreshold", "maxPods", "endpoint", "requestTimeout"}

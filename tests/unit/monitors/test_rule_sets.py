"""The built-in rules for logs: what each of them must match and must leave, and what Node Problem Detector expects."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nodedoctor.patterns import as_text, compile_pattern, group_names
from workers.monitors.logs.kmsg import KernelLog
from workers.monitors.logs.matching import Kind, Pattern, Patterns
from workers.monitors.logs.rules import MEANING, PLACEHOLDER, Rule, rule_faults, rule_set, rule_sets

SETS = {name: rule_set(name) for name in rule_sets()}
RULES = {rule.name: rule for rules in SETS.values() for rule in rules}
EACH = [pytest.param(rule, id=rule.name) for rules in SETS.values() for rule in rules]
MATCHING = [
    pytest.param(rule, line, id=f"{rule.name}-{number}")
    for rule in RULES.values()
    for number, line in enumerate(rule.samples.match)
]
IGNORED = [
    pytest.param(rule, line, id=f"{rule.name}-{number}")
    for rule in RULES.values()
    for number, line in enumerate(rule.samples.ignore)
]
KUBELETS_CONDITIONS = {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"}
TOLD_TOO = {
    "docker-hung": {"hung-task"},
    "containerd-hung": {"hung-task"},
    "containerd-shim-hung": {"hung-task"},
    "runc-hung": {"hung-task"},
    "crio-hung": {"hung-task"},
    "kubelet-hung": {"hung-task"},
    "memory-read-error": {"memory-errors-frequent"},
    "memory-corrected-error": {"memory-errors-frequent"},
    "memory-errors-frequent": {"memory-read-error", "memory-corrected-error"},
    "gpu-xid": {"gpu-fallen-off-the-bus"},
    "gpu-fallen-off-the-bus": {"gpu-xid"},
    "gpu-needs-recovery": {"gpu-xid"},
    "unregister-netdevice": {"unregister-netdevice-frequent"},
    "unregister-netdevice-frequent": {"unregister-netdevice"},
    "kubelet-start": {"kubelet-restarts"},
    "kubelet-restarts": {"kubelet-start"},
    "docker-start": {"docker-restarts"},
    "docker-restarts": {"docker-start"},
    "containerd-start": {"containerd-restarts"},
    "containerd-restarts": {"containerd-start"},
    "crio-start": {"crio-restarts"},
    "crio-restarts": {"crio-start"},
    "runtime-request-timeout": {"container-unkillable"},
    "container-unkillable": {"runtime-request-timeout"},
    "sandbox-create-failed": {"containers-failing-to-start"},
    "cgroup-driver-mismatch": {"containers-failing-to-start", "sandbox-create-failed"},
    "pod-addresses-exhausted": {"pod-network-failing"},
    "runtime-out-of-files": {"sandbox-create-failed"},
    "kubelet-cgroup-driver-mismatch": {"kubelet-start-failed"},
    "kubelet-pleg-unhealthy": {"kubelet-runtime-down"},
    "kubelet-sees-expired-certificate": {"kubelet-register-failed"},
}
"""What is meant to be told by two rules: for the samples of a rule, the others that may match them."""
NPD_REASONS = {
    "OOMKilling", "TaskHung", "UnregisterNetDevice", "KernelOops", "Ext4Error", "Ext4Warning", "IOError",
    "XfsHasShutdown", "MemoryReadError", "CperHardwareErrorCorrected", "CperHardwareErrorRecoverable",
    "CperHardwareErrorFatal", "DockerHung", "FilesystemIsReadOnly", "CorruptDockerImage", "CorruptDockerOverlay2",
    "DockerContainerStartupFailure", "DiskBadBlock", "KubeletStart", "DockerStart", "ContainerdStart",
    "FrequentKubeletRestart", "FrequentDockerRestart", "FrequentContainerdRestart", "CCPPCrash",
    "UncaughtException", "XorgCrash", "VMcore", "ContainerCreationFailed", "CorruptContainerImageLayer",
    "ConntrackFull",
}  # fmt: skip
NPD_CONDITIONS = {
    "KernelDeadlock": "DockerHung",
    "XfsShutdown": "XfsHasShutdown",
    "CperHardwareErrorFatal": "CperHardwareErrorFatal",
    "ReadonlyFilesystem": "FilesystemIsReadOnly",
    "CorruptDockerOverlay2": "CorruptDockerOverlay2",
    "DiskBadBlock": "DiskBadBlock",
    "FrequentUnregisterNetDevice": "UnregisterNetDevice",
    "FrequentKubeletRestart": "FrequentKubeletRestart",
    "FrequentDockerRestart": "FrequentDockerRestart",
    "FrequentContainerdRestart": "FrequentContainerdRestart",
}
"""Its conditions, and the reason that sets each of them."""
CLEARS = [
    ("filesystem-read-only", "EXT4-fs (sda1): Remounting filesystem read-only", "EXT4-fs (sda1): re-mounted 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11 r/w. Quota mode: none."),
    ("filesystem-read-only", "EXT4-fs (sda1): Remounting filesystem read-only", "EXT4-fs (sda1): re-mounted 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11 r/w."),
    ("filesystem-read-only", "EXT4-fs (sda1): Remounting filesystem read-only", "EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro. Quota mode: none."),
    ("filesystem-read-only", "EXT4-fs (sda1): Remounting filesystem read-only", "EXT4-fs (sda1): re-mounted. Opts: (null)"),
    ("filesystem-read-only", "EXT4-fs (sda1): Remounting filesystem read-only", "EXT4-fs (sda1): re-mounted 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11. Quota mode: none."),
    ("filesystem-read-only", "EXT4-fs (dm-7): Remounting filesystem read-only", "EXT4-fs (dm-7): unmounting filesystem 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11."),
    ("btrfs-read-only", "BTRFS info (device sda1 state EA): forced readonly", "BTRFS info (device sda1): first mount of filesystem ac14a6fa-4ec9-449e-aec9-7d1777bfdc06"),
    ("btrfs-read-only", "BTRFS info (device sda1: state EA): forced readonly", "BTRFS info (device sda1: state EA): last unmount of filesystem ac14a6fa-4ec9-449e-aec9-7d1777bfdc06"),
    ("xfs-shutdown", "XFS (sdb1): I/O Error Detected. Shutting down filesystem", "XFS (sdb1): Unmounting Filesystem 0fc14cb6-2c0c-4ab4-91f9-5f4f79e3a2a7"),
    ("xfs-shutdown", "XFS (sdb1): I/O Error Detected. Shutting down filesystem", "XFS (sdb1): Ending recovery (logdev: internal)"),
    ("cpu-core-throttled", "CPU3: Core temperature is above threshold, cpu clock is throttled (total events = 4)", "CPU3: Core temperature/speed normal (total events = 4)"),
    ("cpu-package-throttled", "mce: CPU4: Package temperature above threshold, cpu clock throttled (total events = 1)", "mce: CPU12: Package temperature/speed normal"),
    ("nfs-server-silent", "nfs: server 10.0.0.1 not responding, still trying", "nfs: server 10.0.0.1 OK"),
    ("gpu-needs-recovery", "NVRM: Xid (PCI:0000:5b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", "NVRM: Xid (PCI:0000:5b:00): 154, GPU recovery action changed from 0x2 (OS Reboot) to 0x0 (None)"),
    ("disk-bad-blocks", "Device: /dev/sdb [SAT], 262 Currently unreadable (pending) sectors", "Device: /dev/sdb [SAT], No more Currently unreadable (pending) sectors, warning condition reset after 1"),
]  # fmt: skip
"""For each rule with a pattern that clears: a line that sets its condition, and one that clears it."""
QUIET = {
    "kernel": r"""
Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0)
Command line: BOOT_IMAGE=/boot/vmlinuz-6.1.0-18-amd64 root=UUID=5a0b2d6c ro quiet panic=10
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
Kernel/User page tables isolation: enabled
mce: CPU0: Thermal monitoring enabled (TM1)
EDAC MC: Ver: 3.0.0
EDAC MC0: Giving out device to module amd64_edac controller F17h_M30h: DEV 0000:00:18.3 (INTERRUPT)
GHES: APEI firmware first mode is enabled by APEI bit and WHEA _OSC.
ERST: Error Record Serialization Table (ERST) support is initialized.
pcieport 0000:00:1c.0: AER: enabled with IRQ 122
pcieport 0000:00:1c.0: pciehp: Slot #0 AttnBtn+ PwrCtrl+ MRL- AttnInd+ PwrInd+ HotPlug+ Surprise+
nvme nvme0: pci function 0000:01:00.0
nvme nvme0: 8/0/0 default/read/poll queues
ata2: SATA link down (SStatus 0 SControl 300)
ata1.00: ATA-10: INTEL SSDSC2KB480G8, XCV10110, max UDMA/133
sd 0:0:0:0: [sda] 937703088 512-byte logical blocks: (480 GB/447 GiB)
sd 0:0:0:0: [sda] Attached SCSI disk
EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: errors=remount-ro
EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro. Quota mode: none.
XFS (dm-0): Mounting V5 Filesystem
XFS (dm-0): Ending clean mount
BTRFS info (device sda2): using crc32c (crc32c-intel) checksum algorithm
loop0: detected capacity change from 0 to 131072
Buffer I/O error on dev sr0, logical block 0, async page read
usb 1-1: USB disconnect, device number 4
usb 1-1: new high-speed USB device number 5 using xhci_hcd
e1000e 0000:00:1f.6 eno1: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: Rx/Tx
IPv6: ADDRCONF(NETDEV_CHANGE): veth8f1c2d3: link becomes ready
cni0: port 3(veth8f1c2d3) entered disabled state
device veth8f1c2d3 left promiscuous mode
nf_conntrack: default automatic helper assignment has been turned off for security reasons
NFS: Registering the id_resolver key type
rcu: Hierarchical RCU implementation.
watchdog: Delayed init of the lockup detector failed: -19
perf: interrupt took too long (2517 > 2500), lowering kernel.perf_event_max_sample_rate to 79250
audit: type=1400 audit(1700000000.000:41): apparmor="DENIED" operation="open" comm="runc"
oom_reaper: reaped process 3127 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
Memory cgroup stats for /kubepods/burstable/pod11a2: cache:0KB rss:64KB
INFO: lockdep is turned off.
systemd[1]: Detected virtualization kvm.
random: crng init done
ACPI: Preparing to enter system sleep state S5
""",
    "container-runtime": r"""
time="2026-11-23T14:00:01Z" level=info msg="shim disconnected" id=aa11 namespace=k8s.io
time="2026-11-23T14:00:01Z" level=warning msg="cleaning up after shim disconnected" id=aa11
time="2026-11-23T14:00:01Z" level=info msg="StopContainer for \"aa11\" with timeout 30 (s)"
time="2026-11-23T14:00:01Z" level=info msg="RunPodSandbox for &PodSandboxMetadata{Name:web-0,} returns"
time="2026-11-23T14:00:01Z" level=error msg="ContainerStatus for \"aa11\" failed" error="not found"
time="2026-11-23T14:00:01Z" level=error msg="failed to load cni during init, please check CRI plugin status" error="cni config load failed: no network config found in /etc/cni/net.d"
time="2026-11-23T14:00:01Z" level=info msg="Container failed to exit within 10s of signal 15 - using the force" container=aa11
time="2026-11-23T14:00:01Z" level=error msg="PullImage \"app:1\" failed" error="failed to pull and unpack image \"docker.io/library/app:1\": docker.io/library/app:1: not found"
time="2026-11-23T14:00:01Z" level=warning msg="failed to load plugin io.containerd.snapshotter.v1.devmapper" error="devmapper not configured"
""",
    "kubelet": r"""
E1123 14:00:01.000000    1234 kubelet.go:2412] "Skipping pod synchronization" err="[container runtime status check may not have completed yet, PLEG is not healthy: pleg has yet to be successful]"
E1123 14:00:01.000000    1234 kubelet.go:1300] "Image garbage collection failed once. Stats initialization may not have completed yet" err="invalid capacity 0 on image filesystem"
E1123 14:00:01.000000    1234 eviction_manager.go:285] "Eviction manager: failed to get summary stats"
E1123 14:00:01.000000    1234 pod_workers.go:1298] "Error syncing pod, skipping" err="failed to \"StartContainer\" for \"web\" with CrashLoopBackOff: \"back-off 5m0s restarting\""
I1123 14:00:01.000000    1234 kubelet_node_status.go:75] "Successfully registered node" node="n1"
I1123 14:00:01.000000    1234 certificate_manager.go:356] Rotating certificates
W1123 14:00:01.000000    1234 watcher.go:93] Error while processing event ("/sys/fs/cgroup/x": 0x40000100 == IN_CREATE|IN_ISDIR): inotify_add_watch /sys/fs/cgroup/x: no such file or directory
""",
    "systemd": r"""
Started Session 12 of User root.
Starting Daily apt download activities...
apt-daily.service: Deactivated successfully.
apt-daily.service: Consumed 1.202s CPU time.
Reached target Multi-User System.
Stopping Container Runtime Interface for OCI (CRI-O)...
kubelet.service: Scheduled restart job, restart counter is at 1.
cri-containerd-9f1c.scope: Failed with result 'oom-kill'.
run-containerd-runc-k8s.io-9f1c-runc.mount: Deactivated successfully.
Started Process Core Dump (PID 796493/UID 0).
""",
    "abrt": r"""
Looking for kernel oopses
Deleting problem directory ccpp-2020-01-01-10:00:00-1234
""",
    "smartd": r"""
Device: /dev/sda [SAT], 8 Currently unreadable (pending) sectors
Device: /dev/sda [SAT], SMART Usage Attribute: 194 Temperature_Celsius changed from 64 to 63
""",
}
"""What healthy machines say, or with a fault of a user or of a moment."""


compiled = cache(compile_pattern)


def matches(pattern: str, line: str) -> bool:
    """Whether `pattern` is found in `line`."""
    return compiled(pattern).search(line.encode()) is not None


def groups(pattern: str, line: str) -> dict[str, str]:
    """What the named groups of `pattern` hold of `line`, as far as they took part."""
    found = compiled(pattern).search(line.encode())
    assert found, f"{pattern!r} does not match {line!r}"
    return {as_text(name): as_text(value) for name, value in found.groupdict().items() if value is not None}


def reasons(line: str, kind: str | None = None) -> list[str]:
    """The reasons of all rules of the set `kind` (of all sets) that match `line`."""
    rules = SETS[kind] if kind else RULES.values()
    return sorted(rule.told_reason for rule in rules if matches(rule.pattern, line))


@pytest.mark.parametrize("rule", EACH)
def test_a_rule_has_no_faults(rule: Rule) -> None:
    assert list(rule_faults(rule)) == []


@pytest.mark.parametrize("rule", EACH)
def test_a_rule_has_enough_samples(rule: Rule) -> None:
    assert len(rule.samples.match) >= 2
    assert len(rule.samples.ignore) >= 2


@pytest.mark.parametrize(("rule", "line"), MATCHING)
def test_a_line_is_matched(rule: Rule, line: str) -> None:
    assert matches(rule.pattern, line)


@pytest.mark.parametrize(("rule", "line"), IGNORED)
def test_a_line_that_looks_alike_is_left(rule: Rule, line: str) -> None:
    assert not matches(rule.pattern, line)


@pytest.mark.parametrize("kind", SETS)
def test_no_line_is_told_twice(kind: str) -> None:
    for rule in SETS[kind]:
        mine = {rule.name} | TOLD_TOO.get(rule.name, set())
        for line in rule.samples.match:
            told = {other.name for other in SETS[kind] if matches(other.pattern, line)}
            assert told <= mine, line


@pytest.mark.parametrize("kind", SETS)
def test_what_healthy_machines_say_is_left(kind: str) -> None:
    told = {line: reasons(line, kind) for line in QUIET[kind].strip().splitlines()}
    assert len(told) >= 2
    assert {line for line in told if told[line]} == set()


def test_names_are_unique_over_all_sets() -> None:
    assert len(RULES) == sum(len(rules) for rules in SETS.values())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in RULES)


def test_conditions_are_not_the_kubelets() -> None:
    conditions = {rule.condition for rule in RULES.values() if rule.condition}
    assert not conditions & KUBELETS_CONDITIONS


@pytest.mark.parametrize("kind", SETS)
def test_all_patterns_together_find_what_each_finds_alone(kind: str) -> None:
    """One automaton of many patterns must not lose any of them for want of memory."""
    whole = Patterns(Pattern.of(rule, Kind.MATCH, rule.pattern) for rule in RULES.values())
    for rule in SETS[kind]:
        for line in (*rule.samples.match, *rule.samples.ignore):
            together = {pattern.rule.name for pattern in whole.matching(line.encode())}
            assert together == {other.name for other in RULES.values() if matches(other.pattern, line)}


@pytest.mark.parametrize(("rule", "line"), MATCHING)
def test_a_message_names_only_what_its_line_holds(rule: Rule, line: str) -> None:
    """A group that took no part leaves a hole; two groups side by side are alternatives."""
    held, named = groups(rule.pattern, line).keys(), group_names(rule.pattern)
    for words in re.split(r"(?<!\})(?=\{)", rule.message):
        asked = {word.removesuffix(MEANING) for word in PLACEHOLDER.findall(words)} & named
        assert not asked or asked & held, rule.message


@pytest.mark.parametrize("rule", EACH)
def test_what_is_cut_out_of_a_line_is_told(rule: Rule) -> None:
    named = {word.removesuffix(MEANING) for word in PLACEHOLDER.findall(rule.message)}
    used = named | set(rule.labels) | (group_names(rule.clear_pattern) if rule.clear_pattern else set())
    assert {name for name in group_names(rule.pattern) if not name.isdigit()} <= used


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES.values() if rule.meanings], ids=lambda rule: rule.name
)
def test_meanings_are_told(rule: Rule) -> None:
    for group, meanings in rule.meanings.items():
        assert f"{{{group}{MEANING}}}" in rule.message
        told = [groups(rule.pattern, line)[group] for line in rule.samples.match]
        assert set(told) <= meanings.keys()


def test_each_xid_of_nvidias_list_is_one_that_the_pattern_can_find() -> None:
    rule = RULES["gpu-xid"]
    for code, meaning in rule.meanings["xid"].items():
        line = f"NVRM: Xid (PCI:0000:3b:00): {code}, pid='<unknown>', name=<unknown>"
        assert groups(rule.pattern, line) == {"pci": "0000:3b:00", "xid": code}
        assert meaning


@pytest.mark.parametrize(("name", "sets", "clears"), CLEARS)
def test_a_condition_is_cleared_for_the_same_subject(name: str, sets: str, clears: str) -> None:
    rule = RULES[name]
    held, freed = groups(rule.pattern, sets), groups(rule.clear_pattern, clears)
    common = held.keys() & freed.keys()
    assert common
    assert {key: held[key] for key in common} == {key: freed[key] for key in common}
    assert not matches(rule.pattern, clears)
    assert not matches(rule.clear_pattern, sets)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("filesystem-read-only", "EXT4-fs (sda1): re-mounted 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11 ro. Quota mode: none."),
        ("filesystem-read-only", "EXT4-fs (sda1): re-mounted 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11."),
        ("filesystem-read-only", "EXT4-fs (sda1): mounted filesystem 5a0b2d6c-3d5f-4f35-9b0d-0a3f0c6d4f11 ro with ordered data mode."),
        ("xfs-shutdown", "XFS (sdb1): Please unmount the filesystem and rectify the problem(s)"),
        ("nfs-server-silent", "nfs: server 10.0.0.1 not responding, timed out"),
        ("cpu-core-throttled", "CPU3: Package temperature/speed normal (total events = 4)"),
    ],
)  # fmt: skip
def test_a_condition_is_not_cleared_by_less(name: str, line: str) -> None:
    assert not matches(RULES[name].clear_pattern, line)


def test_each_pattern_that_clears_is_tried_here() -> None:
    assert {name for name, _, _ in CLEARS} == {rule.name for rule in RULES.values() if rule.clear_pattern}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("kubelet-restarts", ("Stopping Kubernetes kubelet...", "Stopping kubelet.service - kubelet: The Kubernetes Node Agent...", "Stopping kubelet.service...")),
        ("docker-restarts", ("Stopping Docker Application Container Engine...", "Stopping docker.service - Docker Application Container Engine...", "Stopping docker.service...")),
        ("containerd-restarts", ("Stopping containerd container runtime...", "Stopping containerd.service - containerd container runtime...", "Stopping containerd.service...")),
        ("crio-restarts", ("Stopping Container Runtime Interface for OCI (CRI-O)...", "Stopping crio.service - Container Runtime Interface for OCI (CRI-O)...")),
    ],
)  # fmt: skip
def test_a_stop_takes_back_a_start(name: str, lines: tuple[str, ...]) -> None:
    rule = RULES[name]
    assert (rule.count, rule.within, rule.condition) == (5, "20m", rule.told_reason)
    for line in lines:
        assert matches(rule.revert_pattern, line)
        assert not matches(rule.pattern, line)


def test_every_reason_of_node_problem_detector_is_there() -> None:
    assert NPD_REASONS - {rule.told_reason for rule in RULES.values()} == set()


@pytest.mark.parametrize(("condition", "reason"), NPD_CONDITIONS.items())
def test_every_condition_of_node_problem_detector_is_there(condition: str, reason: str) -> None:
    found = [rule for rule in RULES.values() if (rule.condition, rule.told_reason) == (condition, reason)]
    assert found
    assert all(rule.type == "permanent" for rule in found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aufs au_opts_verify:1570:docker[0000]: dirperm1 breaks the protection by the permission bits on the lower branch", []),
        ("INFO: task umount.aufs:21568 blocked for more than 120 seconds.", ["TaskHung"]),
        ("divide error: 0000 [#1] SMP ", ["KernelOops"]),
        ("INFO: task docker:20744 blocked for more than 120 seconds.", ["DockerHung", "TaskHung"]),
        ("kernel: INFO: task docker:12345 blocked for more than 120 seconds.", ["DockerHung", "TaskHung"]),
        ("BUG: unable to handle kernel NULL pointer dereference at 0000000000000078", ["KernelOops"]),
        ("IP: [<ffffffff810b2a6b>] put_prev_entity+0x31/0x3f0", []),
        ("Oops: 0000 [#1] SMP ", []),
        ("Memory cgroup out of memory: Kill process 1012 (heapster) score 1035 or sacrifice child", []),
        ("Killed process 1012 (heapster) total-vm:327128kB, anon-rss:306328kB, file-rss:11132kB", ["OOMKilling"]),
        ("EXT4-fs (sda1): Remounting filesystem read-only", ["FilesystemIsReadOnly"]),
        ("Remounting filesystem read-only", ["FilesystemIsReadOnly"]),
        ("unregister_netdevice: waiting for lo to become free. Usage count = 1", ["UnregisterNetDevice", "UnregisterNetDevice"]),
    ],
)  # fmt: skip
def test_node_problem_detectors_own_lines_give_its_reasons(line: str, expected: list[str]) -> None:
    assert reasons(line) == expected


@pytest.fixture
def log() -> Iterator[KernelLog]:
    """The kernel's log from now on."""
    kernel = KernelLog(Path("/dev/kmsg"), -1)
    while kernel.read(10_000):
        pass
    yield kernel
    kernel.close()


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[str]:
    """A file system of its own; gives the name of its device."""
    image, point = tmp_path / "ext4.img", tmp_path / "mount"
    image.touch()
    os.truncate(image, 16 << 20)
    point.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-qF", image], check=True, capture_output=True)
        subprocess.run(
            ["mount", "-o", "loop,errors=remount-ro", image, point], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"this machine can't mount a file system: {error}")
    number = point.stat().st_dev
    yield Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
    subprocess.run(["umount", point], check=True)


def test_what_this_kernel_says_of_a_broken_file_system_is_told_once(log: KernelLog, ext4: str) -> None:
    Path(f"/sys/fs/ext4/{ext4}/trigger_fs_error").write_text("broken by a test")
    lines = [as_text(line.text) for line in log.read(10_000)]
    told = [reason for line in lines if ext4 in line for reason in reasons(line, "kernel")]
    assert sorted(told) == ["Ext4Error", "FilesystemIsReadOnly", "JournalAborted"]

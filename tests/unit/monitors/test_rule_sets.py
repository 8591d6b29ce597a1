"""The built-in rules on their own lines, and on those that Node Problem Detector is tested with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from nodedoctor.config.rules import KUBELETS_OWN
from workers.monitors.logs.matching import Kind, Matcher
from workers.monitors.logs.options import LogPatternOptions
from workers.monitors.logs.rules import Rule, rendered, rule_set, rule_sets
from workers.monitors.logs.source import Line

SETS = {name: rule_set(name) for name in rule_sets()}
RULES = [rule for rules in SETS.values() for rule in rules]
SAMPLES = [
    pytest.param(name, rule, line, wanted, id=f"{rule.name}-{'match' if wanted else 'ignore'}-{number}")
    for name, rules in SETS.items()
    for rule in rules
    for wanted, lines in ((True, rule.samples.match), (False, rule.samples.ignore))
    for number, line in enumerate(lines)
]
TOGETHER = [
    {"hung-task", "docker-hung"},
    {"hung-task", "containerd-hung"},
    {"hung-task", "container-runtime-task-hung"},
    {"memory-read-error", "edac-corrected"},
    {"corrupt-image-layer", "container-creation-failed"},
    {"container-runtime-down", "pleg-unhealthy"},
    {"container-runtime-down", "kubelet-ended"},
    {"cgroup-driver-mismatch", "kubelet-ended"},
    {"cgroup-driver-mismatch", "sandbox-failed"},
    {"unit-failed", "unit-oom-killed"},
    {"kubelet-start", "frequent-kubelet-restart"},
    {"docker-start", "frequent-docker-restart"},
    {"containerd-start", "frequent-containerd-restart"},
]
"""Rules of which one line may fulfil both: one tells what happened, the other what it means."""
NPD_REASONS = {
    *("OOMKilling", "TaskHung", "UnregisterNetDevice", "KernelOops", "Ext4Error", "Ext4Warning", "IOError"),
    *("XfsHasShutdown", "MemoryReadError", "CperHardwareErrorCorrected", "CperHardwareErrorRecoverable"),
    *("CperHardwareErrorFatal", "DockerHung", "FilesystemIsReadOnly", "CorruptDockerImage", "CorruptDockerOverlay2"),
    *("DockerContainerStartupFailure", "KubeletStart", "DockerStart", "ContainerdStart", "CCPPCrash"),
    *("UncaughtException", "XorgCrash", "VMcore", "CorruptContainerImageLayer", "ContainerCreationFailed"),
    *("FrequentKubeletRestart", "FrequentDockerRestart", "FrequentContainerdRestart"),
}  # fmt: skip


def matches(name: str, line: str) -> dict[str, Any]:
    """The hits of a set's rules in `line`, by the rule's name."""
    hits = Matcher(SETS[name]).hits(Line(line.encode(), 0))
    return {hit.rule.name: hit for hit in hits if hit.kind is Kind.MATCH}


@pytest.mark.parametrize(("name", "rule", "line", "wanted"), SAMPLES)
def test_a_rule_keeps_to_its_samples(name: str, rule: Rule, line: str, wanted: bool) -> None:
    found = matches(name, line)
    assert (rule.name in found) is wanted
    if wanted:
        others = [other for other in found if other != rule.name and {other, rule.name} not in TOGETHER]
        assert others == []
        message = rendered(rule, {**found[rule.name].known(), "count": "1"})
        assert message.strip(" :")
        assert "{" not in message.replace(line, "")


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name) for rule in RULES if rule.clear_pattern])
def test_what_clears_a_condition_names_the_same_device(rule: Rule) -> None:
    devices = {
        hit.groups.get("device") or hit.groups.get("server") for hit in hits_of(rule, rule.samples.match)
    }
    assert None not in devices


def hits_of(rule: Rule, lines: tuple[str, ...]) -> list[Any]:
    """The hits of one rule in lines, each by itself."""
    return [hit for line in lines for hit in Matcher([rule]).hits(Line(line.encode(), 0))]


@pytest.mark.parametrize(
    ("name", "rule", "line", "device"),
    [
        ("kernel", "xfs-shutdown", "XFS (sda1): Ending clean mount", "sda1"),
        ("kernel", "xfs-shutdown", "XFS (dm-0): Ending recovery (logdev: internal)", "dm-0"),
        ("kernel", "nfs-server-not-responding", "nfs: server 10.0.0.7 OK", "10.0.0.7"),
        (
            "kernel",
            "filesystem-remounted-read-only",
            "EXT4-fs (loop0): re-mounted 5a0b r/w. Quota mode: none.",
            "loop0",
        ),
        ("kernel", "filesystem-remounted-read-only", "EXT4-fs (sda1): re-mounted. Opts: (null). r/w", "sda1"),
    ],
)
def test_the_line_that_clears(name: str, rule: str, line: str, device: str) -> None:
    (hit,) = [hit for hit in Matcher(SETS[name]).hits(Line(line.encode(), 0)) if hit.rule.name == rule]
    assert hit.kind is Kind.CLEAR
    assert device in hit.groups.values()


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("frequent-kubelet-restart", "Stopping kubelet.service - Kubernetes kubelet..."),
        ("frequent-docker-restart", "Stopping Docker Application Container Engine..."),
        ("frequent-containerd-restart", "Stopping containerd.service - containerd container runtime..."),
    ],
)
def test_a_stop_on_purpose_takes_a_start_off(rule: str, line: str) -> None:
    hits = Matcher(SETS["systemd"]).hits(Line(line.encode(), 0))
    assert [(hit.rule.name, hit.kind) for hit in hits] == [(rule, Kind.REVERT)]


def test_every_rule_has_two_samples_of_both_kinds() -> None:
    assert [r.name for r in RULES if min(len(r.samples.match), len(r.samples.ignore)) < 2] == []


def test_the_sets_are_without_faults_alone_and_all_together() -> None:
    for names in (*((name,) for name in SETS), tuple(SETS)):
        assert list(LogPatternOptions(rule_sets=names).faults()) == []
    assert [name for name, count in Counter(rule.name for rule in RULES).items() if count > 1] == []


def test_no_rule_writes_a_condition_of_the_kubelet() -> None:
    assert {rule.condition for rule in RULES} & set(KUBELETS_OWN) == set()


def test_everything_that_node_problem_detector_tells_is_told() -> None:
    assert {rule.told_reason for rule in RULES} >= NPD_REASONS


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        pytest.param("INFO: task umount.aufs:21568 blocked for more than 120 seconds.", {"TaskHung"}, id="aufs_umount_hung"),
        pytest.param("divide error: 0000 [#1] SMP ", {"KernelOops"}, id="divide_zero"),
        pytest.param("INFO: task docker:20744 blocked for more than 120 seconds.", {"TaskHung", "DockerHung"}, id="docker_hung"),
        pytest.param(
            "BUG: unable to handle kernel NULL pointer dereference at 0000000000000078", {"KernelOops"}, id="null_pointer"
        ),
        pytest.param(
            "Memory cgroup out of memory: Kill process 1012 (heapster) score 1035 or sacrifice child",
            {"OOMKilling"},
            id="oom_kill",
        ),
        pytest.param("EXT4-fs (sda1): Remounting filesystem read-only", {"FilesystemIsReadOnly"}, id="readonly_filesystem"),
        pytest.param(
            "unregister_netdevice: waiting for lo to become free. Usage count = 1", {"UnregisterNetDevice"}, id="unregister"
        ),
        pytest.param("aufs au_opts_verify:1570:docker[0000]: dirperm1 breaks the protection", set(), id="au_opts_verify"),
        pytest.param("usb 1-1: USB disconnect, device number 4", set(), id="a device was unplugged"),
    ],
)  # fmt: skip
def test_node_problem_detectors_own_lines(line: str, reasons: set[str]) -> None:
    assert {hit.rule.told_reason for hit in matches("kernel", line).values()} == reasons


def test_a_gpus_xid_is_told_with_its_meaning() -> None:
    hit = matches("kernel", "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus.")[
        "gpu-xid"
    ]
    assert rendered(hit.rule, hit.known()) == "GPU 0000:3b:00: Xid 79 (GPU has fallen off the bus)"
    unknown = matches("kernel", "NVRM: Xid (PCI:0000:3b:00): 7777, something new")["gpu-xid"]
    assert rendered(unknown.rule, unknown.known()) == "GPU 0000:3b:00: Xid 7777 (meaning not known)"

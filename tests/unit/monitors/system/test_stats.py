"""The metrics of Node Problem Detector: what the real machine says by other ways, and machines that are odd."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import socket
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
from nodedoctor.roster import MonitorSpec
from nodedoctor.types import Event, Metric, Result
from workers.monitors.system.stats.host import os_version
from workers.monitors.system.stats.monitor import StatsMonitor
from workers.monitors.system.stats.options import KNOWN, Section, StatsOptions, original
from workers.observer import Observer

NPD = {
    "cpu": {
        "cpu/runnable_task_count": ("gauge",),
        "cpu/usage_time": ("counter", "state"),
        "cpu/load_1m": ("gauge",),
        "cpu/load_5m": ("gauge",),
        "cpu/load_15m": ("gauge",),
        "system/processes_total": ("counter",),
        "system/procs_running": ("gauge",),
        "system/procs_blocked": ("gauge",),
        "system/interrupts_total": ("counter",),
        "system/cpu_stat": ("counter", "cpu", "stage"),
    },
    "disk": {
        "disk/io_time": ("counter", "device_name"),
        "disk/weighted_io": ("counter", "device_name"),
        "disk/avg_queue_len": ("gauge", "device_name"),
        "disk/operation_count": ("counter", "device_name", "direction"),
        "disk/merged_operation_count": ("counter", "device_name", "direction"),
        "disk/operation_bytes_count": ("counter", "device_name", "direction"),
        "disk/operation_time": ("counter", "device_name", "direction"),
        "disk/bytes_used": ("gauge", "device_name", "fs_type", "mount_option", "state"),
        "disk/percent_used": ("gauge", "device_name"),
    },
    "host": {"host/uptime": ("gauge", "kernel_version", "os_version")},
    "memory": {
        "memory/bytes_used": ("gauge", "state"),
        "memory/anonymous_used": ("gauge", "state"),
        "memory/page_cache_used": ("gauge", "state"),
        "memory/unevictable_used": ("gauge",),
        "memory/dirty_used": ("gauge", "state"),
        "memory/percent_used": ("gauge", "state"),
    },
    "net": {
        f"net/{name}": ("counter", "interface_name")
        for name in (
            *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_fifo", "rx_frame", "rx_compressed"),
            *("rx_multicast", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_fifo"),
            *("tx_collisions", "tx_carrier", "tx_compressed"),
        )
    },
    "osFeature": {"system/os_feature": ("gauge", "os_feature", "value")},
}
"""Node Problem Detector's metrics by section, each with its type and labels."""
EVERYTHING = {section: {"metrics": {name: name for name in names}} for section, names in NPD.items()}


def options(**sections: Any) -> StatsOptions:
    """The options as they are written in a file."""
    return msgspec.convert(sections, StatsOptions)


def asked(section: str, *names: str, **more: Any) -> StatsOptions:
    """Options that ask for a few metrics of one section, under their own names."""
    return options(**{section: {"metrics": {name: name for name in names}, **more}})


def watch(section: str, *names: str, host: Host | None = None, **more: Any) -> StatsMonitor:
    """A monitor of a few metrics of one section."""
    return StatsMonitor("stats", asked(section, *names, **more), host)


def events(monitor: StatsMonitor) -> list[str]:
    """What one check tells of in events."""
    return [found.message for found in monitor.check() if isinstance(found, Event)]


@pytest.fixture
def host(tmp_path: Path, machine: Path) -> Host:
    """A machine whose files the test may change."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    shutil.copytree(machine, proc)
    (proc / "uptime").write_text("354.20 700.11\n")
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "sys/kernel/osrelease").write_text("6.18.44\n")
    (proc / "cmdline").write_text("root=/dev/vda1 console=ttyS0\n")
    (proc / "modules").write_text("")
    (proc / "self/net").mkdir(parents=True)
    (sys / "block").mkdir(parents=True)
    return Host(proc=proc, sys=sys, dev=tmp_path / "dev")


def test_there_is_every_metric_that_node_problem_detector_has_with_its_type_and_labels() -> None:
    declared = {
        section: {original(gauge): (gauge.kind, *gauge.labels) for gauge in gauges}
        for section, gauges in KNOWN.items()
    }
    assert declared == NPD
    assert StatsMonitor.metrics == tuple(gauge for gauges in KNOWN.values() for gauge in gauges)


def test_everything_that_is_asked_for_is_there_bare_from_the_second_check_on(
    look: Callable[..., Any],
) -> None:
    monitor = StatsMonitor("stats", options(**EVERYTHING))
    first, second = look(monitor), look(monitor)
    wanted = {name.replace("/", "_") for names in NPD.values() for name in names}
    assert {metric.name for metric in first.metrics} == wanted - {"disk_avg_queue_len"}
    assert {metric.name for metric in second.metrics} == wanted
    assert all(metric.bare for metric in second.metrics)


def test_only_what_is_asked_for_is_yielded_under_the_name_that_is_asked_for() -> None:
    monitor = StatsMonitor("stats", options(cpu={"metrics": {"cpu/load_1m": "my/load"}}))
    (metric,) = monitor.check()
    assert isinstance(metric, Metric)
    assert (metric.name, metric.kind, metric.labels) == ("my_load", "gauge", {})


def test_a_check_without_conditions_is_fine_and_says_once_what_is_missing(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    (host.proc / "modules").unlink()
    wanted = asked("osFeature", "system/os_feature")
    spec = MonitorSpec("stats", StatsMonitor, wanted, interval=60, timeout=10)
    observer = Observer(spec, spec.build(host))
    first, second = observer.observe(), observer.observe()
    assert [first.result, second.result] == [Result.OK, Result.OK]
    assert [(c.type, c.status) for c in second.conditions] == [("MonitorFailing", "False")]
    text = f"{host.proc}/modules can't be read: No such file or directory"
    assert [(event.reason, event.message) for event in first.events] == [("StatsUnavailable", text)]
    assert second.events == ()
    assert caplog.record_tuples == [("workers.monitors.system.stats.monitor", logging.WARNING, text)]
    features = [metric.labels["os_feature"] for metric in second.metrics]
    assert features == ["KTD", "UnifiedCgroupHierarchy", "KernelModuleIntegrity"]


def test_what_is_missing_is_said_again_after_it_was_there(host: Host) -> None:
    monitor = watch("memory", "memory/bytes_used", host=host)
    (host.proc / "meminfo").rename(host.proc / "away")
    assert len(events(monitor)) == 1
    assert events(monitor) == []
    (host.proc / "away").rename(host.proc / "meminfo")
    assert events(monitor) == []
    (host.proc / "meminfo").unlink()
    assert len(events(monitor)) == 1


def test_a_source_that_nothing_is_asked_of_is_not_missed(host: Host) -> None:
    (host.proc / "stat").unlink()
    assert events(watch("cpu", "cpu/load_5m", host=host)) == []
    assert len(events(watch("cpu", "system/procs_running", host=host))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("loadavg", "", id="empty"),
        pytest.param("stat", "cpu  many\n", id="no number"),
        pytest.param("meminfo", "MemTotal\n", id="another form"),
        pytest.param("uptime", "soon\n", id="no time"),
        pytest.param("modules", "\n", id="an empty line"),
    ],
)
def test_a_source_that_holds_something_else_ends_nothing(
    host: Host, look: Callable[..., Any], name: str, text: str
) -> None:
    wanted = StatsMonitor("stats", options(**EVERYTHING), host)
    before = {metric.name for metric in look(wanted).metrics}
    (host.proc / name).write_text(text)
    after = {metric.name for metric in look(wanted).metrics}
    told = events(StatsMonitor("stats", options(**EVERYTHING), host))
    assert [text for text in told if f"{host.proc}/{name} is not what it should be" in text]
    assert after < before or name == "modules"
    assert len(after) >= 5


def test_a_source_that_fails_while_it_is_read_ends_nothing(host: Host, look: Callable[..., Any]) -> None:
    """Such an error carries no name of a file."""
    (host.proc / "stat").unlink()
    (host.proc / "stat").symlink_to("/proc/self/mem")
    monitor = watch("cpu", "cpu/load_1m", "cpu/usage_time", host=host)
    assert events(monitor) == [f"{host.proc}/stat can't be read: Input/output error"]
    assert look(monitor).metric("cpu_load_1m") == 0


def test_cpu_time_is_in_seconds_and_as_the_kernel_counts_it_however_often_one_looks(
    look: Callable[..., Any],
) -> None:
    monitor = watch("cpu", "cpu/usage_time", "system/cpu_stat")
    for _ in range(3):
        before, before_each = psutil.cpu_times(), psutil.cpu_times(percpu=True)
        seen = look(monitor)
        after, after_each = psutil.cpu_times(), psutil.cpu_times(percpu=True)
        for state in ("user", "nice", "system", "idle", "irq", "softirq", "steal", "guest", "guest_nice"):
            value = seen.metric("cpu_usage_time", state=state)
            assert getattr(before, state) - 0.05 <= value <= getattr(after, state) + 0.05
        for number, (first, last) in enumerate(zip(before_each, after_each, strict=True)):
            for stage, state in (("user", "user"), ("iRQ", "irq"), ("softIRQ", "softirq"), ("idle", "idle")):
                value = seen.metric("system_cpu_stat", cpu=f"cpu{number}", stage=stage)
                assert getattr(first, state) - 0.05 <= value <= getattr(last, state) + 0.05


def test_processes_and_interrupts_are_counted_once(look: Callable[..., Any]) -> None:
    monitor = watch("cpu", "system/processes_total", "system/interrupts_total")
    first = look(monitor)
    for _ in range(5):
        subprocess.run(["true"], check=True)
    before = psutil.cpu_stats().interrupts
    second = look(monitor)
    assert before <= second.metric("system_interrupts_total") <= psutil.cpu_stats().interrupts
    assert second.metric("system_processes_total") - first.metric("system_processes_total") >= 5
    assert second.metric("system_processes_total") < 2 * first.metric("system_processes_total")


def test_a_recorded_machine_is_read_number_by_number(host: Host, look: Callable[..., Any]) -> None:
    (host.proc / "loadavg").write_text("0.50 1.25 2.75 3/99 6520\n")
    seen = look(StatsMonitor("stats", options(cpu=EVERYTHING["cpu"], memory=EVERYTHING["memory"]), host))
    loads = ("cpu_runnable_task_count", "cpu_load_1m", "cpu_load_5m", "cpu_load_15m")
    assert [seen.metric(name) for name in loads] == [0.5, 0.5, 1.25, 2.75]
    assert seen.metric("cpu_usage_time", state="idle") == 19032.42
    assert seen.metric("cpu_usage_time", state="steal") == 4.04
    assert seen.metric("system_cpu_stat", cpu="cpu1", stage="softIRQ") == 0.43
    totals = ("processes_total", "procs_running", "procs_blocked", "interrupts_total")
    assert [seen.metric(f"system_{name}") for name in totals] == [6520, 2, 0, 281404]
    kib = {
        ("memory_anonymous_used", "active"): 1580,
        ("memory_anonymous_used", "inactive"): 26784,
        ("memory_page_cache_used", "active"): 28200,
        ("memory_page_cache_used", "inactive"): 28348,
        ("memory_dirty_used", "dirty"): 268,
        ("memory_dirty_used", "writeback"): 0,
        ("memory_bytes_used", "slab"): 53096,
        ("memory_bytes_used", "used"): 24684084 - 24473988 - 1264 - 64048 - 53096,
    }
    assert {key: seen.metric(key[0], state=key[1]) for key in kib} == {
        key: size * 1024 for key, size in kib.items()
    }
    assert seen.metric("memory_unevictable_used") == 17140 * 1024
    assert seen.metric("memory_percent_used", state="used") == pytest.approx(0.3715, abs=0.0001)


def test_all_states_of_memory_are_the_whole(look: Callable[..., Any]) -> None:
    seen = look(watch("memory", "memory/bytes_used", "memory/percent_used"))
    assert (
        sum(metric.value for metric in seen.metrics if "bytes" in metric.name)
        == psutil.virtual_memory().total
    )
    share = seen.metric("memory_bytes_used", state="used") / psutil.virtual_memory().total
    assert seen.metric("memory_percent_used", state="used") == pytest.approx(100 * share)


def test_a_kernel_that_tells_less_of_memory_gives_what_it_tells(host: Host, look: Callable[..., Any]) -> None:
    (host.proc / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 40 kB\nHugePages_Total: 7\n")
    monitor = StatsMonitor("stats", options(memory=EVERYTHING["memory"]), host)
    seen = look(monitor)
    assert [(metric.labels["state"], metric.value) for metric in seen.metrics] == [("free", 40960)]
    assert monitor.told == set()


def test_what_passes_an_interface_is_counted_once(look: Callable[..., Any]) -> None:
    monitor = StatsMonitor("stats", options(net=EVERYTHING["net"]))
    look(monitor)
    before = psutil.net_io_counters(pernic=True)["lo"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(20):
            sender.sendto(b"x" * 1000, ("127.0.0.1", 9))
    seen = look(monitor)
    after = psutil.net_io_counters(pernic=True)["lo"]
    sent = seen.metric("net_tx_bytes", interface_name="lo")
    assert before.bytes_sent + 20_000 < sent <= after.bytes_sent
    packets = seen.metric("net_rx_packets", interface_name="lo")
    assert before.packets_recv + 20 <= packets <= after.packets_recv


def test_all_interfaces_are_told_of(look: Callable[..., Any], eventually: Callable[..., None]) -> None:
    """Others may add and remove some meanwhile."""

    def told() -> set[str]:
        return {metric.labels["interface_name"] for metric in look(watch("net", "net/rx_bytes")).metrics}

    eventually(lambda: told() == set(psutil.net_io_counters(pernic=True)))


def test_each_column_of_the_interfaces_is_told_under_its_name(host: Host, look: Callable[..., Any]) -> None:
    lines = ["Inter-|   Receive", " face |bytes", f"  eth0:{' '.join(map(str, range(1, 17)))}", ""]
    (host.proc / "self/net/dev").write_text("\n".join(lines))
    seen = look(StatsMonitor("stats", options(net=EVERYTHING["net"]), host))
    assert {metric.name: metric.value for metric in seen.metrics} == {
        **dict(
            zip(
                ("net_rx_bytes", "net_rx_packets", "net_rx_errors", "net_rx_dropped"),
                (1, 2, 3, 4),
                strict=True,
            )
        ),
        "net_rx_fifo": 5,
        "net_rx_frame": 6,
        "net_rx_compressed": 7,
        "net_rx_multicast": 8,
        "net_tx_bytes": 9,
        "net_tx_packets": 10,
        "net_tx_errors": 11,
        "net_tx_dropped": 12,
        "net_tx_fifo": 13,
        "net_tx_collisions": 14,
        "net_tx_carrier": 15,
        "net_tx_compressed": 16,
    }


def test_the_network_is_that_of_the_host_and_some_interfaces_can_be_left_out(
    host: Host, look: Callable[..., Any]
) -> None:
    rest = b" 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    (host.proc / "1/net").mkdir(parents=True)
    names = (b"eth0", b"veth12", b"my-veth0", b"odd\xff", b"alias:1")
    table = b"head\nhead\n" + b"".join(b" " + name + b":" + rest for name in names)
    (host.proc / "1/net/dev").write_bytes(table)
    (host.proc / "self/net/dev").write_bytes(b"head\nhead\n inner:" + rest)
    seen = look(watch("net", "net/rx_bytes", host=host, excludeInterfaces="^veth"))
    told = [metric.labels["interface_name"] for metric in seen.metrics]
    assert told == ["eth0", "my-veth0", "odd\\xff", "alias:1"]
    assert msgspec.json.encode(seen.metrics)


def test_the_host_runs_since_its_boot_with_its_kernel_and_distribution(look: Callable[..., Any]) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    (metric,) = look(watch("host", "host/uptime")).metrics
    assert before - 1 <= metric.value <= time.clock_gettime(time.CLOCK_BOOTTIME)
    release = platform.freedesktop_os_release()
    assert metric.labels["kernel_version"] == platform.release()
    assert metric.labels["os_version"] in {
        f"{release['ID']} {release.get('VERSION')}",
        release["PRETTY_NAME"],
    }


@pytest.mark.parametrize(
    ("roots", "expected"),
    [
        pytest.param(["1/root", "self/root/host", "self/root"], "1/root", id="that of PID 1"),
        pytest.param(["self/root/host", "self/root"], "self/root/host", id="that below /host"),
        pytest.param(["self/root"], "self/root", id="the own one"),
        pytest.param([], "Linux", id="none"),
    ],
)
@pytest.mark.parametrize("place", ["etc", "usr/lib"])
def test_a_container_tells_of_the_distribution_of_its_host(
    host: Host, look: Callable[..., Any], roots: list[str], expected: str, place: str
) -> None:
    for root in roots:
        (host.proc / root / place).mkdir(parents=True)
        (host.proc / root / place / "os-release").write_text(f"PRETTY_NAME={root}\n")
    seen = look(watch("host", "host/uptime", host=host))
    assert seen.metric("host_uptime", kernel_version="6.18.44", os_version=expected) == 354.2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('ID=debian\nVERSION="12 (bookworm)"', "debian 12 (bookworm)", id="debian"),
        pytest.param('ID="rhel"\nVERSION="9.4 (Plow)"', "rhel 9.4 (Plow)", id="a quoted ID"),
        pytest.param("ID=cos\nVERSION=77\nBUILD_ID=12293.0.0", "cos 77-12293.0.0", id="cos"),
        pytest.param("ID='sles'\nVERSION='15-SP4'", "sles 15-SP4", id="single quotes"),
        pytest.param(
            "NAME=Alpine\nID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME='Alpine Linux v3.20'",
            "Alpine Linux v3.20",
            id="one that Node Problem Detector refuses",
        ),
        pytest.param("NAME=Talos\nID=talos\nVERSION_ID=v1.7.5", "Talos v1.7.5", id="no pretty name"),
        pytest.param("ID=debian\nPRETTY_NAME='Debian sid'", "Debian sid", id="no version"),
        pytest.param("NAME=Arch", "Arch", id="a name alone"),
        pytest.param(
            '# about\n\nNAME=Foo\'s\nPRETTY_NAME="A \\"B\\" # C"\nnothing', 'A "B" # C', id="odd lines"
        ),
        pytest.param("", "Linux", id="nothing"),
    ],
)
def test_any_distribution_has_a_version(text: str, expected: str) -> None:
    assert os_version(text) == expected


@pytest.mark.parametrize(
    ("command_line", "expected"),
    [
        pytest.param("quiet", [], id="nothing asked for"),
        pytest.param("quiet csm.enabled=1", ["KTD"], id="KTD"),
        pytest.param("csm.enabled=1 csm.enabled=0", [], id="the last one holds"),
        pytest.param('dyndbg="file a +p csm.enabled=1 "', [], id="within quotes"),
        pytest.param("module.sig_enforce=1", [], id="signed and not pinned"),
        pytest.param(
            "module.sig_enforce=1 loadpin.enabled=1", ["KernelModuleIntegrity"], id="signed and pinned"
        ),
        pytest.param(
            "module.sig-enforce loadpin.enforce=Y", ["KernelModuleIntegrity"], id="as newer kernels have it"
        ),
    ],
)
def test_features_that_the_kernel_was_started_with(
    host: Host, look: Callable[..., Any], command_line: str, expected: list[str]
) -> None:
    (host.proc / "cmdline").write_text(f"{command_line}\n")
    seen = look(watch("osFeature", "system/os_feature", host=host))
    assert [metric.labels["os_feature"] for metric in seen.metrics if metric.value] == expected


def test_the_unified_hierarchy_is_there_when_it_is_mounted_and_not_when_it_is_asked_for(
    host: Host, look: Callable[..., Any]
) -> None:
    """Node Problem Detector looked at the command line: 0 on every host that has it by default."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", "/sys/fs/cgroup"], check=True, capture_output=True, text=True
    ).stdout.strip()
    labels = {"os_feature": "UnifiedCgroupHierarchy", "value": ""}
    real = look(watch("osFeature", "system/os_feature"))
    assert real.metric("system_os_feature", **labels) == (kind == "cgroup2fs")
    (host.proc / "cmdline").write_text("systemd.unified_cgroup_hierarchy=1\n")
    assert look(watch("osFeature", "system/os_feature", host=host)).metric("system_os_feature", **labels) == 0
    (host.sys / "fs/cgroup").mkdir(parents=True)
    (host.sys / "fs/cgroup/cgroup.controllers").touch()
    assert look(watch("osFeature", "system/os_feature", host=host)).metric("system_os_feature", **labels) == 1


MODULES = """\
zfs 6295552 12 - Live 0xffffffffc0e00000 (PE)
nvidia 56717312 2 nvidia_uvm,nvidia_modeset, Live 0xffffffffc2e00000 (PO)
vboxdrv 536576 0 - Live 0xffffffffc0a00000 (OE+)
staging 4096 0 - Live 0xffffffffc0900000 (CE)
nf_nat 49152 2 xt_nat,xt_MASQUERADE, Live 0xffffffffc0800000
"""


def test_foreign_modules_are_told_but_for_those_that_are_known(
    host: Host, look: Callable[..., Any], tmp_path: Path
) -> None:
    (host.proc / "modules").write_text(MODULES)
    labels = {"os_feature": "UnknownModules", "value": "vboxdrv,zfs"}
    seen = look(watch("osFeature", "system/os_feature", host=host))
    assert seen.metric("system_os_feature", **labels) == 1
    assert seen.metric("system_os_feature", os_feature="GPUSupport", value="") == 1
    known = tmp_path / "known.json"
    for names, value in ((["zfs"], "vboxdrv"), (["zfs", "vboxdrv"], "")):
        known.write_text(json.dumps([{"moduleName": name, "instances": 1} for name in names]))
        seen = look(watch("osFeature", "system/os_feature", host=host, knownModules=str(known)))
        labels["value"] = value
        assert seen.metric("system_os_feature", **labels) == float(bool(value))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "can't be read: No such file or directory", id="missing"),
        pytest.param("[{", "truncated", id="broken"),
        pytest.param('["zfs"]', "Expected `object`", id="another form"),
    ],
)
def test_a_list_of_known_modules_that_can_not_be_used_is_said_once_and_the_rest_goes_on(
    host: Host, look: Callable[..., Any], tmp_path: Path, content: str | None, expected: str
) -> None:
    (host.proc / "modules").write_text(MODULES)
    known = tmp_path / "known.json"
    if content is not None:
        known.write_text(content)
    monitor = watch("osFeature", "system/os_feature", host=host, knownModules=str(known))
    (message,) = events(monitor)
    assert message.startswith(str(known))
    assert expected in message
    assert message.endswith("no foreign module is known")
    assert events(monitor) == []
    labels = {"os_feature": "UnknownModules", "value": "vboxdrv,zfs"}
    assert look(monitor).metric("system_os_feature", **labels) == 1


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        pytest.param(EVERYTHING, {}, id="everything"),
        pytest.param(
            {},
            {"cpu": "there is nothing to measure: name metrics in cpu, disk, host, memory, net, osFeature"},
            id="nothing",
        ),
        pytest.param(
            {"host": {"metrics": {"host/uptimes": "up"}}},
            {
                "host.metrics": "unknown metric 'host/uptimes'; allowed: host/uptime; did you mean 'host/uptime'?"
            },
            id="an unknown metric",
        ),
        pytest.param(
            {"cpu": {"metrics": {"cpu/load_1m": "load.1m", "cpu/load_5m": ""}}},
            {
                "cpu.metrics.cpu/load_1m": "found 'load.1m', allowed: letters, digits, _ and :, no digit first;"
                " a slash becomes an underscore",
                "cpu.metrics.cpu/load_5m": "found '', allowed: letters, digits, _ and :, no digit first;"
                " a slash becomes an underscore",
            },
            id="names that Prometheus refuses",
        ),
        pytest.param(
            {
                "cpu": {"metrics": {"cpu/load_1m": "load", "cpu/load_5m": "a/b"}},
                "memory": {"metrics": {"memory/bytes_used": "a_b"}},
            },
            {"memory.metrics.memory/bytes_used": "'a_b' is the name of cpu/load_5m already"},
            id="one name for two",
        ),
    ],
)
def test_what_can_never_be_right_is_a_fault(sections: dict[str, Any], expected: dict[str, str]) -> None:
    assert dict(options(**sections).faults()) == expected


def test_patterns_and_paths_that_can_not_be_used_are_faults() -> None:
    bad = asked("net", "net/rx_bytes", excludeInterfaces="veth(")
    ((path, text),) = bad.faults()
    assert path == "net.excludeInterfaces"
    assert "missing )" in text
    relative = asked("osFeature", "system/os_feature", knownModules="guestosconfig/known-modules.json")
    assert list(relative.faults()) == [
        ("osFeature.knownModules", "found 'guestosconfig/known-modules.json', allowed: an absolute path")
    ]


def test_what_is_asked_for_by_mistake_is_named_with_file_and_path(tmp_path: Path) -> None:
    file = tmp_path / "stats.yaml"
    file.write_text(
        "apiVersion: node-doctor.io/v1alpha1\nkind: NodeDoctorConfig\nmonitors:\n"
        "- {name: stats, type: system-stats, config: {cpu: {metrics: {'cpu/load.[2m': load}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nodedoctor", "validate", file],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "NODE_NAME": "n"},
    )
    assert done.returncode == 2
    assert "monitors[0].config.cpu.metrics" in done.stdout + done.stderr
    assert "unknown metric 'cpu/load.[2m'" in done.stdout + done.stderr


def test_each_metric_has_its_help_under_the_name_that_it_is_given() -> None:
    options = StatsOptions(cpu=Section({"cpu/load_1m": "load_now"}))
    (gauge,) = StatsMonitor.metrics_of("stats", options)
    assert gauge.name == "load_now"
    assert gauge.help

"""The CPU monitor: the arithmetic as tables, the real machine, and a machine that is really busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.host import Host
from workers.monitors.system.cpu import CpuMonitor, CpuOptions, Times, cpu_times, online, shares
from workers.throttling import Throttling, own_throttling, throttling


@pytest.fixture
def host(tmp_path: Path, machine: Path) -> Host:
    """A machine whose files the test may change; no time passes there by itself."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    sys.mkdir()
    for name in ("stat", "loadavg"):
        (proc / name).write_text((machine / name).read_text())
    return Host(proc=proc, sys=sys)


def pass_time(host: Host, **ticks: int) -> None:
    """Let the processors of `host` spend so many ticks on what is named as in proc_stat(5)."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    first, rest = (host.proc / "stat").read_text().split("\n", 1)
    numbers = [int(word) + ticks.get(name, 0) for name, word in zip(names, first.split()[1:], strict=True)]
    (host.proc / "stat").write_text(f"cpu  {' '.join(map(str, numbers))}\n{rest}")


def set_throttles(host: Host, cpu: int, core: int, package: int) -> None:
    """Give a processor of `host` the counters of Documentation/ABI/testing/sysfs-devices-system-cpu."""
    folder = host.sys / f"devices/system/cpu/cpu{cpu}/thermal_throttle"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "core_throttle_count").write_text(f"{core}\n")
    (folder / "package_throttle_count").write_text(f"{package}\n")
    (folder / "core_throttle_max_time_ms").write_text("31\n")


def test_time_of_guests_is_not_counted_twice_and_waiting_for_a_disk_is_idle() -> None:
    stat = "cpu  100 20 30 4000 500 6 7 80 90 10\ncpu0 100 20 30 4000 500 6 7 80 90 10\n"
    assert cpu_times(stat) == Times(busy=100 + 20 + 30 + 6 + 7, stolen=80, idle=4500, waiting=500)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(Times(0, 0, 0), Times(0, 0, 100), (0, 0, 0), id="all idle"),
        pytest.param(Times(50, 5, 100), Times(100, 5, 150), (0.5, 0, 0), id="half of it busy"),
        pytest.param(Times(0, 0, 0), Times(100, 0, 0), (1, 0, 0), id="all busy"),
        pytest.param(Times(0, 0, 0), Times(60, 30, 10), (0.6, 0.3, 0), id="the hypervisor took some"),
        pytest.param(
            Times(10, 0, 100), Times(60, 0, 90), (1, 0, 0), id="time waited for disks was taken back"
        ),
        pytest.param(Times(0, 0, 0, 0), Times(20, 0, 80, 60), (0.2, 0, 0.6), id="waiting for disks"),
        pytest.param(Times(0, 0, 50, 0), Times(40, 0, 60, 90), (0.8, 0, 1), id="idle time was taken back"),
        pytest.param(Times(10, 50, 100), Times(60, 40, 150), (0.5, 0, 0), id="stolen time was taken back"),
        pytest.param(Times(10, 1, 100), Times(10, 1, 100), None, id="no time passed"),
        pytest.param(Times(900, 0, 900), Times(5, 0, 5), None, id="the machine was restored and counts anew"),
        pytest.param(
            Times(100, 0, 5000), Times(600, 0, 100), None, id="busier, and yet less time than before"
        ),
    ],
)
def test_shares_are_of_the_time_between_two_readings(
    before: Times, now: Times, expected: tuple[float, float, float] | None
) -> None:
    assert shares(before, now) == (pytest.approx(expected) if expected else None)


def test_processors_that_are_offline_do_not_count() -> None:
    assert online("cpu  1 2\ncpu0 1 2\ncpu2 1 2\nintr 5\nctxt 7\n") == 2


def test_the_real_machine_tells_all_it_has(look: Callable[..., Any]) -> None:
    seen = look(CpuMonitor("cpu", CpuOptions()))
    assert seen.metric("cpu_online_processors") == os.sysconf("SC_NPROCESSORS_ONLN")
    assert 0 <= seen.metric("cpu_utilization_ratio") <= 1
    assert 0 <= seen.metric("cpu_steal_ratio") <= 1
    assert 0 <= seen.metric("cpu_iowait_ratio") <= 1
    assert seen.metric("cpu_utilization_ratio") - 0.1 <= seen.metric("cpu_busiest_core_ratio") <= 1
    cores = os.sysconf("SC_NPROCESSORS_ONLN")
    assert seen.metric("cpu_load_per_core", minutes="15") * cores == pytest.approx(
        os.getloadavg()[2], abs=0.1
    )
    assert "Unknown" not in {verdict.status for verdict in seen.verdicts.values()}


def test_a_machine_that_is_really_busy_is_overloaded_until_it_is_not(
    look: Callable[..., Any], burning: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(warning_threshold=1, critical_threshold=80, steal_threshold=100))
    end = burning(2 * os.sysconf("SC_NPROCESSORS_ONLN"))
    eventually(lambda: look(monitor)["CPUOverloaded"] == "True")
    end()
    eventually(lambda: look(monitor)["CPUOverloaded"] == "False")


@pytest.mark.parametrize(
    ("ticks", "status", "message"),
    [
        pytest.param({"user": 89, "idle": 11}, "False", "", id="below both"),
        pytest.param({"user": 90, "idle": 10}, "False", "the processors are busier than 90 %", id="warning"),
        pytest.param({"system": 98, "idle": 2}, "True", "the processors are busier than 98 %", id="critical"),
        pytest.param({"iowait": 99, "user": 1}, "False", "", id="only waiting for disks"),
    ],
)
def test_utilisation_is_compared_with_two_thresholds(
    host: Host, look: Callable[..., Any], ticks: dict[str, int], status: str, message: str
) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(), host)
    look(monitor)
    pass_time(host, **ticks)
    verdict = look(monitor).verdicts["CPUOverloaded"]
    assert (verdict.status, verdict.message) == (status, message)


def test_time_taken_by_the_hypervisor_is_a_problem_until_it_gives_it_back(
    host: Host, look: Callable[..., Any]
) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(), host)
    look(monitor)
    pass_time(host, idle=75, steal=25)
    seen = look(monitor)
    assert (seen["CPUStealHigh"], seen.metric("cpu_steal_ratio")) == ("True", 0.25)
    pass_time(host, idle=100)
    assert look(monitor)["CPUStealHigh"] == "False"


def test_counters_that_stand_still_are_unknown_and_the_rest_is_still_told(
    host: Host, look: Callable[..., Any]
) -> None:
    seen = look(CpuMonitor("cpu", CpuOptions(), host))
    assert (seen["CPUOverloaded"], seen["CPUStealHigh"]) == ("Unknown", "Unknown")
    assert seen.metric("cpu_utilization_ratio") is None
    assert seen.metric("cpu_online_processors") == 2
    assert seen["CPUThermalThrottled"] == "False"


def test_time_waited_for_disks_is_told(host: Host, look: Callable[..., Any]) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(), host)
    look(monitor)
    pass_time(host, idle=60, iowait=40)
    assert look(monitor).metric("cpu_iowait_ratio") == 0.4


def test_one_processor_that_is_always_busy_does_not_hide_in_the_mean(
    host: Host, look: Callable[..., Any]
) -> None:
    def stat(busy: int, idle: int) -> str:
        cores = [f"cpu{n} {busy if n == 7 else 0} 0 0 {idle if n == 7 else 1000} 0 0 0 0" for n in range(64)]
        return "\n".join([f"cpu {busy} 0 0 {63000 + idle} 0 0 0 0", *cores, "ctxt 7"])

    monitor = CpuMonitor("cpu", CpuOptions(), host)
    (host.proc / "stat").write_text(stat(0, 0).replace(" 1000 ", " 900 ").replace(" 63000 ", " 56700 "))
    look(monitor)
    (host.proc / "stat").write_text(stat(99, 1))
    seen = look(monitor)
    assert seen.metric("cpu_busiest_core_ratio") == 0.99
    assert seen.metric("cpu_utilization_ratio") < 0.02
    assert seen["CPUOverloaded"] == "False"
    (host.proc / "stat").write_text(stat(99, 101).replace(" 1000 ", " 1100 ").replace(" 63101 ", " 69401 "))
    assert look(monitor).metric("cpu_busiest_core_ratio") == 0


def test_load_is_no_problem_unless_asked_for(host: Host, look: Callable[..., Any]) -> None:
    (host.proc / "loadavg").write_text("400.00 300.00 200.00 2/900 4711\n")
    by_default, asked = CpuOptions(), CpuOptions(load_per_core_threshold=4)
    monitors = [CpuMonitor("cpu", options, host) for options in (by_default, asked)]
    for monitor in monitors:
        look(monitor)
    pass_time(host, idle=100)
    fine, bad = (look(monitor) for monitor in monitors)
    assert fine["CPUOverloaded"] == "False"
    assert fine.metric("cpu_load_per_core", minutes="5") == 150
    assert (bad["CPUOverloaded"], bad.verdicts["CPUOverloaded"].reason) == ("True", "LoadHigh")
    (host.proc / "loadavg").write_text("0.50 0.50 200.00 2/900 4711\n")
    pass_time(host, idle=100)
    assert look(monitors[1])["CPUOverloaded"] == "False"


def test_a_hot_processor_is_a_problem_while_it_is_slowed_down_and_not_because_it_once_was(
    host: Host, look: Callable[..., Any]
) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(), host)
    set_throttles(host, 0, core=120, package=300)
    set_throttles(host, 1, core=80, package=300)
    seen = look(monitor)
    assert seen["CPUThermalThrottled"] == "False"
    assert seen.metric("cpu_throttles_total", scope="core") == 200
    assert seen.metric("cpu_throttles_total", scope="package") == 600
    set_throttles(host, 1, core=80, package=301)
    assert look(monitor)["CPUThermalThrottled"] == "True"
    assert look(monitor)["CPUThermalThrottled"] == "False"


def test_a_processor_that_comes_online_brings_its_old_count_and_is_not_hot(
    host: Host, look: Callable[..., Any]
) -> None:
    monitor = CpuMonitor("cpu", CpuOptions(), host)
    set_throttles(host, 0, core=1, package=1)
    look(monitor)
    set_throttles(host, 1, core=5000, package=5000)
    assert look(monitor)["CPUThermalThrottled"] == "False"


def test_a_machine_without_throttle_counters_is_fine_and_has_no_such_metric(
    host: Host, look: Callable[..., Any]
) -> None:
    seen = look(CpuMonitor("cpu", CpuOptions(), host))
    assert seen["CPUThermalThrottled"] == "False"
    assert "cpu_throttles_total" not in {metric.name for metric in seen.metrics}


def test_counters_that_may_not_be_read_are_a_matter_of_permission(host: Host, request: Any) -> None:
    set_throttles(host, 0, core=1, package=1)
    (host.proc / "stat").chmod(0)
    request.getfixturevalue("as_nobody")
    with pytest.raises(PermissionError):
        list(CpuMonitor("cpu", CpuOptions(), host).check())


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param(CpuOptions(), [], id="the defaults"),
        pytest.param(CpuOptions(warning_threshold=98), ["warningThreshold"], id="both the same"),
        pytest.param(CpuOptions(critical_threshold=50), ["warningThreshold"], id="the wrong way round"),
        pytest.param(
            CpuOptions(load_per_core_threshold=0), ["loadPerCoreThreshold"], id="any load is too much"
        ),
    ],
)
def test_thresholds_that_can_never_be_right_are_faults(options: CpuOptions, paths: list[str]) -> None:
    assert [path for path, _ in options.faults()] == paths


THROTTLED_AGENT = """
import os, sys, time
from pathlib import Path
from nodedoctor.monitor import Finding
from workers.monitors.system.cpu import CpuMonitor, CpuOptions
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
monitor = CpuMonitor("cpu", CpuOptions())
def bad():
    return [i.bad for i in monitor.check() if isinstance(i, Finding) and i.type == "AgentThrottled"]
found = [bad()]
end = time.monotonic() + 0.6
while time.monotonic() < end:
    pass
found.append(bad())
Path(sys.argv[2], "cpu.cfs_quota_us").write_text("-1")
time.sleep(0.3)
bad()
time.sleep(0.1)
print(found + [bad()])
"""


@pytest.mark.parametrize("inner", ["", "container"], ids=["its own limit", "its pod's limit"])
def test_an_agent_that_a_limit_holds_back_says_so_until_it_may_run(inner: str) -> None:
    group = Path(f"/sys/fs/cgroup/cpu/nd-test-{os.getpid()}")
    if not group.parent.is_dir() or os.geteuid():
        assert os.environ.get("CI") != "true"
        pytest.skip("no CPU controller of cgroup v1 here")
    (group / inner).mkdir(parents=True)
    try:
        (group / "cpu.cfs_quota_us").write_text("20000")
        words = [sys.executable, "-c", THROTTLED_AGENT, str(group / inner), str(group)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    finally:
        for made in dict.fromkeys((group / inner, group)):
            made.rmdir()
    assert done.stdout.strip() == "[[False], [True], [False]]"


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n", Throttling(9, 3, 1.5)),
        ("usage_usec 7\nnr_periods 9\nnr_throttled 3\nthrottled_usec 1500000\n", Throttling(9, 3, 1.5)),
        ("usage_usec 7\nuser_usec 3\n", None),
    ],
    ids=["cgroup v1", "cgroup v2", "the top of cgroup v2"],
)
def test_both_versions_of_control_groups_tell_how_often_they_held_back(
    stat: str, expected: Throttling | None
) -> None:
    assert throttling(stat) == expected


@pytest.mark.parametrize(
    ("groups", "files", "seen"),
    [
        pytest.param(
            "0::/pods/a/c", ["pods/a/c", "pods/a", "pods", "pods/b", ""], [0, 1, 2, 4], id="version 2"
        ),
        pytest.param("0::/", [""], [0], id="version 2, in a container"),
        pytest.param(
            "3:cpu,cpuacct:/pods/a\n0::/", ["cpu,cpuacct/pods/a", "cpu,cpuacct/pods"], [0, 1], id="version 1"
        ),
        pytest.param("3:cpu,cpuacct:/pods/a", ["cpu,cpuacct"], [0], id="version 1, in a container"),
        pytest.param(
            "3:cpu:/\n0::/pods", ["cpu", "cpu/pods"], [0], id="both, of which the first has the CPU"
        ),
        pytest.param("3:memory:/pods", ["memory/pods"], [], id="no CPU controller"),
    ],
)
def test_the_groups_around_a_process_are_looked_at_as_far_as_they_are_visible(
    groups: str, files: list[str], seen: list[int], tmp_path: Path
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(f"{groups}\n")
    stats = [tmp_path / "cgroup" / file / "cpu.stat" for file in files]
    for number, stat in enumerate(stats):
        stat.parent.mkdir(parents=True, exist_ok=True)
        stat.write_text(f"nr_periods {number}\nnr_throttled 0\nthrottled_usec 0\n")
    found = own_throttling(tmp_path, tmp_path / "cgroup")
    assert found == {stats[number]: Throttling(number, 0, 0) for number in seen}

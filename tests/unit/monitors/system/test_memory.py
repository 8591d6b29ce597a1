"""The memory monitor: the real machine, memory and swap that are really used up, and other machines' files."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.types import Event, Metric
from workers.monitors.system.memory import MemoryMonitor, MemoryOptions, meminfo

MADV_PAGEOUT = 21
"""Not in the standard library before Python 3.13; madvise(2)."""


@pytest.fixture
def proc(tmp_path: Path, machine: Path) -> Path:
    """/proc of a machine with 24 GiB of memory and no swap, for the test to change."""
    (tmp_path / "meminfo").write_text((machine / "meminfo").read_text())
    return tmp_path


@pytest.fixture
def swap(tmp_path: Path, run: Callable[..., None]) -> Iterator[int]:
    """64 MiB of swap in a file, preferred to other swap; gives how many bytes of swap there are then."""
    file = tmp_path / "swap"
    file.write_bytes(bytes(64 << 20))
    file.chmod(0o600)
    run("mkswap", file)
    run("swapon", "--priority", "1000", file)
    try:
        yield meminfo(Path("/proc/meminfo").read_text())["SwapTotal"]
    finally:
        subprocess.run(["swapoff", file], check=True)


def set_sizes(proc: Path, **sizes: int) -> None:
    """Change sizes (kB) in the meminfo of `proc`."""
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    changed = [
        f"{name} {sizes.get(name.rstrip(':'), number)} {' '.join(unit)}" for name, number, *unit in lines
    ]
    (proc / "meminfo").write_text("\n".join(changed) + "\n")


def used_percent() -> float:
    """How much of this machine's memory is not available."""
    sizes = meminfo(Path("/proc/meminfo").read_text())
    return 100 * (1 - sizes["MemAvailable"] / sizes["MemTotal"])


def test_sizes_are_in_bytes_and_numbers_of_pages_are_left_out() -> None:
    text = "MemTotal:       24684084 kB\nHugePages_Total:       3\nHugepagesize:       2048 kB\n"
    assert meminfo(text) == {"MemTotal": 24684084 * 1024, "Hugepagesize": 2048 * 1024}


def test_the_real_machine_has_the_memory_that_the_system_call_tells(look: Callable[..., Any]) -> None:
    seen = look(MemoryMonitor("memory", MemoryOptions()))
    assert seen.metric("memory_size_bytes") == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < seen.metric("memory_available_bytes") < seen.metric("memory_size_bytes")
    assert 0 < seen.metric("memory_used_ratio") < 1
    assert "Unknown" not in {verdict.status for verdict in seen.verdicts.values()}


def test_memory_that_a_process_really_takes_is_a_problem_until_it_gives_it_back(
    look: Callable[..., Any],
) -> None:
    share = 5.0
    size = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * share / 100)
    limit = used_percent() + share / 2
    monitor = MemoryMonitor("memory", MemoryOptions(warning_threshold=0, critical_threshold=limit))
    assert look(monitor)["MemoryLow"] == "False"
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        assert look(monitor)["MemoryLow"] == "True"
    assert look(monitor)["MemoryLow"] == "False"


def test_swap_that_is_really_used_is_a_problem_until_it_is_free(
    look: Callable[..., Any], swap: int, tmp_path: Path, run: Callable[..., None]
) -> None:
    size = 32 << 20
    limit = 100 * size / swap / 2
    monitor = MemoryMonitor("memory", MemoryOptions(swap_threshold=limit))
    assert look(monitor)["SwapUsedHigh"] == "False"
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(os.urandom(size))
        memory.madvise(MADV_PAGEOUT)
        seen = look(monitor)
        assert seen["SwapUsedHigh"] == "True"
        assert seen.verdicts["SwapUsedHigh"].severity == "warning"
        assert seen.metric("swap_size_bytes") == swap
        assert seen.metric("swap_free_bytes") <= swap - size / 2
    # What is freed while it is being written may keep its place as swap cache; this gives every place back.
    run("swapoff", tmp_path / "swap")
    run("swapon", "--priority", "1000", tmp_path / "swap")
    assert look(monitor)["SwapUsedHigh"] == "False"


@pytest.mark.parametrize(
    ("available", "status", "message"),
    [
        pytest.param(16, "False", "", id="below both"),
        pytest.param(15, "False", "more than 85 % of memory are in use", id="warning"),
        pytest.param(6, "False", "more than 85 % of memory are in use", id="only just a warning"),
        pytest.param(5, "True", "more than 95 % of memory are in use", id="critical"),
        pytest.param(0, "True", "more than 95 % of memory are in use", id="nothing left"),
    ],
)
def test_what_is_not_available_is_compared_with_two_thresholds(
    proc: Path, look: Callable[..., Any], available: int, status: str, message: str
) -> None:
    set_sizes(proc, MemTotal=100, MemFree=0, MemAvailable=available)
    verdict = look(MemoryMonitor("memory", MemoryOptions(), Host(proc=proc))).verdicts["MemoryLow"]
    assert (verdict.status, verdict.message) == (status, message)


def test_memory_full_of_caches_is_not_low(proc: Path, look: Callable[..., Any]) -> None:
    set_sizes(proc, MemTotal=1000, MemFree=1, Cached=900, MemAvailable=890)
    assert look(MemoryMonitor("memory", MemoryOptions(), Host(proc=proc)))["MemoryLow"] == "False"


def test_a_machine_without_swap_has_none_to_run_out_of(machine: Path, look: Callable[..., Any]) -> None:
    options = MemoryOptions(swap_threshold=0)
    seen = look(MemoryMonitor("memory", options, Host(proc=machine)))
    assert seen["SwapUsedHigh"] == "False"
    assert (seen.metric("swap_size_bytes"), seen.metric("swap_used_ratio")) == (0, 0)


def test_a_kernel_that_does_not_tell_what_is_available_leaves_memory_undetermined_and_swap_known(
    proc: Path,
) -> None:
    text = (proc / "meminfo").read_text()
    (proc / "meminfo").write_text("".join(line for line in text.splitlines(True) if "MemAvail" not in line))
    told: list[Any] = []
    with pytest.raises(Undetermined, match="MemAvailable"):
        told.extend(MemoryMonitor("memory", MemoryOptions(), Host(proc=proc)).check())
    assert [finding.type for finding in told if isinstance(finding, Finding)] == ["SwapUsedHigh"]


def test_a_meminfo_that_may_not_be_read_is_a_matter_of_permission(proc: Path, request: Any) -> None:
    (proc / "meminfo").chmod(0)
    request.getfixturevalue("as_nobody")
    with pytest.raises(PermissionError):
        list(MemoryMonitor("memory", MemoryOptions(), Host(proc=proc)).check())


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param(MemoryOptions(), [], id="the defaults"),
        pytest.param(MemoryOptions(warning_threshold=95), ["warningThreshold"], id="both the same"),
        pytest.param(MemoryOptions(critical_threshold=10), ["warningThreshold"], id="the wrong way round"),
    ],
)
def test_a_warning_that_does_not_come_first_is_a_fault(options: MemoryOptions, paths: list[str]) -> None:
    assert [path for path, _ in options.faults()] == paths


EATER = """
import os, sys
with open(sys.argv[1], "w") as procs:
    procs.write(str(os.getpid()))
block = bytearray(1 << 30)
for place in range(0, len(block), 4096):
    block[place] = 1
"""


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group with 32 MiB of memory; its cgroup.procs. Skips where none can be made, but in CI."""
    v1 = Path("/sys/fs/cgroup/memory")
    group = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"nd-test-{os.getpid()}"
    try:
        if not v1.is_dir():
            Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(32 << 20))
    except OSError:
        assert os.environ.get("CI") != "true"
        pytest.skip("no memory control group can be made here")
    yield group / "cgroup.procs"
    group.rmdir()


def kills() -> float:
    """How many kills the monitor tells of on this machine."""
    (found,) = [
        m.value
        for m in MemoryMonitor("m", MemoryOptions()).check()
        if isinstance(m, Metric) and m.name == "oom_kills_total"
    ]
    return found


def test_a_process_that_the_kernel_kills_for_its_memory_is_counted(small_cgroup: Path) -> None:
    before = kills()
    done = subprocess.run([sys.executable, "-c", EATER, str(small_cgroup)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert kills() == before + 1


def test_a_kernel_that_does_not_count_its_kills_is_looked_at_all_the_same(proc: Path) -> None:
    for text in (None, "nr_free_pages 1\n"):
        if text:
            (proc / "vmstat").write_text(text)
        names = [
            item.name
            for item in MemoryMonitor("m", MemoryOptions(), Host(proc=proc)).check()
            if isinstance(item, Metric)
        ]
        assert "oom_kills_total" not in names
        assert "memory_size_bytes" in names


def test_a_kill_is_an_event_once_and_those_before_the_first_check_are_none(small_cgroup: Path) -> None:
    monitor = MemoryMonitor("m", MemoryOptions())

    def told() -> list[str]:
        return [item.message for item in monitor.check() if isinstance(item, Event)]

    assert told() == []
    subprocess.run([sys.executable, "-c", EATER, str(small_cgroup)], check=False)
    assert told() == ["the kernel has killed 1 process(es) for want of memory"]
    assert told() == []

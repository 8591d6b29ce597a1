"""The kernel monitor: files as real kernels and distributions write them, and this machine's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.host import Host
from nodedoctor.types import Metric
from workers.monitors.system.kernel import FLAGS, KernelMonitor, KernelOptions, flags_of


@pytest.fixture
def host(tmp_path: Path, machine: Path) -> Host:
    """A machine with one memory controller that has counted errors before, and nothing wrong."""
    host = Host(proc=tmp_path / "proc", sys=tmp_path / "sys", root=tmp_path / "root")
    for path, text in {
        host.proc / "stat": (machine / "stat").read_text(),
        host.proc / "sys/kernel/tainted": "0\n",
        host.proc / "sys/kernel/random/entropy_avail": "256\n",
        host.sys / "devices/system/edac/mc/mc0/ce_count": "7\n",
        host.sys / "devices/system/edac/mc/mc0/ue_count": "1\n",
        host.root / "run/utmp": "",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host


def metrics(monitor: KernelMonitor) -> dict[str, float]:
    """Each metric's name and the values of its labels, with its value."""
    samples = [seen for seen in monitor.check() if isinstance(seen, Metric)]
    return {" ".join((one.name, *one.labels.values())): one.value for one in samples}


@pytest.mark.parametrize(
    ("taint", "status"),
    [
        pytest.param(0, "False", id="none"),
        pytest.param(1 << 0 | 1 << 12 | 1 << 13, "False", id="a proprietary driver, as on GPU nodes"),
        pytest.param(1 << 9, "False", id="a warning"),
        pytest.param(1 << 4, "True", id="a machine check"),
        pytest.param(1 << 7 | 1 << 12, "True", id="an oops"),
        pytest.param(1 << 14, "True", id="a soft lockup"),
    ],
)
def test_a_kernel_in_which_something_broke_is_tainted(
    host: Host, look: Callable[..., Any], taint: int, status: str
) -> None:
    (host.proc / "sys/kernel/tainted").write_text(f"{taint}\n")
    assert look(KernelMonitor("k", KernelOptions(), host))["KernelTainted"] == status


def test_the_message_names_the_chosen_flags_alone_and_a_reboot_clears_it(
    host: Host, look: Callable[..., Any]
) -> None:
    monitor = KernelMonitor("k", KernelOptions(taint_flags=("W", "O")), host)
    file = host.proc / "sys/kernel/tainted"
    file.write_text(f"{1 << 9 | 1 << 4}\n")
    seen = look(monitor)
    assert seen["KernelTainted"] == "True"
    message = seen.verdicts["KernelTainted"].message
    assert "kernel warning (W)" in message
    assert "(M)" not in message
    assert metrics(monitor)["kernel_taint_flag M machine check exception"] == 1
    file.write_text("0\n")
    assert look(monitor)["KernelTainted"] == "False"


def test_a_kernel_that_does_not_tell_of_taint_is_unknown_and_hides_nothing_else(
    host: Host, look: Callable[..., Any]
) -> None:
    (host.proc / "sys/kernel/tainted").unlink()
    seen = look(KernelMonitor("k", KernelOptions(), host))
    assert seen["KernelTainted"] == "Unknown"
    assert seen["MemoryErrors"] == "False"


def test_letters_are_those_of_the_kernel_and_a_newer_flag_is_told_by_its_bit() -> None:
    assert "".join(FLAGS) == "PFSRMBUDAWCIOELKXTNJ"
    assert flags_of(1 << 4 | 1 << 19 | 1 << 40) == {"M": FLAGS["M"], "J": FLAGS["J"], "40": "unknown"}


def test_an_error_that_was_not_corrected_is_a_problem_for_a_while(
    host: Host, look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = KernelMonitor("k", KernelOptions(memory_errors_within="300ms"), host)
    assert look(monitor)["MemoryErrors"] == "False"
    (host.sys / "devices/system/edac/mc/mc0/ue_count").write_text("2\n")
    seen = look(monitor)
    assert seen["MemoryErrors"] == "True"
    assert "mc0" in seen.verdicts["MemoryErrors"].message
    eventually(lambda: look(monitor)["MemoryErrors"] == "False")


def test_many_corrected_errors_are_warned_of(host: Host, look: Callable[..., Any]) -> None:
    monitor = KernelMonitor("k", KernelOptions(corrected_errors=10), host)
    file = host.sys / "devices/system/edac/mc/mc0/ce_count"
    for count, reason in ((7, "NoMemoryErrors"), (16, "NoMemoryErrors"), (17, "ManyCorrectedMemoryErrors")):
        file.write_text(f"{count}\n")
        seen = look(monitor)
        assert seen["MemoryErrors"] == "False"
        assert seen.verdicts["MemoryErrors"].reason == reason
    assert metrics(monitor)["memory_errors_total mc0 corrected"] == 17


def test_a_machine_without_memory_controllers_has_no_errors_of_them(
    tmp_path: Path, host: Host, look: Callable[..., Any]
) -> None:
    virtual = Host(proc=host.proc, sys=tmp_path / "none", root=host.root)
    monitor = KernelMonitor("k", KernelOptions(), virtual)
    assert look(monitor)["MemoryErrors"] == "False"
    assert not [name for name in metrics(monitor) if name.startswith("memory_errors")]


@pytest.mark.parametrize("name", ["reboot-required", "reboot-needed"])
def test_a_reboot_that_updates_wait_for_is_told_where_it_is_asked_for(
    host: Host, look: Callable[..., Any], name: str
) -> None:
    monitor = KernelMonitor("k", KernelOptions(reboot_condition=True), host)
    silent = KernelMonitor("k", KernelOptions(), host)
    assert look(monitor)["RebootRequired"] == "False"
    (host.root / "run" / name).write_text("*** System restart required ***\n")
    seen = look(monitor)
    assert seen["RebootRequired"] == "True"
    assert f"/run/{name}" in seen.verdicts["RebootRequired"].message
    assert metrics(silent)["reboot_required"] == 1
    assert "RebootRequired" not in [one.type for one in silent.conditions_of("k", silent.options)]
    (host.root / "run" / name).unlink()
    assert look(monitor)["RebootRequired"] == "False"
    assert metrics(silent)["reboot_required"] == 0


def test_packages_that_ask_for_a_reboot_are_named_once(host: Host, look: Callable[..., Any]) -> None:
    monitor = KernelMonitor("k", KernelOptions(reboot_condition=True), host)
    (host.root / "run/reboot-required").touch()
    packages = host.root / "run/reboot-required.pkgs"
    packages.write_text("linux-image-6.8.0-45-generic\nlinux-base\nlinux-base\n")
    text = "(linux-base, linux-image-6.8.0-45-generic)"
    assert text in look(monitor).verdicts["RebootRequired"].message
    packages.write_text("".join(f"package{number:02}\n" for number in range(30)))
    assert "package09, …)" in look(monitor).verdicts["RebootRequired"].message


def test_this_machines_own_kernel_is_read(look: Callable[..., Any]) -> None:
    monitor = KernelMonitor("k", KernelOptions())
    found = metrics(monitor)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert found["boot_time_seconds"] == pytest.approx(booted, abs=5)
    assert found["kernel_taint"] == int(Path("/proc/sys/kernel/tainted").read_text())
    assert found["entropy_available_bits"] > 0
    hung = Path("/proc/sys/kernel/hung_task_detect_count")
    assert ("hung_tasks_total" in found) == hung.exists()
    assert look(monitor)["MemoryErrors"] == "False"


def test_options_that_can_never_be_right_are_faults() -> None:
    options = KernelOptions(taint_flags=("M", "Q"), corrected_errors=0, memory_errors_within="0s")
    assert [path for path, _ in options.faults()] == [
        "taintFlags[1]",
        "correctedErrors",
        "memoryErrorsWithin",
    ]
    assert not list(KernelOptions().faults())

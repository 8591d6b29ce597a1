"""The pressure monitor: the real kernel, processors that are really too few, and kernels that do not measure."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedoctor.host import Host
from workers.monitors.system.pressure import Limits, Pressure, PressureMonitor, PressureOptions, pressures

RESOURCES = {"cpu": "CPUPressureHigh", "memory": "MemoryPressureHigh", "io": "IOPressureHigh"}


class BootedWithoutPressure(type(Path())):  # type: ignore[misc] # the class depends on the platform
    """A folder of files that open and can't be read, as those of Linux 4.20 to 5.12 after psi=0."""

    def read_text(self, *_args: object, **_kwargs: object) -> str:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(self))


@pytest.fixture
def proc(tmp_path: Path, machine: Path) -> Path:
    """/proc of a machine on which nothing waits, for the test to change."""
    shutil.copytree(machine / "pressure", tmp_path / "pressure")
    for resource in RESOURCES:
        set_pressure(tmp_path, resource)
    return tmp_path


def set_pressure(proc: Path, resource: str, some: float = 0, full: float = 0) -> None:
    """Let tasks wait for `resource` for so many percent of the last minute, as `proc` tells."""
    lines = [
        f"{kind} avg10=0.00 avg60={share:.2f} avg300=0.00 total=7192320\n"
        for kind, share in (("some", some), ("full", full))
    ]
    (proc / "pressure" / resource).write_text("".join(lines))


def options(**changes: Any) -> PressureOptions:
    """The options as they come from a file."""
    return msgspec.convert(changes, PressureOptions)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "some avg10=0.05 avg60=0.14 avg300=0.12 total=6665066\n"
            "full avg10=0.04 avg60=0.13 avg300=0.11 total=6470438\n",
            {
                "some": Pressure({"avg10": 0.05, "avg60": 0.14, "avg300": 0.12}, 6665066),
                "full": Pressure({"avg10": 0.04, "avg60": 0.13, "avg300": 0.11}, 6470438),
            },
            id="both kinds",
        ),
        pytest.param(
            "some avg10=99.00 avg60=100.00 avg300=7.00 total=1\n",
            {"some": Pressure({"avg10": 99, "avg60": 100, "avg300": 7}, 1)},
            id="the CPU before Linux 5.13",
        ),
    ],
)
def test_a_pressure_file_has_a_line_for_each_kind(text: str, expected: dict[str, Pressure]) -> None:
    assert pressures(text) == expected


def test_the_real_kernel_measures_all_three(look: Callable[..., Any]) -> None:
    seen = look(PressureMonitor("pressure", PressureOptions()))
    for resource, condition in RESOURCES.items():
        assert seen[condition] != "Unknown"
        assert seen.metric("pressure_stalled_seconds_total", resource=resource, kind="some") >= 0
        for window in ("avg10", "avg60", "avg300"):
            assert 0 <= seen.metric("pressure_ratio", resource=resource, kind="some", window=window) <= 1


def test_processors_that_are_really_too_few_are_noticed_and_the_time_that_was_lost_grows(
    look: Callable[..., Any], burning: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    now = pressures(Path("/proc/pressure/cpu").read_text())["some"]
    limit = 10 + 0.9 * now.averages["avg10"]
    chosen = options(cpu={"window": "avg10", "warningThreshold": 0, "criticalThreshold": limit})
    monitor = PressureMonitor("pressure", chosen)
    eventually(lambda: look(monitor)["CPUPressureHigh"] == "False")
    burning(3 * os.sysconf("SC_NPROCESSORS_ONLN"))
    eventually(lambda: look(monitor)["CPUPressureHigh"] == "True")
    stalled = look(monitor).metric("pressure_stalled_seconds_total", resource="cpu", kind="some")
    assert stalled > now.total / 1e6 + 0.5


@pytest.mark.parametrize(
    ("resource", "some", "full", "status", "message"),
    [
        pytest.param("cpu", 69, 0, "False", "", id="CPU below both"),
        pytest.param(
            "cpu", 70, 0, "False", "some tasks waited for cpu more than 70 % of the time", id="CPU warning"
        ),
        pytest.param(
            "cpu", 95, 0, "True", "some tasks waited for cpu more than 95 % of the time", id="CPU critical"
        ),
        pytest.param("memory", 100, 9, "False", "", id="some tasks alone are thrashing"),
        pytest.param(
            "memory",
            20,
            10,
            "False",
            "full tasks waited for memory more than 10 % of the time",
            id="memory warning",
        ),
        pytest.param(
            "memory",
            40,
            30,
            "True",
            "full tasks waited for memory more than 30 % of the time",
            id="memory critical",
        ),
        pytest.param("io", 100, 0, "False", "", id="one task waits for a slow disk all the time"),
        pytest.param(
            "io", 90, 80, "True", "full tasks waited for io more than 80 % of the time", id="I/O critical"
        ),
    ],
)
def test_each_resource_has_thresholds_of_its_own_and_recovers(
    proc: Path,
    look: Callable[..., Any],
    resource: str,
    some: float,
    full: float,
    status: str,
    message: str,
) -> None:
    monitor = PressureMonitor("pressure", PressureOptions(), Host(proc=proc))
    set_pressure(proc, resource, some, full)
    seen = look(monitor)
    verdict = seen.verdicts.pop(RESOURCES[resource])
    assert (verdict.status, verdict.message) == (status, message)
    assert {other.status for other in seen.verdicts.values()} == {"False"}
    assert seen.metric("pressure_ratio", resource=resource, kind="full", window="avg60") == full / 100
    set_pressure(proc, resource)
    assert {v.status for v in look(monitor).verdicts.values()} == {"False"}


def test_a_window_and_a_kind_can_be_chosen(proc: Path, look: Callable[..., Any]) -> None:
    (proc / "pressure/io").write_text(
        "some avg10=60.00 avg60=1.00 avg300=1.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    chosen = options(io={"kind": "some", "window": "avg10", "criticalThreshold": 60})
    assert look(PressureMonitor("pressure", chosen, Host(proc=proc)))["IOPressureHigh"] == "True"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(Host(proc=Path("/nonexistent")), id="built without it, or psi=0"),
        pytest.param(Host(proc=BootedWithoutPressure("/proc")), id="psi=0 on an older kernel"),
    ],
)
def test_a_kernel_that_does_not_measure_is_unknown_with_the_remedy(
    host: Host, look: Callable[..., Any]
) -> None:
    seen = look(PressureMonitor("pressure", PressureOptions(), host))
    for condition in RESOURCES.values():
        verdict = seen.verdicts[condition]
        assert (verdict.status, verdict.reason) == ("Unknown", "NoPressureInformation")
        assert "boot it with psi=1" in verdict.message
    assert seen.metrics == []


def test_files_that_may_not_be_read_are_a_matter_of_permission(proc: Path, request: Any) -> None:
    (proc / "pressure/cpu").chmod(0)
    request.getfixturevalue("as_nobody")
    with pytest.raises(PermissionError):
        list(PressureMonitor("pressure", PressureOptions(), Host(proc=proc)).check())


def test_one_option_of_a_resource_leaves_the_others_of_that_resource_as_they_are() -> None:
    assert options(memory={"criticalThreshold": 50}).memory.kind == "full"
    assert options(io={"criticalThreshold": 50}).io.warning_threshold == 40


@pytest.mark.parametrize(
    ("changed", "paths"),
    [
        pytest.param({}, [], id="the defaults"),
        pytest.param({"memory": {"criticalThreshold": 5}}, ["memory.warningThreshold"], id="memory"),
        pytest.param({"io": {"warningThreshold": 80}}, ["io.warningThreshold"], id="both the same"),
        pytest.param({"cpu": {"kind": "full"}}, ["cpu.kind"], id="a line that is always 0"),
    ],
)
def test_limits_that_can_never_be_right_are_faults(changed: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in options(**changed).faults()] == paths


@pytest.mark.parametrize("changed", [{"kind": "most"}, {"window": "avg30"}])
def test_words_that_the_kernel_does_not_know_are_refused(changed: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.convert(changed, Limits)

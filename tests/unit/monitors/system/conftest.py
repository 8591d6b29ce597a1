"""Real faults for the monitors of the machine itself, each undone whatever happens, and a way to look once."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from nodedoctor.monitor import Finding, Monitor
from nodedoctor.types import ConditionStatus, Metric
from workers.verdicts import Verdict, fold

MACHINES = Path(__file__).parents[3] / "proc"
NOBODY = 65534


class Seen(msgspec.Struct, frozen=True):
    """What one check found: a verdict for each condition, all subjects folded as the life cycle does."""

    verdicts: dict[str, Verdict]
    metrics: list[Metric]

    def __getitem__(self, condition: str) -> ConditionStatus:
        return self.verdicts[condition].status

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series, None if it is absent."""
        return next((m.value for m in self.metrics if m.name == name and m.labels == labels), None)


def look_once(monitor: Monitor[Any]) -> Seen:
    """Check once; what is reported must be what the monitor declares, and of each condition something is said."""
    observations = list(monitor.check())
    findings = [o for o in observations if isinstance(o, Finding)]
    metrics = [o for o in observations if isinstance(o, Metric)]
    conditions = monitor.conditions_of(monitor.name, monitor.options)
    assert {finding.type for finding in findings} == {condition.type for condition in conditions}
    declared = {(gauge.name, frozenset(gauge.labels), gauge.kind) for gauge in monitor.metrics}
    assert {(m.name, frozenset(m.labels), m.kind) for m in metrics} <= declared
    assert not any(isinstance(m.value, bool) for m in metrics), "the agent takes numbers alone"
    series = [(m.name, *sorted(m.labels.items())) for m in metrics]
    assert len(series) == len(set(series))
    return Seen({condition.type: fold(condition, findings) for condition in conditions}, metrics)


def arrange(*command: str | Path) -> None:
    """Run what makes a fault."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error, getattr(error, "stderr", ""))


def give_up(error: Exception, details: str = "") -> NoReturn:
    """A machine that can't make a fault skips the test, unless it is the CI: there it is an error."""
    if os.environ.get("CI") == "true":
        raise error
    pytest.skip(f"this machine can't make the fault: {error} {details}")


def unmount(point: Path) -> None:
    """Take away what is mounted at `point`, if anything still is, even while it is busy."""
    if os.path.ismount(point):
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture
def look() -> Callable[[Monitor[Any]], Seen]:
    return look_once


@pytest.fixture
def machine() -> Path:
    """The folder that holds /proc of a real virtual machine."""
    return MACHINES / "vm-6.18"


@pytest.fixture
def run() -> Callable[..., None]:
    return arrange


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Calls mount(8) with the given arguments and gives the folder where it then is."""
    with ExitStack() as stack:

        def mount(*arguments: str | Path) -> Path:
            point = tmp_path / f"mount{len(list(tmp_path.glob('mount*')))}"
            point.mkdir()
            stack.callback(unmount, point)
            arrange("mount", *arguments, point)
            return point

        yield mount


@pytest.fixture
def ext4(tmp_path: Path, mounted: Callable[..., Path]) -> Callable[..., Path]:
    """Makes an ext4 file system with the given arguments in a file, and mounts it."""

    def make(*arguments: str) -> Path:
        image = tmp_path / "ext4.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        arrange("mkfs.ext4", "-qF", *arguments, image)
        return mounted("-o", "loop,errors=remount-ro", image)

    return make


@pytest.fixture
def dead_mount(tmp_path: Path) -> Iterator[Path]:
    """A FUSE mount whose server is gone: it answers with an error (`Transport endpoint is not connected`)."""
    point = tmp_path / "dead"
    point.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        give_up(error)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    failed = libc.mount(b"dead", os.fsencode(point), b"fuse.dead", 6, options)
    os.close(server)
    if failed:
        give_up(OSError(ctypes.get_errno(), "mount"))
    yield point
    libc.umount2(os.fsencode(point), 2)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """The test runs as a user without privileges."""
    before = os.geteuid()
    # Without the capability to become somebody else, there is none either that opens what is closed.
    with suppress(PermissionError):
        os.seteuid(NOBODY)
    yield
    os.seteuid(before)


@pytest.fixture
def burning() -> Iterator[Callable[[int], Callable[[], None]]]:
    """Starts so many processes that take all the CPU time they get; what it gives ends them."""
    with ExitStack() as stack:

        def burn(count: int) -> Callable[[], None]:
            burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]

            def end() -> None:
                for burner in burners:
                    burner.kill()
                    burner.wait()

            stack.callback(end)
            return end

        yield burn


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits until something is true, and fails if that takes longer than `within` seconds."""

    def wait(what: Callable[[], bool], within: float = 30.0, pause: float = 0.3) -> None:
        end = time.monotonic() + within
        while not what():
            assert time.monotonic() < end, f"not true within {within:g} s"
            time.sleep(pause)

    return wait

"""The process monitor: processes that are really frozen, not waited for, and missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.monitors.system.process import ProcessMonitor, ProcessOptions, Required, Task, task


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a name of its own."""
    program = tmp_path / f"nd-{os.getpid()}"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def freezer(sleeper: subprocess.Popen[bytes]) -> Iterator[Path]:
    """The switch of a control group that holds the sleeper."""
    group = Path(f"/sys/fs/cgroup/freezer/nd-test-{os.getpid()}")
    if not group.parent.is_dir() or os.geteuid():
        assert os.environ.get("CI") != "true"
        pytest.skip("no freezer of cgroup v1 here")
    group.mkdir()
    (group / "cgroup.procs").write_text(str(sleeper.pid))
    try:
        yield group / "freezer.state"
    finally:
        (group / "freezer.state").write_text("THAWED")
        sleeper.kill()
        sleeper.wait()
        group.rmdir()


def test_a_name_may_hold_parentheses_and_spaces() -> None:
    text = "7 (a) (b c)) D 1 7 7 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"
    assert task(text) == Task(pid=7, name="a) (b c)", state="D", parent=1, flags=64, started=4711)


def test_a_process_that_is_really_stuck_is_named_until_it_goes_on(
    freezer: Path, look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(d_state_for="50ms"))
    freezer.write_text("FROZEN")
    eventually(lambda: look(monitor)["ProcessesStuck"] == "True")
    assert f"nd-{os.getpid()}" in look(monitor).verdicts["ProcessesStuck"].message
    patient = ProcessMonitor("p", ProcessOptions(d_state_for="1h"))
    assert look(patient)["ProcessesStuck"] == "False"
    freezer.write_text("THAWED")
    eventually(lambda: look(monitor)["ProcessesStuck"] == "False")


def test_a_child_that_nobody_waits_for_is_a_zombie_until_somebody_does(
    look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(zombie_threshold=1, zombies_for="50ms"))
    child = subprocess.Popen(["/bin/true"])
    eventually(lambda: look(monitor)["ZombiesHigh"] == "True")
    own = Path("/proc/self/comm").read_text().strip()
    assert own in look(monitor).verdicts["ZombiesHigh"].message
    child.wait()
    eventually(lambda: look(monitor)["ZombiesHigh"] == "False")


def test_a_process_that_must_run_is_missed_once_it_has_ended(
    sleeper: subprocess.Popen[bytes], look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(required=(Required(f"nd-{os.getpid()}"),)))
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")
    sleeper.kill()  # and not waited for: a zombie does not run
    eventually(lambda: look(monitor)["ProcessMissing"] == "True")
    assert f"nd-{os.getpid()}" in look(monitor).verdicts["ProcessMissing"].message


@pytest.mark.parametrize(("option", "condition"), [("pids", "PIDsLow"), ("files", "FileDescriptorsLow")])
def test_tables_are_compared_with_a_share_of_their_limit(
    look: Callable[..., Any], option: str, condition: str
) -> None:
    assert look(ProcessMonitor("p", ProcessOptions()))[condition] == "False"
    assert look(ProcessMonitor("p", ProcessOptions(**{f"{option}_threshold": 0})))[condition] == "True"


def test_processes_that_are_hidden_are_undetermined_with_the_remedy(tmp_path: Path) -> None:
    for name in ("loadavg", "sys/kernel/pid_max", "sys/kernel/threads-max", "sys/fs/file-nr"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((Path("/proc") / name).read_text())
    with pytest.raises(Undetermined, match="hostPID: true"):
        list(ProcessMonitor("p", ProcessOptions(), Host(proc=tmp_path)).check())


def test_numbers_that_can_never_be_right_are_faults() -> None:
    wanted = (Required("a" * 16), Required("a", minimum=-1), Required("a", minimum=2, maximum=1))
    paths = [path for path, _ in ProcessOptions(zombie_threshold=0, required=wanted).faults()]
    assert paths == ["zombieThreshold", "required[0].name", "required[1].minimum", "required[2].maximum"]
    assert not list(ProcessOptions().faults())


CHECK = """
from workers.monitors.system.process import ProcessMonitor, ProcessOptions
list(ProcessMonitor("p", ProcessOptions()).check())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            'unshare --pid --fork --mount-proc sh -c \'sleep 3 & "$PY" -c "$CHECK"\'', id="own PIDs"
        ),
        pytest.param(
            "unshare --mount sh -c 'mount -t proc -o hidepid=2 proc /proc && "
            'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$PY" -c "$CHECK"\'',
            id="hidepid",
        ),
    ],
)
def test_a_namespace_or_a_mount_that_hides_processes_is_noticed(command: str) -> None:
    environment = {**os.environ, "PY": sys.executable, "CHECK": CHECK}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert "Undetermined: not all processes can be seen" in done.stderr

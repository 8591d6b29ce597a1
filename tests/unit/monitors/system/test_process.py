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
from workers.monitors.system.process.limits import groups_near_limit
from workers.monitors.system.process.monitor import ProcessMonitor
from workers.monitors.system.process.options import ProcessOptions, Required
from workers.monitors.system.process.tasks import Task, task


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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts sleepers of a name of their own, which end with the test."""
    program = tmp_path / f"ns-{os.getpid()}"
    shutil.copy("/bin/sleep", program)
    started: list[subprocess.Popen[bytes]] = []

    def begin(seconds: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([program, seconds]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def required(**settings: Any) -> Required:
    """The sleepers of this process as what must run."""
    return Required(f"ns-{os.getpid()}", **settings)


def test_a_stuck_process_that_is_ignored_is_no_problem(
    freezer: Path, look: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(d_state_for="1ms"))
    lenient = ProcessMonitor("p", ProcessOptions(d_state_for="1ms", ignored=(f"nd-{os.getpid()}",)))
    freezer.write_text("FROZEN")
    eventually(lambda: (look(lenient), look(monitor)["ProcessesStuck"])[1] == "True")
    assert look(lenient)["ProcessesStuck"] == "False"


def test_a_process_that_was_killed_is_no_longer_missed_once_it_is_back(
    start: Callable[[str], subprocess.Popen[bytes]],
    look: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(required=(required(),)))
    assert look(monitor)["ProcessMissing"] == "True"
    process = start("60")
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")
    process.kill()
    eventually(lambda: look(monitor)["ProcessMissing"] == "True")
    start("60")
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")


def test_more_processes_than_the_maximum_are_too_many(
    start: Callable[[str], subprocess.Popen[bytes]],
    look: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(required=(required(maximum=1),)))
    start("60")
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")
    second = start("60")
    eventually(lambda: look(monitor).verdicts["ProcessMissing"].reason == "TooManyProcesses")
    second.kill()
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")


def test_a_pattern_chooses_among_processes_of_one_name(
    start: Callable[[str], subprocess.Popen[bytes]],
    look: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    monitor = ProcessMonitor("p", ProcessOptions(required=(required(pattern="ns-[0-9]+ 61$"),)))
    start("60")
    eventually(
        lambda: look(ProcessMonitor("p", ProcessOptions(required=(required(),))))["ProcessMissing"] == "False"
    )
    seen = look(monitor)
    assert seen["ProcessMissing"] == "True"
    assert "61$" in seen.verdicts["ProcessMissing"].message
    start("61")
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")


def test_a_process_that_is_started_again_and_again_is_told_and_forgotten(
    start: Callable[[str], subprocess.Popen[bytes]],
    look: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:
    options = ProcessOptions(restarts_within="2s", required=(required(minimum=0, maximum_restarts=1),))
    monitor = ProcessMonitor("p", options)
    for expected in ("ProcessesRun", "ProcessesRun", "ProcessKeepsRestarting"):
        process = start("60")
        eventually(lambda p=process: Path(f"/proc/{p.pid}/comm").read_text().startswith("ns-"))
        assert look(monitor).verdicts["ProcessMissing"].reason == expected
        process.kill()
        process.wait()
    eventually(lambda: look(monitor)["ProcessMissing"] == "False")


def test_a_control_group_at_its_pids_limit_is_named_until_there_is_room(
    sleeper: subprocess.Popen[bytes], look: Callable[..., Any]
) -> None:
    group = Path(f"/sys/fs/cgroup/pids/nd-test-{os.getpid()}")
    monitor = ProcessMonitor("p", ProcessOptions())
    if not group.parent.is_dir() or os.geteuid():
        assert os.environ.get("CI") != "true"
        pytest.skip("no pids controller of cgroup v1 here")
    group.mkdir()
    try:
        (group / "pids.max").write_text("1")
        assert look(monitor)["PIDsLow"] == "False"
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        verdict = look(monitor).verdicts["PIDsLow"]
        assert (verdict.status, verdict.reason) == ("True", "GroupNearLimit")
        assert f"/{group.name} " in verdict.message
        (group / "pids.max").write_text("max")
        assert look(monitor)["PIDsLow"] == "False"
    finally:
        sleeper.kill()
        sleeper.wait()
        group.rmdir()


def test_groups_of_version_2_are_slices_and_services_and_not_pods(tmp_path: Path) -> None:
    for group, limit, used in (
        ("kubepods.slice", "100", "95"),
        ("kubepods.slice/pod1.slice", "10", "10"),
        ("system.slice", "max", "500"),
        ("system.slice/containerd.service", "1000", "899"),
        ("system.slice/kubelet.service", "1000", "900"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "pids.max").write_text(f"{limit}\n")
        (tmp_path / group / "pids.current").write_text(f"{used}\n")
    assert list(groups_near_limit(tmp_path, 90)) == ["/kubepods.slice", "/system.slice/kubelet.service"]


OPENS_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(62 - len(os.listdir("/proc/self/fd")) + 1)]
for _ in sys.stdin:
    for fd in opened:
        os.close(fd)
    print("closed", flush=True)
"""


@pytest.mark.parametrize("chosen", ["by its open files", "because it is required"])
def test_a_process_that_has_nearly_all_its_files_open_is_named_until_it_closes_them(
    tmp_path: Path, look: Callable[..., Any], eventually: Callable[..., None], chosen: str
) -> None:
    program = tmp_path / f"nf-{os.getpid()}"
    program.symlink_to(sys.executable)
    by_files = chosen == "by its open files"
    options = ProcessOptions(
        process_files_from=60 if by_files else 1000, required=() if by_files else (Required(program.name),)
    )
    monitor = ProcessMonitor("p", options)
    with subprocess.Popen(
        [program, "-c", OPENS_FILES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        eventually(lambda: look(monitor).verdicts["FileDescriptorsLow"].reason == "ProcessNearLimit")
        assert program.name in look(monitor).verdicts["FileDescriptorsLow"].message
        assert look(ProcessMonitor("p", ProcessOptions()))["FileDescriptorsLow"] == "False"
        child.stdin.write("close\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert look(monitor)["FileDescriptorsLow"] == "False"
        child.kill()


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
    wanted = (
        Required("a" * 16),
        Required("a", minimum=-1),
        Required("a", minimum=2, maximum=1),
        Required("a", pattern="("),
        Required("a", maximum_restarts=-1),
    )
    paths = [path for path, _ in ProcessOptions(zombie_threshold=0, required=wanted).faults()]
    assert paths == [
        "zombieThreshold",
        "required[0].name",
        "required[1].minimum",
        "required[2].maximum",
        "required[3].pattern",
        "required[4].maximumRestarts",
    ]
    options = ProcessOptions(process_files_from=-1, restarts_within="0s")
    assert [path for path, _ in options.faults()] == ["processFilesFrom", "restartsWithin"]
    assert not list(ProcessOptions().faults())


CHECK = """
from workers.monitors.system.process.monitor import ProcessMonitor
from workers.monitors.system.process.options import ProcessOptions
list(ProcessMonitor("p", ProcessOptions()).check())
"""


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
    if os.geteuid():
        assert os.environ.get("CI") != "true"
        pytest.skip("only root makes namespaces")
    environment = {**os.environ, "PY": sys.executable, "CHECK": CHECK}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert "Undetermined: not all processes can be seen" in done.stderr

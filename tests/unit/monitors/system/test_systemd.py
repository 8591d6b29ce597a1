"""The systemd monitor, on a real systemd in a container: units that fail, stop and restart, and a systemd that hangs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, look
from systemd_support import Box, booted

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.monitors.system.systemd import SystemdMonitor, SystemdOptions
from workers.systemd import Silent, connected

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root boots a systemd")
SLEEPS = "[Service]\nExecStart=sleep infinity\n"
CRASHES = (
    "[Unit]\nStartLimitIntervalSec=0\n"
    '[Service]\nExecStart=sh -c "sleep 0.05; exit 3"\nRestart=always\nRestartSec=20ms\n'
)
ASK = """
import sys
from pathlib import Path
from nodedoctor.host import Host
from workers.systemd import connected

with connected(Host(root=Path(sys.argv[1])), 10) as systemd:
    assert systemd.unit("dbus.service").active_state == "inactive"
    print(*(unit.name for unit in systemd.units() if unit.name == "systemd-journald.service"))
"""
UNIT = "nd-test.service"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with booted(tmp_path_factory.mktemp("box")) as systemd:
        yield systemd


@pytest.fixture
def unit(box: Box) -> Iterator[Callable[[str], None]]:
    """Writes the unit of the test."""
    yield lambda text: box.write(UNIT, text)
    box.remove(UNIT)


def watching(box: Box, **options: Any) -> SystemdMonitor:
    found = msgspec.convert(options, SystemdOptions)
    assert list(found.faults()) == []
    return SystemdMonitor("systemd", found, box.host)


def start(box: Box, check: bool = True) -> None:
    box.run("systemctl", "start", UNIT, check=check)


def wanted(box: Box, **options: Any) -> Seen:
    return look(watching(box, mustBeActive=[UNIT, UNIT], **options))


def reason(seen: Seen, condition: str) -> str:
    return seen.verdicts[condition].reason


def test_a_failed_unit_is_told_and_clears_when_it_is_reset(box: Box, unit: Callable[[str], None]) -> None:
    unit("[Service]\nType=oneshot\nExecStart=false\n")
    start(box, check=False)
    seen = look(watching(box))
    assert seen["SystemdUnitFailed"] == "True"
    assert UNIT in seen.verdicts["SystemdUnitFailed"].message
    assert seen.metric("systemd_units", state="failed") == 1
    assert look(watching(box, ignore=["nd-*"]))["SystemdUnitFailed"] == "False"
    box.run("systemctl", "reset-failed", UNIT)
    after = look(watching(box))
    assert after["SystemdUnitFailed"] == "False"
    assert after.metric("systemd_units", state="failed") == 0


def test_a_unit_that_must_be_active_is_told_when_it_stops_and_clears_when_it_starts(
    box: Box, unit: Callable[[str], None]
) -> None:
    unit(SLEEPS)
    stopped = wanted(box)
    assert stopped["SystemdUnitInactive"] == "True"
    assert UNIT in stopped.verdicts["SystemdUnitInactive"].message
    assert [m.value for m in stopped.metrics if m.name == "systemd_unit_active"] == [0]
    start(box)
    started = wanted(box)
    assert started["SystemdUnitInactive"] == "False"
    assert started.metric("systemd_unit_active", unit=UNIT) == 1
    box.run("systemctl", "stop", UNIT)
    assert reason(wanted(box), "SystemdUnitInactive") == "UnitInactive"


def test_a_missing_unit_and_a_masked_one_are_told_apart(box: Box) -> None:
    missing = wanted(box)
    assert (missing["SystemdUnitInactive"], reason(missing, "SystemdUnitInactive")) == (
        "True",
        "UnitNotFound",
    )
    box.run("systemctl", "mask", UNIT)
    assert reason(wanted(box), "SystemdUnitInactive") == "UnitMasked"
    box.run("systemctl", "unmask", UNIT)


def test_a_unit_with_bad_settings_and_one_whose_condition_is_not_met_are_told_apart(
    box: Box, unit: Callable[[str], None]
) -> None:
    unit("[Service]\nType=nonsense\n")
    assert reason(wanted(box), "SystemdUnitInactive") == "UnitNotLoaded"
    # A unit that nothing refers to is forgotten when it ends, and with it why it was not started.
    unit("[Unit]\nConditionPathExists=/nowhere\n" + SLEEPS + "[Install]\nWantedBy=multi-user.target\n")
    box.run("systemctl", "enable", "--now", UNIT)
    assert reason(wanted(box), "SystemdUnitInactive") == "UnitConditionNotMet"


def test_a_unit_may_take_its_time_to_start_but_not_for_ever(box: Box, unit: Callable[[str], None]) -> None:
    unit("[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart=sleep infinity\n")
    box.run("systemctl", "start", "--no-block", UNIT)
    assert wanted(box)["SystemdUnitInactive"] == "False"
    late = wanted(box, startingWithin="0s")
    assert (late["SystemdUnitInactive"], reason(late, "SystemdUnitInactive")) == ("True", "UnitNotStarting")


def test_a_oneshot_that_has_ended_well_is_as_good_as_active(box: Box, unit: Callable[[str], None]) -> None:
    unit("[Service]\nType=oneshot\nExecStart=true\n")
    start(box)
    assert wanted(box)["SystemdUnitInactive"] == "False"
    unit("[Service]\nType=oneshot\nExecStart=false\n")
    start(box, check=False)
    assert reason(wanted(box), "SystemdUnitInactive") == "UnitHasFailed"
    unit("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n")
    box.run("systemctl", "reset-failed", UNIT)
    assert wanted(box)["SystemdUnitInactive"] == "True"


def test_a_oneshot_may_be_at_its_work_for_long(box: Box, unit: Callable[[str], None]) -> None:
    unit("[Service]\nType=oneshot\nExecStart=sleep infinity\n")
    box.run("systemctl", "start", "--no-block", UNIT)
    assert wanted(box, startingWithin="0s")["SystemdUnitInactive"] == "False"


def test_a_unit_that_waits_for_its_restart_is_not_active(box: Box, unit: Callable[[str], None]) -> None:
    unit("[Service]\nExecStart=false\nRestart=always\nRestartSec=1h\n")
    start(box)
    seen = wanted(box)
    assert (seen["SystemdUnitInactive"], reason(seen, "SystemdUnitInactive")) == ("True", "UnitHasFailed")


def test_a_unit_that_is_restarted_again_and_again_flaps_until_that_is_over(
    box: Box, unit: Callable[[str], None], eventually: Callable[..., None]
) -> None:
    unit(CRASHES)
    start(box)
    monitor = watching(box, flapCount=3, flapWithin="1s")
    assert look(monitor)["SystemdUnitFlapping"] == "False"
    eventually(lambda: look(monitor)["SystemdUnitFlapping"] == "True")
    seen = look(monitor)
    assert UNIT in seen.verdicts["SystemdUnitFlapping"].message
    assert (seen.metric("systemd_unit_restarts_total", unit=UNIT) or 0) >= 3
    box.run("systemctl", "stop", UNIT)
    eventually(lambda: look(monitor)["SystemdUnitFlapping"] == "False")
    assert look(monitor).metric("systemd_unit_restarts_total", unit=UNIT) is None


def test_restarts_by_hand_are_no_flapping(box: Box, unit: Callable[[str], None]) -> None:
    unit(SLEEPS)
    start(box)
    monitor = watching(box, flapCount=1, mustBeActive=[UNIT])
    look(monitor)
    for _ in range(3):
        box.run("systemctl", "restart", UNIT)
        assert look(monitor)["SystemdUnitFlapping"] == "False"
    assert look(monitor).metric("systemd_unit_restarts_total", unit=UNIT) == 0


def test_without_its_daemon_systemd_is_asked_directly(box: Box) -> None:
    box.run("systemctl", "stop", "dbus.socket", "dbus.service")
    # systemd takes only who has a number in its own namespace of processes.
    command = ("nsenter", "-t", str(box.leader), "-p", sys.executable, "-c", ASK, str(box.host.root))
    try:
        seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        box.run("systemctl", "start", "dbus.socket", "dbus.service")
    assert seen.strip() == "systemd-journald.service"


def test_a_systemd_that_hangs_is_told_without_hanging_and_clears(box: Box) -> None:
    monitor = watching(box, answerWithin="400ms")
    with box.frozen():
        seen = look(monitor)
    assert seen["SystemdUnresponsive"] == "True"
    assert (seen["SystemdUnitFailed"], reason(seen, "SystemdUnitFailed")) == (
        "Unknown",
        "SystemdDoesNotAnswer",
    )
    assert look(watching(box))["SystemdUnresponsive"] == "False"


def test_a_systemd_that_stops_answering_in_the_middle_is_told(box: Box) -> None:
    with connected(box.host, 0.5) as systemd:
        assert systemd.units()
        with box.frozen(), pytest.raises(Undetermined, match="stopped answering") as caught:
            systemd.units()
    assert caught.value.reason == "SystemdDoesNotAnswer"


def test_an_answer_that_trickles_has_no_more_time_than_one_that_does_not_come(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    told = threading.Event()

    def trickle() -> None:
        client, _ = listener.accept()
        with client:
            while not told.wait(0.02):
                client.send(b"O")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run/systemd/private"))
        listener.listen()
        server = threading.Thread(target=trickle)
        server.start()
        try:
            with pytest.raises(Silent), connected(Host(root=tmp_path), 0.3):
                pass
        finally:
            told.set()
            server.join()


@pytest.mark.parametrize("resets", [True, False])
def test_sockets_that_refuse_say_nothing_of_systemd(tmp_path: Path, *, resets: bool) -> None:
    """Systemd resets connections from another PID namespace to its own socket, such as those of a pod."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)

    def reset() -> None:
        client, _ = listener.accept()
        client.close()  # unread input makes it a reset

    with socket.socket(socket.AF_UNIX) as listener:
        server = threading.Thread(target=reset)
        if resets:
            listener.bind(str(tmp_path / "run/systemd/private"))
            listener.listen()
            server.start()
        with pytest.raises(Undetermined) as caught, connected(Host(root=tmp_path), 2):
            pass
        if resets:
            server.join()
    assert not isinstance(caught.value, Silent)
    assert caught.value.reason == ("AccessDenied" if resets else "NoConnection")


def test_a_machine_without_systemd_is_undetermined(tmp_path: Path) -> None:
    with pytest.raises(Undetermined, match="does not run this machine") as caught:
        list(SystemdMonitor("systemd", SystemdOptions(), Host(root=tmp_path)).check())
    assert caught.value.reason == "NoSystemd"


@pytest.fixture
def for_root_alone() -> Iterator[Path]:
    """A machine without D-Bus whose systemd listens for root alone."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as private:
        root = Path(name)
        root.chmod(0o755)
        (root / "run/systemd/system").mkdir(parents=True)
        private.bind(str(root / "run/systemd/private"))
        private.listen()
        (root / "run/systemd/private").chmod(0o600)
        yield root


def test_who_may_not_ask_is_told_so(for_root_alone: Path, as_nobody: None) -> None:
    with pytest.raises(Undetermined, match="for root alone") as caught:
        list(SystemdMonitor("systemd", SystemdOptions(), Host(root=for_root_alone)).check())
    assert caught.value.reason == "AccessDenied"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"mustBeActive": ["sshd"]}, "mustBeActive[0]"),
        ({"flapWithin": "0s"}, "flapWithin"),
        ({"answerWithin": "0s"}, "answerWithin"),
        ({"answerWithin": "9s"}, "answerWithin"),
    ],
)
def test_options_that_make_no_sense_are_faults(options: dict[str, Any], path: str) -> None:
    assert path in dict(msgspec.convert(options, SystemdOptions).faults())

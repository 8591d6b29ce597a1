"""A process that SIGKILL does not end: the kernel's freezer makes one, as a dead disk would."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_support import Agent, eventually, kill

Start = Callable[..., Agent]
FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup that freezes what is put into it; cgroups(7), version 1."""
    folder = FREEZER / f"node-doctor-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no freezer: {error}")
    yield folder
    (folder / "freezer.state").write_text("THAWED")
    eventually("nobody is left in it", lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_a_stuck_process_is_set_aside_and_its_replacement_reports(agent: Start, freezer: Path) -> None:
    one = agent(
        "[{name: n, type: noop, interval: 500ms, timeout: 200ms}, {name: o, type: noop, interval: 200ms, timeout: 100ms}]"
    ).ready()
    pid = one.monitor("n")["pid"]
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    eventually("it is stuck", lambda: one.monitor("n")["state"] == "stuck")
    eventually("it was replaced", lambda: one.monitor("n")["pid"] not in {None, pid})
    assert one.metric('worker_stuck{worker="monitor n"}') == 1
    one.becomes("MonitorHung", "True")
    before = one.monitor("n")["checks"], one.monitor("o")["checks"]
    time.sleep(2)
    assert one.monitor("n")["checks"] > before[0]
    assert one.monitor("o")["checks"] > before[1]
    (freezer / "freezer.state").write_text("THAWED")
    eventually("it is gone", lambda: one.worker("monitor n")["stuck"] == 0)
    one.becomes("MonitorHung", "False")


def test_three_stuck_processes_pause_the_monitor_until_one_is_gone(agent: Start, freezer: Path) -> None:
    one = agent(
        "[{name: n, type: noop, interval: 300ms, timeout: 100ms}, {name: o, type: noop, interval: 200ms, timeout: 100ms}]"
    ).ready()
    for number in (1, 2, 3):
        pid = eventually("a process runs", lambda: one.monitor("n")["pid"])
        (freezer / "cgroup.procs").write_text(str(pid))
        (freezer / "freezer.state").write_text("FROZEN")
        eventually(f"{number} are stuck", lambda n=number: one.worker("monitor n")["stuck"] == n)
    eventually("it is paused", lambda: one.monitor("n")["state"] == "paused")
    assert one.monitor("o")["state"] == "ok"
    (freezer / "freezer.state").write_text("THAWED")
    eventually("it is well again", lambda: one.monitor("n")["state"] == "ok")


def test_an_agent_with_a_stuck_process_stops_in_time(agent: Start, freezer: Path) -> None:
    one = agent("[{name: n, type: noop, interval: 500ms, timeout: 200ms}]").ready()
    (freezer / "cgroup.procs").write_text(str(one.monitor("n")["pid"]))
    (freezer / "freezer.state").write_text("FROZEN")
    eventually("it is stuck", lambda: one.monitor("n")["state"] == "stuck")
    one.processes()
    began = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(15) == 0
    assert time.monotonic() - began < 12
    (freezer / "freezer.state").write_text("THAWED")
    with contextlib.suppress(ProcessLookupError):
        kill(one.process.pid)

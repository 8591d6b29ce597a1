"""Faults of real agents, one by one: the others go on, nothing is orphaned, the state is right again, metrics tell."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests_support import Agent, eventually, free_port, kill

from nodedoctor.bus.messages import envelope_decoder

Start = Callable[..., Agent]
WATCHED = "{name: watched, type: noop, interval: 200ms, timeout: 100ms}"


def misbehaving(way: str, trigger: Path, more: str = "") -> str:
    """Two monitors: one that misbehaves while `trigger` is there, and one that must not notice."""
    bad = f"{{name: bad, type: misbehaviour, interval: 500ms, timeout: 300ms, failureThreshold: 1 {more}"
    return f"[{bad}, config: {{way: {way}, whileExists: {trigger}}}}}, {WATCHED}]"


def cadence_holds(agent: Agent) -> None:
    """The watched monitor goes on checking: at least half of its ticks arrive, on a machine however busy."""
    before, began = agent.monitor("watched")["checks"], time.monotonic()
    time.sleep(2)
    after, took = agent.monitor("watched")["checks"], time.monotonic() - began
    assert after - before >= took / 0.2 / 2


def test_it_reports_the_machine_and_stops_without_leaving_anything(agent: Start) -> None:
    one = agent("[{name: m, type: memory-health-check}, {name: d, type: disk-health-check}]").ready()
    assert one.status()["node"] == "test-node"
    assert one.condition("MemoryLow")["status"] in {"True", "False"}
    assert one.end() == 0
    assert one.left_behind() == []
    assert one.text().strip().endswith('"message":"stopped"}')
    assert "Traceback" not in one.text()


def test_a_check_that_raises_is_a_condition_and_recovers(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("raise", trigger)).ready()
    one.becomes("Misbehaving", "False")
    trigger.touch()
    assert "this check is broken" in one.becomes("MonitorFailing", "True", "CheckRaised")["message"]
    assert one.worker("monitor bad")["restarts"] == {}
    cadence_holds(one)
    trigger.unlink()
    one.becomes("MonitorFailing", "False")


def test_a_lost_verdict_is_held_then_unknown_then_back(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("raise", trigger)).ready()
    trigger.touch()
    one.becomes("MonitorFailing", "True")
    assert one.condition("Misbehaving")["status"] == "False"
    one.becomes("Misbehaving", "Unknown", "MonitorStale")
    trigger.unlink()
    one.becomes("Misbehaving", "False")


@pytest.mark.parametrize(
    ("way", "exit_text"),
    [("crash", "signal 11"), ("exit", "exit code 3")],
    ids=["segmentation fault", "exit"],
)
def test_a_check_that_ends_its_process_is_restarted_and_shows(
    agent: Start, tmp_path: Path, way: str, exit_text: str
) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving(way, trigger)).ready()
    trigger.touch()
    eventually("it crashed", lambda: one.worker("monitor bad")["restarts"].get("crash", 0) >= 2)
    assert exit_text in one.worker("monitor bad")["lastExit"]
    assert one.metric('monitor_checks_total{monitor="bad",result="crash"}') >= 1
    assert one.metric('worker_restarts_total{reason="crash",worker="monitor bad"}') >= 2
    cadence_holds(one)
    trigger.unlink()
    eventually("it is well again", lambda: one.monitor("bad")["state"] == "ok")


def test_a_crash_loop_is_a_condition_and_not_the_end(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("crash", trigger)).ready()
    trigger.touch()
    message = one.becomes("MonitorCrashLooping", "True")["message"]
    assert "monitor bad" in message
    assert "watched" not in message
    cadence_holds(one)


@pytest.mark.parametrize("way", ["hang", "deaf"], ids=["in Python", "in C, deaf to SIGTERM"])
def test_a_check_that_hangs_is_killed_and_replaced(agent: Start, tmp_path: Path, way: str) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving(way, trigger)).ready()
    before = one.monitor("bad")["pid"]
    trigger.touch()
    eventually("it hangs", lambda: one.worker("monitor bad")["restarts"].get("hang", 0) >= 1)
    one.becomes("MonitorHung", "True")
    assert one.metric('monitor_checks_total{monitor="bad",result="timeout"}') >= 1
    cadence_holds(one)
    trigger.unlink()
    eventually("it is well again", lambda: one.monitor("bad")["state"] == "ok")
    one.becomes("MonitorHung", "False")
    assert one.monitor("bad")["pid"] != before
    assert not psutil.pid_exists(before)


def test_a_check_that_takes_more_memory_than_it_may_fails_and_gets_a_fresh_process(
    agent: Start, tmp_path: Path
) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("eat", trigger)).ready()
    trigger.touch()
    assert "MemoryError" in one.becomes("MonitorFailing", "True")["message"]
    eventually("it was replaced", lambda: one.worker("monitor bad")["restarts"].get("memory", 0) >= 1)
    cadence_holds(one)
    trigger.unlink()
    one.becomes("MonitorFailing", "False")


def test_a_worker_that_grows_is_replaced_between_checks(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("grow", trigger), settings__workerMemory__softMebibytes="32").ready()
    trigger.touch()
    eventually("it was replaced", lambda: one.worker("monitor bad")["restarts"].get("memory", 0) >= 1)
    assert one.condition("MonitorFailing")["status"] == "False"


def test_a_killed_monitor_comes_back_with_its_state(agent: Start) -> None:
    one = agent(
        f"[{{name: bad, type: misbehaviour, config: {{way: bad}}, failureThreshold: 1, interval: 1s}}, {WATCHED}]"
    ).ready()
    since = one.becomes("Misbehaving", "True")["lastTransitionTime"]
    pid = one.monitor("bad")["pid"]
    kill(pid)
    eventually("a new process", lambda: one.monitor("bad")["pid"] not in {None, pid})
    eventually("it reported", lambda: one.monitor("bad")["state"] == "problem")
    assert one.condition("Misbehaving")["lastTransitionTime"] == since
    assert "signal 9" in one.worker("monitor bad")["lastExit"]
    cadence_holds(one)


def test_a_stopped_monitor_is_replaced(agent: Start) -> None:
    one = agent(f"[{{name: still, type: noop, interval: 500ms, timeout: 200ms}}, {WATCHED}]").ready()
    pid = one.monitor("still")["pid"]
    kill(pid, signal.SIGSTOP)
    eventually("it was replaced", lambda: one.monitor("still")["pid"] not in {None, pid})
    eventually("the stopped one is gone", lambda: not psutil.pid_exists(pid))
    assert one.worker("monitor still")["restarts"] == {"hang": 1}


def test_a_killed_broker_comes_back_and_knows_everything(agent: Start) -> None:
    one = agent(
        f"[{{name: bad, type: misbehaviour, config: {{way: bad}}, failureThreshold: 1, interval: 20s}}, {WATCHED}]"
    ).ready()
    since = one.becomes("Misbehaving", "True")["lastTransitionTime"]
    pids = {m["name"]: m["pid"] for m in one.status()["monitors"]}
    for _ in range(3):
        pid = one.worker("broker")["pid"]
        kill(pid)
        eventually("a new broker", lambda pid=pid: one.worker("broker")["pid"] not in {0, pid})
        one.becomes("Misbehaving", "True")
    assert one.condition("Misbehaving")["lastTransitionTime"] == since
    assert {m["name"]: m["pid"] for m in one.status()["monitors"]} == pids
    assert one.metric('worker_restarts_total{reason="crash",worker="broker"}') == 3
    cadence_holds(one)


def test_what_happens_while_there_is_no_broker_is_told_to_the_next_one(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("event", trigger)).ready()
    kill(one.worker("broker")["pid"], signal.SIGSTOP)
    trigger.touch()
    time.sleep(1.2)
    kill(one.process.pid, signal.SIGUSR1)
    broker = next(p for p in one.processes() if "broker" in "".join(p.cmdline()))
    kill(broker.pid)
    eventually(
        "the event is there",
        lambda: any(e["monitor"] == "bad" for e in one.get("/events")[1].get("events", [])),
    )


@pytest.mark.parametrize("name", ["http", "prometheus"])
def test_a_killed_exporter_comes_back_and_disturbs_nobody(agent: Start, name: str) -> None:
    one = agent(f"[{WATCHED}]").ready()
    pid = one.worker(f"exporter {name}")["pid"]
    kill(pid)

    def back() -> bool:
        found = [w for w in one.get("/status")[1].get("workers", []) if w["name"] == f"exporter {name}"]
        return bool(found) and found[0]["pid"] not in {0, pid}

    eventually("a new process", back)
    one.ready()
    assert one.worker(f"exporter {name}")["restarts"] == {"crash": 1}
    assert one.metric('worker_up{worker="broker"}') == 1
    cadence_holds(one)


@pytest.mark.parametrize("when", ["idle", "while a check hangs"])
def test_nothing_survives_a_killed_supervisor(agent: Start, tmp_path: Path, when: str) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("deaf", trigger).replace("timeout: 300ms", "timeout: 400ms")).ready()
    if when != "idle":
        trigger.touch()
        eventually("it hangs", lambda: one.worker("monitor bad")["restarts"].get("hang", 0) >= 1)
    one.processes()
    kill(one.process.pid)
    one.process.wait(5)
    assert one.left_behind() == []


def test_nothing_that_a_plugin_started_survives_a_killed_supervisor(agent: Start, tmp_path: Path) -> None:
    script = tmp_path / "plugin"
    script.write_text("#!/bin/sh\nsetsid sleep 4711 &\nsleep 4711 &\nsleep 4711\n")
    script.chmod(0o755)
    config = f"{{path: {script}, user: root, pluginTimeout: 60s}}"
    one = agent(f"[{{name: p, type: custom-plugin, interval: 100s, timeout: 90s, config: {config}}}]")

    def sleeping() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4711"]]

    eventually("the plugin runs", lambda: len(sleeping()) == 3)
    one.processes()
    kill(one.process.pid)
    eventually("they are gone", lambda: not sleeping())


def test_a_flood_of_statuses_is_counted_and_delays_nobody(agent: Start) -> None:
    one = agent(f"[{WATCHED}, {{name: flood, type: noop, interval: 60s}}]").ready()
    import zmq

    from nodedoctor.bus.sockets import Publisher
    from nodedoctor.types import Result, Status, utc_now

    context = zmq.Context()
    publisher = Publisher(context, node="x", epoch=1).connect(f"ipc://{one.run_dir}/status.sock")
    eventually("the broker listens", publisher.renewed)
    for number in range(100_000):
        publisher.send("status.flood", Status("flood", 1, number + 2, utc_now(), Result.OK, 0.0))
    publisher.close()
    context.term()
    checks = 'monitor_checks_total{monitor="flood",result="ok"}'
    lost = 'status_lost_total{source="flood"}'
    eventually("every status is counted, or as lost", lambda: one.metric(checks) + one.metric(lost) >= 90_000)
    cadence_holds(one)
    assert one.get("/livez")[0] == 200


def test_a_plugin_that_prints_100_megabytes_costs_nothing(agent: Start, tmp_path: Path) -> None:
    script = tmp_path / "plugin"
    script.write_text("#!/bin/sh\nhead -c 100000000 /dev/zero | tr '\\0' x\nexit 1\n")
    script.chmod(0o755)
    config = f"{{path: {script}, user: root, condition: Loud}}"
    one = agent(
        f"[{{name: p, type: custom-plugin, interval: 2s, timeout: 1900ms, failureThreshold: 1, config: {config}}}, {WATCHED}]"
    ).ready()
    message = one.becomes("Loud", "True")["message"]
    assert 0 < len(message) <= 1024
    assert one.worker("monitor p")["memoryBytes"] < 64 << 20
    assert one.worker("monitor p")["restarts"] == {}


def test_a_second_agent_on_the_same_folder_is_refused(agent: Start) -> None:
    one = agent(f"[{WATCHED}]").ready()
    import subprocess
    import sys

    second = subprocess.run(
        [sys.executable, "-m", "nodedoctor", "run", "--run-dir", str(one.run_dir), "--state-dir", str(one.state_dir)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"pid {one.process.pid}" in second.stderr
    cadence_holds(one)


@pytest.mark.parametrize(
    ("exporter", "setting"),
    [("http", "exporters.http.hostPort"), ("prometheus", "exporters.prometheus.port")],
)
def test_a_taken_port_is_said_and_taken_when_it_is_free(agent: Start, exporter: str, setting: str) -> None:
    import socket

    port = free_port()
    holder = socket.create_server(("127.0.0.1", port))
    one = agent(f"[{WATCHED}]", **{setting.replace(".", "__"): str(port)})
    condition = one.becomes("ExporterUnavailable", "True")
    assert f"port {port} on 127.0.0.1 is taken" in condition["message"]
    assert one.get("/ready")[0] == 503
    cadence_holds(one)
    assert one.worker(f"exporter {exporter}")["restarts"] == {}
    holder.close()
    one.becomes("ExporterUnavailable", "False")
    one.ready()
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_the_state_of_every_worker_is_logged_on_request(agent: Start) -> None:
    one = agent(f"[{WATCHED}]").ready()
    kill(one.process.pid, signal.SIGUSR1)
    eventually(
        "the log tells", lambda: "monitor watched: running" in one.text() and "broker: running" in one.text()
    )


def test_a_log_that_nobody_reads_stops_nothing(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    one = agent(misbehaving("raise", trigger)).ready()
    for _ in range(20):
        kill(one.process.pid, signal.SIGUSR1)
    cadence_holds(one)


def test_a_kernel_line_is_an_event_on_the_bus_at_once(agent: Start) -> None:
    if not os.access("/dev/kmsg", os.W_OK) and os.environ.get("CI") != "true":
        pytest.skip("/dev/kmsg can't be written")
    rule = "{name: tagged, pattern: 'nd-test-(?P<tag>[0-9]+)', reason: Tagged, message: 'saw {tag}'}"
    one = agent(f"[{{name: klog, type: log-pattern, interval: 30s, config: {{rules: [{rule}]}}}}]").ready()
    tap = one.tap("event.klog")
    time.sleep(0.3)
    Path("/dev/kmsg").write_text(f"<4>nd-test-{os.getpid()}\n")
    assert tap.poll(5000)
    envelope = envelope_decoder.decode(tap.recv_multipart()[1])
    assert f"saw {os.getpid()}" in bytes(envelope.data).decode()
    tap.close()


def test_a_monitor_process_has_no_more_privileges_than_it_declared(agent: Start) -> None:
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        pytest.skip("only root has something to drop")
    one = agent(f"[{WATCHED}, {{name: klog, type: log-pattern, config: {{ruleSets: [kernel]}}}}]").ready()
    found = {}
    for name in ("watched", "klog"):
        lines = Path(f"/proc/{one.monitor(name)['pid']}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found[name] = (int(fields["CapEff"], 16), int(fields["CapBnd"], 16), fields["NoNewPrivs"])
    assert found == {"watched": (0, 0, "1"), "klog": (1 << 34, 1 << 34, "1")}


def test_titles_and_folders_are_as_promised(agent: Start) -> None:
    one = agent(f"[{WATCHED}]").ready()
    titles = {"".join(p.cmdline()) for p in one.processes()}
    promised = {"supervisor", "broker", "monitor watched", "exporter http", "exporter prometheus"}
    assert {f"node-doctor: {name}" for name in promised} <= titles
    assert one.run_dir.stat().st_mode & 0o777 == 0o700
    assert {"status.sock", "bus.sock", "snapshot.sock", "health.sock"} <= {
        p.name for p in one.run_dir.iterdir()
    }

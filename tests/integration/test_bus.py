"""The guarantees of the bus, with a real broker that is killed, stopped and flooded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq
from tests_support import Agent, eventually, kill

from nodedoctor.bus.messages import Envelope, Snapshot
from nodedoctor.bus.mirror import Mirror
from nodedoctor.bus.sockets import Publisher, SnapshotClient
from nodedoctor.types import Result, Status, utc_now

Start = Callable[..., Agent]
MONITORS = "[{name: a, type: noop, interval: 60s}, {name: b, type: noop, interval: 300ms, timeout: 100ms}]"


@contextmanager
def mirror_of(agent: Agent) -> Iterator[Mirror]:
    """A follower of the agent's bus."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    mirror = Mirror(context, agent.run_dir)
    try:
        yield mirror
    finally:
        mirror.close()
        context.term()


def collect(mirror: Mirror, found: list[Snapshot | Envelope], seconds: float) -> list[Snapshot | Envelope]:
    """Follow for some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found += mirror.receive(0.1)
    return found


def in_order(found: list[Snapshot | Envelope]) -> bool:
    """Whether each message follows the one before it, or a snapshot, without gap or repetition."""
    seq = None
    for item in found:
        if isinstance(item, Envelope) and (seq is None or item.seq != seq + 1):
            return False
        seq = item.seq
    return True


def test_a_late_joiner_gets_the_snapshot_and_then_the_stream(agent: Start) -> None:
    one = agent(MONITORS).ready()
    with mirror_of(one) as mirror:
        found = collect(mirror, [], 1.0)
        assert isinstance(found[0], Snapshot)
        assert {c.type for c in found[0].conditions} >= {"AUnhealthy", "BUnhealthy", "MonitorFailing"}
        kill(one.monitor("a")["pid"])
        collect(mirror, found, 1.5)
    topics = [item.topic for item in found if isinstance(item, Envelope)]
    assert "worker.a" in topics
    assert in_order(found)


def test_a_follower_survives_a_killed_broker_and_has_its_new_state(agent: Start) -> None:
    one = agent(MONITORS).ready()
    with mirror_of(one) as mirror:
        found = collect(mirror, [], 0.5)
        kill(one.worker("broker")["pid"])
        eventually(
            "a new snapshot", lambda: sum(isinstance(i, Snapshot) for i in collect(mirror, found, 0.3)) >= 2
        )
        collect(mirror, found, 1.5)
    epochs = [item.epoch for item in found if isinstance(item, Snapshot)]
    assert epochs[-1] > epochs[0]
    assert in_order(found)


def test_a_stopped_follower_finds_the_state_again_and_delays_nobody(agent: Start) -> None:
    one = agent(MONITORS).ready()
    with mirror_of(one) as mirror:
        collect(mirror, [], 0.5)
        before = one.monitor("b")["checks"]
        for _ in range(5):
            kill(one.monitor("a")["pid"])
            pid = one.monitor("a")["pid"]
            eventually("restarted", lambda pid=pid: one.monitor("a")["pid"] not in {None, pid})
        assert one.monitor("b")["checks"] > before
        found = collect(mirror, [], 1.5)
        assert not mirror.follower.waiting
        assert all(isinstance(item, Snapshot | Envelope) for item in found)


def test_a_stopped_broker_is_noticed_and_stops_no_answer(agent: Start) -> None:
    one = agent(MONITORS).ready()
    pid = one.worker("broker")["pid"]
    kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    code, body = one.get("/health")
    assert (code, body["node"]) == (200, "test-node")
    assert time.monotonic() - began < 4.5
    eventually("it was replaced", lambda: one.worker("broker")["pid"] not in {0, pid})


def test_the_first_message_of_a_worker_is_not_lost(agent: Start) -> None:
    """The second one would come a minute later."""
    one = agent("[{name: n, type: noop, interval: 60s}]").ready()
    assert one.monitor("n")["checks"] == 1
    assert one.monitor("n")["state"] == "ok"


def test_lost_statuses_are_counted(agent: Start) -> None:
    one = agent(MONITORS).ready()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = Publisher(context, node="x", epoch=1).connect(f"ipc://{one.run_dir}/status.sock")
    eventually("the broker listens", publisher.renewed)
    status = Status("a", 1, 100, utc_now(), Result.OK, 0.0)
    publisher.send("status.a", status)
    before = one.metric('status_lost_total{source="a"}')
    publisher.seq += 7
    publisher.send("status.a", status)
    eventually("seven are missed", lambda: one.metric('status_lost_total{source="a"}') - before == 7)
    publisher.close()
    context.term()


def test_garbage_on_the_bus_is_dropped_and_said(agent: Start) -> None:
    one = agent(MONITORS).ready()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.connect(f"ipc://{one.run_dir}/status.sock")
    assert socket.poll(5000)
    for body in (b"", b"\xff\xfe", b"{}", b'{"topic": "status.a", "seq": "x"}', b"[" * 10_000):
        socket.send_multipart((b"status.a", body))
    socket.send(b"one frame")
    socket.send_multipart((b"a", b"b", b"c"))
    eventually("it was said", lambda: one.text().count("dropped a message") >= 5)
    checks = one.monitor("b")["checks"]
    eventually("the broker goes on", lambda: one.monitor("b")["checks"] > checks + 2)
    socket.close()
    context.term()
    assert one.get("/livez")[0] == 200
    assert one.worker("broker")["restarts"] == {}


def test_an_inherited_socket_refuses_to_send() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = Publisher(context, node="x", epoch=1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            publisher.send("status.a", Status("a", 1, 1, utc_now(), Result.OK, 0.0))
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert b"would be lost" in os.read(read, 1000)
    publisher.close()
    context.term()


def test_who_asks_for_snapshots_and_never_reads_them_stops_nobody(agent: Start) -> None:
    one = agent(MONITORS).ready()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = SnapshotClient(context, one.run_dir)
    for _ in range(2000):
        client.ask()
    assert one.get("/health")[0] == 200
    client.close()
    context.term()


@pytest.mark.parametrize("folder", ["x" * 120])
def test_a_run_folder_whose_sockets_can_not_be_bound_is_refused(folder: str, agent: Start) -> None:
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "nodedoctor",
        "run",
        "--run-dir",
        f"/tmp/{folder}",
        "--state-dir",
        "/tmp/nd-state",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "shorter --run-dir" in done.stderr

"""The metrics endpoint in a process of its own, asked over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exporter_support import HEALTHY, Answer, Process
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tests_support import eventually, free_port

from nodedoctor.bus.messages import ExporterState, Snapshot

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def run(snapshot: Snapshot | None = HEALTHY, **options: object) -> Process:
        started.append(Process(tmp_path, "prometheus", snapshot, **options))
        return started[-1]

    yield run
    for one in started:
        one.end()


def test_a_scrape_gets_what_the_broker_knows_and_how_old_it_is(start: Start) -> None:
    one = start(namespace="nd", npdCompatible=True)
    one.reported(ExporterState.RUNNING)
    one.put("age", "42.5")
    status, headers, body = one.tcp("/metrics")
    read = {s.name: s.value for f in text_string_to_metric_families(body.decode()) for s in f.samples}
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert read["nd_build_info"] == 1
    assert read["nd_monitor_duration_seconds_count"] == 3
    assert read["nd_snapshot_age_seconds"] == 42.5
    assert read["nd_exposition_refused_families"] == 1
    assert b'\nproblem_counter{reason="Because"} 2.0\n' in body
    asked = one.tcp("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert asked[1]["Content-Type"].startswith("application/openmetrics-text")
    assert "nd_monitor_checks" in {family.name for family in parse_openmetrics(asked[2].decode())}


def test_promtool_has_no_complaint(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    try:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=one.tcp("/metrics")[2], capture_output=True, check=False
        )
    except FileNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("promtool is not installed")
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_only_metrics_are_there(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    assert b'href="/metrics"' in one.tcp("/")[2]
    assert one.tcp("/nothing")[0] == 404
    assert one.tcp("/metrics", "POST")[0] == 501
    status, headers, body = one.tcp("/metrics", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 100


def test_before_the_broker_has_answered_a_scrape_fails_and_then_succeeds(start: Start) -> None:
    one = start(None)
    one.reported(ExporterState.RUNNING)
    assert one.tcp("/metrics")[0] == 503
    one.show(HEALTHY)
    assert one.tcp("/metrics")[0] == 200


def test_a_taken_port_is_told_and_taken_when_it_is_free(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one = start(port=port)
        told = one.reported(ExporterState.UNAVAILABLE)
        assert f"port {port} on 127.0.0.1 is taken" in told
        eventually("it tries again", lambda: len(one.reports()) >= 2)
    one.reported(ExporterState.RUNNING)
    assert one.tcp("/metrics")[0] == 200
    assert one.log.read_text().count("is taken") == 1


def test_sigterm_ends_it_while_it_waits_for_the_port(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = start(port=other.getsockname()[1])
        one.reported(ExporterState.UNAVAILABLE)
        assert one.end() < 1
        assert one.process.returncode == 0


def test_sigterm_lets_a_response_end_and_waits_for_no_idle_client(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    one.put("delay", "0.5")
    answers: list[Answer] = []
    scrape = threading.Thread(target=lambda: answers.append(one.tcp("/metrics")))
    with socket.create_connection(("127.0.0.1", one.port)):
        scrape.start()
        time.sleep(0.2)
        took = one.end()
        scrape.join()
    assert [answer[0] for answer in answers] == [200]
    assert 0.2 < took < 2
    assert one.process.returncode == 0


def test_clients_that_send_a_byte_now_and_then_are_cut_off(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    with contextlib.ExitStack() as clients:
        slow = [clients.enter_context(socket.create_connection(("127.0.0.1", one.port))) for _ in range(30)]
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        stop = threading.Event()
        dripping = threading.Thread(target=drip, args=(slow, stop))
        dripping.start()
        try:
            began = time.monotonic()
            while True:
                with contextlib.suppress(TimeoutError):
                    assert one.tcp("/metrics")[0] == 200
                    break
            assert time.monotonic() - began < 30
        finally:
            stop.set()
            dripping.join()


def drip(clients: list[socket.socket], stop: threading.Event) -> None:
    """Send a byte over each connection each second."""
    while not stop.wait(1):
        for client in clients:
            with contextlib.suppress(OSError):  # it was cut off, as it should be
                client.sendall(b"x")


def test_ipv6_addresses_are_served(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    one = start(bindAddress="::1", port=free_port())
    one.reported(ExporterState.RUNNING)
    connection = http.client.HTTPConnection("::1", one.port, timeout=5)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()


def test_sigkill_leaves_nothing(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    assert one.end(signal.SIGKILL) < 2

"""The health API's process with a broker's state that the test makes up: real gunicorn, real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil
import pytest
from exporter_support import EVIL, HEALTHY, SICK, Process, condition, exporter, monitor
from prometheus_client.parser import text_string_to_metric_families
from tests_support import eventually

from nodedoctor.bus.messages import ExporterState, Snapshot
from nodedoctor.types import Severity

Start = Callable[..., Process]
DATA = ("/", "/health", "/status", "/conditions", "/events", "/monitors", "/monitors/disk", "/metrics")
PROBES = ("/livez", "/ready")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def run(snapshot: Snapshot | None = HEALTHY, **options: object) -> Process:
        one = Process(tmp_path, "http", snapshot, **options)
        started.append(one)
        eventually(f"it serves: {one.log.read_text()}", lambda: serves(one))
        one.processes()
        return one

    yield run
    for one in started:
        one.end()


def serves(one: Process) -> bool:
    """Whether the unix socket answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return one.local("/livez")[0] > 0
    return False


def worker(one: Process) -> psutil.Process:
    """The worker process of gunicorn."""
    (child,) = eventually(
        "one worker", lambda: len(c := psutil.Process(one.process.pid).children()) == 1 and c
    )
    found: psutil.Process = child
    return found


def test_each_part_is_what_the_broker_knows(start: Start) -> None:
    one = start()
    assert one.json("/health") | {"timestamp": ""} == {
        "status": "healthy", "node": "n1", "problems": [], "timestamp": "",
    }  # fmt: skip
    status = one.json("/status")
    assert {k: status[k] for k in ("node", "version", "status", "problems", "inactive", "remediation")} == {
        "node": "n1",
        "version": "0.1",
        "status": "healthy",
        "problems": [],
        "inactive": {"exporters.kubernetes": "not in this version"},
        "remediation": {"active": False, "reason": "not in this version"},
    }
    assert status["uptime"] > 0
    assert [w["name"] for w in status["workers"]] == ["monitor disk"]
    assert [e["state"] for e in status["exporters"]] == ["running", "inactive"]
    assert one.json("/conditions") == {"conditions": status["conditions"]}
    assert one.json("/monitors") == {"monitors": status["monitors"]}
    assert one.json("/monitors/disk") == {**status["monitors"][0], "conditions": status["conditions"]}
    assert one.json("/monitors/idle")["conditions"] == []
    assert one.json("/remediation/history?limit=5") == {"items": []}


def test_events_come_newest_first_and_a_hundred_unless_asked(start: Start) -> None:
    one = start()
    assert [e["reason"] for e in one.json("/events")["events"]] == [f"Event{n}" for n in range(149, 49, -1)]
    assert [e["reason"] for e in one.json("/events?limit=2")["events"]] == ["Event149", "Event148"]
    assert len(one.json("/events?limit=1000")["events"]) == 150
    for nonsense in ("x", "-1", "", "1.5", "%C2%B2", "9" * 30):
        for path in ("/events", "/remediation/history"):
            assert one.local(f"{path}?limit={nonsense}")[0] == 400, nonsense


def test_a_sick_node_is_503_at_health_and_nowhere_else(start: Start) -> None:
    one = start(SICK)
    assert one.local("/health")[0] == 503
    assert one.json("/health")["status"] == "unhealthy"
    assert [p["type"] for p in one.json("/health")["problems"]] == ["DiskSpaceLow"]
    for path in (*PROBES, "/status", "/"):
        assert one.local(path)[0] == 200, path
    one.show(with_(SICK, conditions=(condition("DiskSpaceLow", "False", Severity.WARNING),)))
    assert (one.local("/health")[0], one.json("/health")["status"]) == (200, "degraded")


def with_(snapshot: Snapshot, **fields: object) -> Snapshot:
    """`snapshot` with other fields."""
    return msgspec.structs.replace(snapshot, **fields)


def test_the_page_shows_everything_and_runs_nothing(start: Start) -> None:
    one = start(SICK)
    status, headers, body = one.local("/")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for word in (
        "n1",
        "unhealthy",
        "Problems",
        "Conditions",
        "Monitors",
        "DiskSpaceLow",
        "idle",
        "monitor disk",
    ):
        assert word in page, word
    assert EVIL not in page
    assert page.count("&lt;script&gt;") == 2
    assert 'http-equiv="refresh"' in page
    assert "src=" not in page
    assert "href=" not in page


def test_before_the_broker_has_answered_all_data_are_503_and_then_there(start: Start) -> None:
    one = start(None)
    for path in DATA:
        status, headers, body = one.local(path)
        assert (status, headers["Content-Type"]) == (503, "application/json"), path
        assert json.loads(body)["error"]["code"] == 503
    assert one.local("/livez")[0] == 503
    assert one.json("/ready") == {"ready": False, "reasons": ["the broker has not answered yet"]}
    one.show(HEALTHY)
    assert {one.local(path)[0] for path in (*DATA, *PROBES)} == {200}


def test_a_silent_broker_or_supervisor_is_not_alive(start: Start) -> None:
    one = start()
    one.put("age", "29")
    assert [one.local(path)[0] for path in PROBES] == [200, 200]
    one.put("age", "31")
    assert [one.local(path)[0] for path in PROBES] == [503, 503]
    assert one.json("/livez")["reasons"] == ["the broker does not answer"]
    assert one.json("/ready")["reasons"] == ["the broker has not answered for 31 s"]
    assert one.local("/status")[0] == 200
    one.put("age", "0")
    one.show(with_(HEALTHY, supervised=HEALTHY.timestamp - timedelta(seconds=31)))
    assert [one.local(path)[0] for path in PROBES] == [503, 200]
    assert one.json("/livez")["reasons"] == ["the supervisor is silent"]


def test_it_is_ready_when_each_monitor_has_reported_and_each_exporter_runs(start: Start) -> None:
    one = start(
        with_(
            HEALTHY,
            monitors=(monitor("disk"), monitor("slow", None)),
            exporters=(
                exporter("http", ExporterState.UNAVAILABLE, "port 1 is taken"),
                exporter("prometheus", ExporterState.STARTING),
                exporter("kubernetes", ExporterState.INACTIVE),
            ),
        )
    )
    assert one.local("/ready")[0] == 503
    assert one.json("/ready")["reasons"] == [
        "monitor slow has not reported yet",
        "exporter http is unavailable: port 1 is taken",
        "exporter prometheus is starting",
    ]
    assert one.local("/livez")[0] == 200


def test_metrics_are_there_with_node_problem_detectors_names(start: Start) -> None:
    body = start().local("/metrics")[2].decode()
    families = {family.name for family in text_string_to_metric_families(body)}
    assert {"node_doctor_build_info", "node_doctor_monitor_checks", "problem_gauge"} <= families
    assert 'problem_counter{reason="Because"} 2.0' in body.splitlines()


def test_other_methods_paths_and_names_are_refused_as_json(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in (*DATA, *PROBES):
            status, headers, body = one.tcp(path, method)
            assert (status, headers["Cache-Control"]) == (405, "no-store"), (method, path)
            assert json.loads(body)["error"]["code"] == 405
            assert "GET" in headers["Allow"]
    for path in ("/nothing", "/monitors/none", "/livez/", "/monitors//disk", "/%2e%2e/etc/passwd"):
        status, _, body = one.tcp(path)
        assert (status, json.loads(body)["error"]["code"]) == (404, 404), path
    for path in (*DATA, *PROBES):
        assert one.tcp(path, "HEAD")[::2] == (200, b""), path


def test_each_handler_can_be_had_at_another_path(start: Start) -> None:
    handlers = {
        "overall-health": "/health",
        "readiness": "/ready",
        "liveness": "/livez",
        "prometheus-metrics": "/metrics",
        "detailed-status": "/status",
        "remediation-history": "/remediation/history",
    }
    one = start(endpoints=[{"path": f"/my/{name}", "handler": name} for name in handlers])
    for name, path in handlers.items():
        (code, headers, body), same = one.local(f"/my/{name}"), one.local(path)
        assert (code, headers["Content-Type"], body[:9]) == (200, same[1]["Content-Type"], same[2][:9]), name


def test_a_token_is_needed_over_tcp_but_for_probes(start: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    one = start(bearerTokenFile=str(token))
    one.reported(ExporterState.RUNNING)
    assert {one.tcp(path)[0] for path in (*DATA, "/nothing")} == {401}
    assert one.tcp("/status")[1]["WWW-Authenticate"] == "Bearer"
    assert {one.tcp(path)[0] for path in PROBES} == {200}
    assert {one.local(path)[0] for path in DATA} == {200}
    for wrong in (
        "",
        "sesame",
        "Bearer",
        "Bearer ",
        "Bearer sesam",
        "Bearer sesame2",
        "Basic sesame",
        "Bearer \xe9",
    ):
        assert one.tcp("/status", Authorization=wrong)[0] == 401, wrong
    assert one.tcp("/status", Authorization="bearer sesame")[0] == 200
    token.write_text("")
    assert one.tcp("/status", Authorization="Bearer ")[0] == 401
    token.unlink()
    assert one.tcp("/status", Authorization="Bearer sesame")[0] == 500
    assert one.tcp("/livez")[0] == 200
    assert "Traceback" not in one.log.read_text()


def authority(folder: Path, name: str) -> Path:
    """A new authority's certificate; its key lies beside it."""
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    return folder / f"{name}.pem"


def signed(folder: Path, name: str, ca: str) -> Path:
    """A certificate for 127.0.0.1 of the authority `ca`."""
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-days", "2", "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip
    return folder / f"{name}.pem"


def openssl(folder: Path, *args: str) -> None:
    """Run openssl in `folder`."""
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def client(ca: Path, certificate: Path | None = None) -> ssl.SSLContext:
    """A client that trusts `ca`, and shows `certificate`."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


def test_client_certificates_of_the_authority_are_needed_over_tcp_but_for_probes(
    start: Start, tmp_path: Path
) -> None:
    ca, foreign = authority(tmp_path, "ca"), authority(tmp_path, "foreign")
    server = signed(tmp_path, "server", "ca")
    one = start(
        tlsEnabled=True,
        tlsCertFile=str(server),
        tlsKeyFile=str(server.with_suffix(".key")),
        tlsClientCaFile=str(ca),
    )
    one.reported(ExporterState.RUNNING)
    known, stranger = client(ca, signed(tmp_path, "known", "ca")), client(ca)
    assert {one.tcp(path, tls=known)[0] for path in DATA} == {200}
    assert {one.tcp(path, tls=stranger)[0] for path in DATA} == {401}
    assert {one.tcp(path, tls=stranger)[0] for path in PROBES} == {200}
    with pytest.raises(OSError, match=r"(?i)unknown ca|reset|eof|broken pipe"):
        one.tcp("/status", tls=client(ca, signed(tmp_path, "spy", foreign.stem)))
    assert {one.local(path)[0] for path in (*DATA, *PROBES)} == {200}
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert one.tcp("/livez")[0] >= 400


def test_certificates_that_come_later_are_waited_for(start: Start, tmp_path: Path) -> None:
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    one = start(tlsEnabled=True, tlsCertFile=str(cert), tlsKeyFile=str(key))
    assert "tlsCertFile" in one.reported(ExporterState.UNAVAILABLE)
    assert one.local("/status")[0] == 200
    ca = authority(tmp_path, "ca")
    signed(tmp_path, "server", "ca")
    one.reported(ExporterState.RUNNING)
    assert one.tcp("/status", tls=client(ca))[0] == 200


def test_a_taken_port_is_told_and_taken_when_free_with_the_socket_served_all_along(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = start(hostPort=other.getsockname()[1])
        told = one.reported(ExporterState.UNAVAILABLE)
        assert f"port {one.port} on 127.0.0.1 is taken" in told
        assert one.local("/status")[0] == 200
        time.sleep(1.5)
    end = time.monotonic() + 15
    while not one.reports()[-1].startswith("running"):
        assert time.monotonic() < end
        assert one.local("/livez", patience=1.0)[0] == 200
    assert one.tcp("/status")[0] == 200
    worker(one)
    for _ in range(20):
        assert one.local("/livez", patience=1.0)[0] == 200
        assert one.tcp("/livez")[0] == 200
    assert one.log.read_text().count("is taken") == 1


def test_port_0_serves_the_socket_alone(start: Start) -> None:
    one = start(hostPort=0)
    one.reported(ExporterState.RUNNING)
    assert [c for c in worker(one).net_connections("tcp") if c.status == psutil.CONN_LISTEN] == []


def test_processes_have_their_titles_and_nobody_else_can_use_the_socket(start: Start, tmp_path: Path) -> None:
    one = start()
    title = "node-doctor: exporter http"
    eventually("the title", lambda: titled(psutil.Process(one.process.pid)) == title)
    assert titled(worker(one)) == f"{title} worker"
    mode = (tmp_path / "health.sock").stat().st_mode
    assert (stat.S_ISSOCK(mode), mode & 0o177) == (True, 0)
    assert {path.name for path in tmp_path.rglob("*")} <= {
        "health.sock", "config.json", "snapshot.json", "reports", "log",
    }  # fmt: skip


def titled(process: psutil.Process) -> str:
    """What ps(1) shows."""
    return " ".join(process.cmdline()).strip()


def test_sigterm_ends_all_within_two_seconds_although_clients_are_there(start: Start, tmp_path: Path) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    with (
        socket.create_connection(("127.0.0.1", one.port)) as slow,
        socket.create_connection(("127.0.0.1", one.port)),
    ):
        slow.sendall(b"GET /sta")
        time.sleep(0.2)
        assert one.end() < 3
    assert one.process.returncode == 0
    assert not (tmp_path / "health.sock").exists()


def test_sigterm_ends_an_idle_one_at_once(start: Start) -> None:
    assert start().end() < 1.5


def test_sigkill_of_the_arbiter_leaves_no_worker_and_its_socket_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    one = start()
    worker(one)
    assert one.end(signal.SIGKILL) < 1
    assert (tmp_path / "health.sock").is_socket()
    assert start().local("/status")[0] == 200


def test_a_killed_worker_is_replaced(start: Start) -> None:
    one = start()
    first = worker(one)
    first.kill()
    eventually("another worker serves", lambda: worker(one) != first and serves(one))
    assert one.local("/status")[0] == 200


def test_clients_that_send_a_byte_now_and_then_stop_no_probe_and_are_cut_off(start: Start) -> None:
    one = start()
    one.reported(ExporterState.RUNNING)
    with contextlib.ExitStack() as clients:
        # More than gunicorn's thousand would need more descriptors than a test may have.
        slow = [clients.enter_context(socket.create_connection(("127.0.0.1", one.port))) for _ in range(250)]
        for each in slow:
            with contextlib.suppress(OSError):  # it was turned away
                each.sendall(b"GET /status HTTP/1.1\r\nX: ")
        stop = threading.Event()
        dripping = threading.Thread(target=drip, args=(slow, stop))
        dripping.start()
        try:
            for _ in range(20):
                assert one.local("/livez", patience=1.0)[0] == 200
                time.sleep(0.1)
            eventually("the port answers again", lambda: answers(one), patience=15)
        finally:
            stop.set()
            dripping.join()


def answers(one: Process) -> bool:
    """Whether the port answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return one.tcp("/livez")[0] == 200
    return False


def drip(clients: list[socket.socket], stop: threading.Event) -> None:
    """Send a byte over each connection each second."""
    while not stop.wait(1):
        for each in clients:
            with contextlib.suppress(OSError):  # it was cut off, as it should be
                each.sendall(b"x")


def test_promtool_complains_of_nothing_but_node_problem_detectors_names(start: Start) -> None:
    body = start().local("/metrics")[2]
    try:
        done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    except FileNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("promtool is not installed")
    complaints = (done.stdout + done.stderr).decode().splitlines()
    assert [line for line in complaints if not line.startswith(("problem_counter ", "problem_gauge "))] == []

"""The health API of a real agent: every path, credentials, TLS, clients that behave badly."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests_support import Agent, eventually, free_port

Start = Callable[..., Agent]
SICK = "[{name: sick, type: misbehaviour, interval: 1s, failureThreshold: 1, config: {way: bad, condition: NodeSick}}]"
WELL = "[{name: well, type: noop, interval: 1s}]"


def request(
    agent: Agent,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of one request over TCP."""
    connection: http.client.HTTPConnection
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", agent.http_port, timeout=10, context=tls)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", agent.http_port, timeout=10)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def as_json(agent: Agent, path: str) -> Any:
    """The body of a GET."""
    _, headers, body = request(agent, path)
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    return json.loads(body)


def test_every_path_answers_as_promised(agent: Start) -> None:
    one = agent(SICK).ready()
    one.becomes("NodeSick", "True")
    health = as_json(one, "/health")
    assert (request(one, "/health")[0], health["status"], health["node"]) == (503, "unhealthy", "test-node")
    assert [p["type"] for p in health["problems"]] == ["NodeSick"]
    assert request(one, "/livez")[0] == 200
    assert as_json(one, "/ready") == {"ready": True, "reasons": []}
    status = as_json(one, "/status")
    assert {
        "node",
        "version",
        "uptime",
        "conditions",
        "monitors",
        "workers",
        "exporters",
        "remediation",
    } <= set(status)
    assert status["remediation"]["active"] is False
    assert set(status["conditions"][0]) >= {
        "type", "status", "reason", "message", "monitor", "lastTransitionTime", "lastUpdateTime",
    }  # fmt: skip
    assert set(status["monitors"][0]) >= {
        "name",
        "type",
        "state",
        "lastCheck",
        "lastDuration",
        "checks",
        "restarts",
        "pid",
    }
    assert status["monitors"][0]["state"] == "problem"
    assert as_json(one, "/conditions")["conditions"][0]["type"] == "NodeSick"
    assert as_json(one, "/monitors")["monitors"][0]["name"] == "sick"
    assert as_json(one, "/monitors/sick")["conditions"][0]["status"] == "True"
    assert as_json(one, "/events?limit=1")["events"][0]["reason"] == "Misbehaves"
    assert as_json(one, "/events?limit=0")["events"] == []
    assert as_json(one, "/remediation/history") == {"items": []}
    page = request(one, "/")[2].decode()
    assert "NodeSick" in page
    assert "<script" not in page


def test_metrics_are_the_same_at_both_ports(agent: Start) -> None:
    one = agent(WELL).ready()
    exposed = {
        sample.name
        for f in text_string_to_metric_families(request(one, "/metrics")[2].decode())
        for sample in f.samples
    }
    assert exposed == {series.partition("{")[0] for series in one.metrics()}


def test_promtool_finds_nothing_to_complain_about(agent: Start) -> None:
    one = agent(WELL).ready()
    try:
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=request(one, "/metrics")[2],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        import os

        if os.environ.get("CI") == "true":
            raise
        pytest.skip("promtool is not installed")
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_nothing_but_get_is_taken(agent: Start) -> None:
    one = agent(WELL).ready()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for path in ("/status", "/health", "/"):
            assert request(one, path, method)[0] == 405, (method, path)


def test_errors_are_json_with_code_and_message(agent: Start) -> None:
    one = agent(WELL).ready()
    paths = {
        "/nothing": 404,
        "/monitors/none": 404,
        "/events?limit=x": 400,
        "/events?limit=-1": 400,
        "/status/": 404,
    }
    for path, code in paths.items():
        status, headers, body = request(one, path)
        assert (status, headers["Content-Type"]) == (code, "application/json"), path
        error = json.loads(body)["error"]
        assert error["code"] == code
        assert error["message"]


def test_a_token_is_needed_for_all_but_probes_and_may_change(agent: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    one = agent(WELL, exporters__http__bearerTokenFile=str(token)).ready()
    assert [request(one, path)[0] for path in ("/livez", "/ready", "/status", "/metrics", "/")] == [
        200,
        200,
        401,
        401,
        401,
    ]
    assert request(one, "/status", headers={"Authorization": "Bearer sesame"})[0] == 200
    assert request(one, "/status", headers={"Authorization": "Bearer wrong"})[0] == 401
    token.write_text("changed")
    assert request(one, "/status", headers={"Authorization": "Bearer sesame"})[0] == 401
    assert request(one, "/status", headers={"Authorization": "Bearer changed"})[0] == 200
    assert one.get("/status")[0] == 200


def certificates(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, as cert.pem and key.pem."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


def test_tls_with_client_certificates_on_the_port_and_none_on_the_socket(
    agent: Start, tmp_path: Path
) -> None:
    cert = certificates(tmp_path)
    settings = {
        "exporters__http__tlsEnabled": "true",
        "exporters__http__tlsCertFile": str(cert),
        "exporters__http__tlsKeyFile": str(tmp_path / "key.pem"),
        "exporters__http__tlsClientCaFile": str(cert),
    }
    one = agent(WELL, **settings).ready()
    known = ssl.create_default_context(cafile=str(cert))
    known.load_cert_chain(cert, tmp_path / "key.pem")
    stranger = ssl.create_default_context(cafile=str(cert))
    assert request(one, "/status", tls=known)[0] == 200
    assert request(one, "/status", tls=stranger)[0] == 401
    assert request(one, "/livez", tls=stranger)[0] == 200
    assert one.get("/status")[0] == 200


def test_an_endpoint_of_the_configuration_is_served_besides(agent: Start) -> None:
    one = agent(WELL, exporters__http__endpoints="[{path: /healthz, handler: overall-health}]").ready()
    assert as_json(one, "/healthz")["status"] == "healthy"


def test_slow_clients_do_not_keep_the_probes_waiting(agent: Start) -> None:
    one = agent(WELL).ready()
    with contextlib.ExitStack() as open_sockets:
        for _ in range(40):
            client = open_sockets.enter_context(socket.create_connection(("127.0.0.1", one.http_port)))
            client.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n")
        time.sleep(1)
        for _ in range(10):
            assert one.get("/livez")[0] == 200


def test_an_agent_that_is_not_complete_is_live_and_not_ready(agent: Start) -> None:
    one = agent("[{name: slow, type: misbehaviour, interval: 100s, timeout: 90s, config: {way: hang}}]")
    reasons = eventually("an answer", lambda: one.get("/ready")[1].get("reasons"))
    eventually(
        "it says so", lambda: one.get("/ready")[1].get("reasons") == ["monitor slow has not reported yet"]
    )
    assert reasons
    assert one.get("/livez")[0] == 200


def test_the_api_can_be_on_its_socket_alone(agent: Start) -> None:
    one = agent(WELL, exporters__http__hostPort="0").ready()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.http_port), timeout=1)


def test_ipv6_is_served(agent: Start) -> None:
    port = free_port()
    one = agent(
        WELL, exporters__prometheus__bindAddress='"::1"', exporters__prometheus__port=str(port)
    ).ready()
    with socket.create_connection(("::1", port), timeout=5):
        pass
    assert one.condition("ExporterUnavailable")["status"] == "False"


def test_every_metric_that_is_promised_is_there(agent: Start) -> None:
    one = agent(WELL).ready()
    text = request(one, "/metrics")[2].decode()
    promised = [
        "build_info",
        "monitor_checks_total",
        "monitor_duration_seconds",
        "condition",
        "problems_detected_total",
        "events_total",
        "remediations_attempted_total",
        "remediations_succeeded_total",
        "remediations_failed_total",
        "remediations_skipped_total",
        "circuit_breaker_state",
        "api_requests_total",
        "status_channel_size",
        "status_lost_total",
        "worker_up",
        "worker_restarts_total",
        "worker_stuck",
        "worker_memory_bytes",
        "worker_cpu_seconds_total",
        "config_reloads_total",
        "config_last_reload_success_timestamp_seconds",
    ]
    assert [name for name in promised if f"# TYPE node_doctor_{name} " not in text] == []

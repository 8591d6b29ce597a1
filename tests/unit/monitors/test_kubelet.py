"""The kubelet's monitor: a server that answers well, badly, slowly or not at all, and a unit of a real systemd."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, give_up, look, resolve_to, silent_addresses
from systemd_support import Box, booted

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.monitors.kubernetes.kubelet.monitor import KubeletMonitor
from workers.monitors.kubernetes.kubelet.options import KubeletOptions
from workers.monitors.kubernetes.kubelet.pleg import percentile

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOKEN = "a-token"
SLEEPS = "[Service]\nExecStart=sleep infinity\n"


def head(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Server(threading.Thread):
    """Answers every request with what `answer` holds; tells how many wanted a token."""

    def __init__(self, answer: bytes, context: ssl.SSLContext | None = None, token: str = "") -> None:
        super().__init__()
        self.answer, self.context, self.token = answer, context, token
        self.trickle = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            client, _ = self.listener.accept()
            with client:
                try:
                    self.serve(client)
                except OSError:
                    continue

    def serve(self, plain: socket.socket) -> None:
        if self.ended.is_set():
            return
        plain.settimeout(10)
        with self.context.wrap_socket(plain, server_side=True) if self.context else plain as client:
            request = client.recv(65536).decode()
            allowed = not self.token or f"Authorization: Bearer {self.token}\r\n" in request
            if not self.trickle:
                client.sendall(self.answer if allowed else head("401 Unauthorized", b""))
            while self.trickle:
                client.sendall(b"H")
                time.sleep(0.02)

    def end(self) -> None:
        self.trickle = False
        self.ended.set()
        with socket.create_connection(self.listener.getsockname()):
            pass
        self.join()
        self.listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(answer: bytes = OK, **how: Any) -> Server:
            server = Server(answer, **how)
            server.start()
            stack.callback(server.end)
            return server

        yield start


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("only root boots a systemd")
    with booted(tmp_path_factory.mktemp("box")) as systemd:
        yield systemd


def kubelet(host: Host, server: Server | None = None, **options: Any) -> KubeletMonitor:
    if server:
        options["healthzUrl"] = f"http://{server.place}/healthz"
    found = msgspec.convert({"metricsUrl": "", "requestTimeout": "2s", **options}, KubeletOptions)
    assert list(found.faults()) == []
    return KubeletMonitor("kubelet", found, host, account=host.root / "nowhere")


@pytest.fixture
def bare(tmp_path: Path) -> Host:
    """A machine without systemd."""
    return Host(root=tmp_path)


def reason(seen: Seen, condition: str) -> str:
    return seen.verdicts[condition].reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (head("500 Internal Server Error", b"[-]syncloop failed"), "HealthzFailing"),
        (b"SSH-2.0-nonsense\r\n", "HealthzFailing"),
        (b"", "HealthzFailing"),
    ],
)
def test_a_kubelet_that_answers_badly_is_unhealthy_until_it_answers_well(
    bare: Host, serve: Callable[..., Server], answer: bytes, expected: str
) -> None:
    server = serve(answer)
    monitor = kubelet(bare, server)
    seen = look(monitor)
    assert (seen["KubeletUnhealthy"], reason(seen, "KubeletUnhealthy")) == ("True", expected)
    assert "kubelet" in seen.verdicts["KubeletUnhealthy"].message
    assert seen.metric("kubelet_healthy") == 0
    server.answer = OK
    well = look(monitor)
    assert well["KubeletUnhealthy"] == "False"
    assert well.metric("kubelet_healthy") == 1
    assert well.metric("kubelet_healthz_seconds") is not None


def test_a_kubelet_that_trickles_hangs(bare: Host, serve: Callable[..., Server]) -> None:
    server = serve()
    server.trickle = True
    seen = look(kubelet(bare, server, requestTimeout="300ms"))
    assert (seen["KubeletUnhealthy"], reason(seen, "KubeletUnhealthy")) == ("True", "KubeletHangs")
    server.trickle = False
    assert look(kubelet(bare, server))["KubeletUnhealthy"] == "False"


def test_a_kubelet_that_takes_connections_and_is_silent_hangs(bare: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/healthz"
        seen = look(kubelet(bare, healthzUrl=url, requestTimeout="200ms"))
    assert reason(seen, "KubeletUnhealthy") == "KubeletHangs"


def test_behind_a_silent_address_of_its_name_a_kubelet_answers(
    bare: Host, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_addresses(1, int(serve().place.split(":")[1])) as (hosts, port):
        resolve_to([*hosts, "127.0.0.1"], monkeypatch)
        assert look(kubelet(bare, healthzUrl=f"http://two.test:{port}/"))["KubeletUnhealthy"] == "False"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def configured(host: Host, port: object) -> None:
    folder = host.root / "var/lib/kubelet"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"kind: KubeletConfiguration\nhealthzPort: {port}\n")


def test_the_port_is_that_of_the_kubelets_configuration(bare: Host, serve: Callable[..., Server]) -> None:
    configured(bare, free_port())
    down = look(kubelet(bare))
    assert (down["KubeletUnhealthy"], reason(down, "KubeletUnhealthy")) == ("True", "KubeletDown")
    configured(bare, int(serve().place.split(":")[1]))
    assert look(kubelet(bare))["KubeletUnhealthy"] == "False"
    configured(bare, "often")
    with pytest.raises(Undetermined, match="no number"):
        look(kubelet(bare))
    configured(bare, 0)
    with pytest.raises(Undetermined, match="healthzPort is 0") as caught:
        look(kubelet(bare))
    assert caught.value.reason == "HealthzOff"


def test_a_machine_without_a_kubelet_is_undetermined(bare: Host) -> None:
    with pytest.raises(Undetermined, match="no kubelet on this machine") as caught:
        look(kubelet(bare))
    assert caught.value.reason == "NoKubelet"


@pytest.fixture
def unit(box: Box) -> Iterator[Callable[[str], None]]:
    """Writes and starts the kubelet's unit."""

    def write(text: str) -> None:
        box.write("kubelet.service", text)
        box.run("systemctl", "start", "kubelet.service", check=False)

    yield write
    box.remove("kubelet.service")


def test_a_kubelet_whose_unit_has_failed_is_told_so_until_it_runs(
    box: Box, unit: Callable[[str], None], serve: Callable[..., Server]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/healthz"
    unit("[Service]\nType=oneshot\nExecStart=false\n")
    failed = look(kubelet(box.host, healthzUrl=url))
    assert (failed["KubeletUnhealthy"], reason(failed, "KubeletUnhealthy")) == ("True", "ServiceFailed")
    assert "kubelet.service" in failed.verdicts["KubeletUnhealthy"].message
    box.run("systemctl", "reset-failed", "kubelet.service")
    stopped = look(kubelet(box.host, healthzUrl=url, service="kubelet.service"))
    assert reason(stopped, "KubeletUnhealthy") == "KubeletDown"
    assert "kubelet.service is stopped" in stopped.verdicts["KubeletUnhealthy"].message
    unit(SLEEPS)
    assert look(kubelet(box.host, serve()))["KubeletUnhealthy"] == "False"


def test_a_kubelet_that_is_started_again_and_again_is_told_until_that_is_over(
    box: Box, unit: Callable[[str], None], serve: Callable[..., Server]
) -> None:
    unit(SLEEPS)
    monitor = kubelet(box.host, serve(), restartCount=2, restartWithin="2s")
    assert look(monitor)["KubeletRestarting"] == "False"
    for _ in range(2):
        box.run("systemctl", "restart", "kubelet.service")
        seen = look(monitor)
    assert seen["KubeletRestarting"] == "True"
    assert seen.metric("kubelet_restarts_total") == 2
    until = time.monotonic() + 10
    while look(monitor)["KubeletRestarting"] != "False":
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_start_that_is_learnt_of_in_another_way_is_no_restart(
    box: Box, unit: Callable[[str], None], serve: Callable[..., Server]
) -> None:
    unit(SLEEPS)
    figures = serve(metrics(time.time(), (1, 1, 1)))
    monitor = kubelet(
        box.host,
        serve(),
        metricsUrl=f"http://{figures.place}/metrics",
        requestTimeout="500ms",
        restartCount=1,
    )
    look(monitor)
    with box.frozen():
        assert look(monitor)["KubeletRestarting"] == "False"
    assert look(monitor)["KubeletRestarting"] == "False"


def metrics(seen: float, relists: tuple[int, int, int], started: float = 1.7e9) -> bytes:
    """A kubelet's metrics: relists of at most 1 s, 10 s, and of any length, counted as they grow."""
    buckets = zip(("1", "10", "+Inf"), relists, strict=True)
    lines = [f'kubelet_pleg_relist_duration_seconds_bucket{{le="{le}"}} {count}' for le, count in buckets]
    lines += [f"kubelet_pleg_last_seen_seconds {seen}", f"process_start_time_seconds {started}"]
    lines += ['kubelet_runtime_operations_total{operation_type="version"} 12']
    return head("200 OK", ("# HELP x y\n" + "\n".join(lines) + "\n").encode())


def test_slow_relists_are_told_until_they_are_fast_again(bare: Host, serve: Callable[..., Server]) -> None:
    now = time.time()
    server, figures = serve(), serve(metrics(now, (100, 100, 100)))
    monitor = kubelet(bare, server, metricsUrl=f"http://{figures.place}/metrics")
    first = look(monitor)
    assert first["PLEGSlow"] == "False"
    assert first.metric("kubelet_pleg_relist_p99_seconds") is None
    figures.answer = metrics(now, (100, 105, 105))
    slow = look(monitor)
    assert (slow["PLEGSlow"], reason(slow, "PLEGSlow")) == ("True", "RelistSlow")
    assert "relist its pods" in slow.verdicts["PLEGSlow"].message
    assert slow.metric("kubelet_pleg_relist_p99_seconds") == 10
    figures.answer = metrics(now, (200, 205, 205))
    fast = look(monitor)
    assert fast["PLEGSlow"] == "False"
    assert fast.metric("kubelet_pleg_relist_p99_seconds") == 1


def test_relists_that_have_stopped_are_told_until_they_go_on(
    bare: Host, serve: Callable[..., Server]
) -> None:
    figures = serve(metrics(time.time() - 600, (1, 1, 1)))
    monitor = kubelet(bare, serve(), metricsUrl=f"http://{figures.place}/metrics")
    stalled = look(monitor)
    assert (stalled["PLEGSlow"], reason(stalled, "PLEGSlow")) == ("True", "RelistStalled")
    assert (stalled.metric("kubelet_pleg_age_seconds") or 0) >= 600
    figures.answer = metrics(time.time(), (1, 1, 1))
    assert look(monitor)["PLEGSlow"] == "False"


def test_a_kubelet_that_has_just_started_is_not_late_with_its_first_relist(
    bare: Host, serve: Callable[..., Server]
) -> None:
    figures = serve(metrics(0, (0, 0, 0), started=time.time()))
    monitor = kubelet(bare, serve(), metricsUrl=f"http://{figures.place}/metrics")
    assert look(monitor)["PLEGSlow"] == "False"
    figures.answer = metrics(0, (0, 0, 0), started=time.time() - 600)
    assert look(monitor)["PLEGSlow"] == "True"


def test_without_systemd_the_metrics_tell_of_restarts(bare: Host, serve: Callable[..., Server]) -> None:
    figures = serve(metrics(time.time(), (1, 1, 1), started=1.0))
    url = f"http://{figures.place}/metrics"
    monitor = kubelet(bare, serve(), metricsUrl=url, restartCount=2)
    for started in (2.0, 3.0):
        assert look(monitor)["KubeletRestarting"] == "False"
        figures.answer = metrics(time.time(), (1, 1, 1), started=started)
    assert look(monitor)["KubeletRestarting"] == "True"


def test_metrics_that_can_not_be_read_are_no_alarm(bare: Host, serve: Callable[..., Server]) -> None:
    server, other = serve(), serve(head("404 Not Found", b""))
    off = look(kubelet(bare, server))
    assert (off["PLEGSlow"], reason(off, "PLEGSlow")) == ("Unknown", "MetricsNotAsked")
    assert reason(off, "KubeletRestarting") == "StartUnknown"
    url = f"http://{other.place}/metrics"
    assert reason(look(kubelet(bare, server, metricsUrl=url)), "PLEGSlow") == "MetricsUnavailable"
    other.answer = head("200 OK", b"hello\n")
    assert reason(look(kubelet(bare, server, metricsUrl=url)), "PLEGSlow") == "NoPLEGMetrics"
    other.answer = head("200 OK", b"kubelet_pleg_last_seen_seconds nonsense\n")
    seen = look(kubelet(bare, server, metricsUrl=url))
    assert (seen["PLEGSlow"], reason(seen, "PLEGSlow")) == ("Unknown", "MetricsUnavailable")
    assert seen["KubeletUnhealthy"] == "False"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate as a kubelet makes it for itself, and its key."""
    folder = tmp_path_factory.mktemp("pki")
    cert, key = folder / "kubelet.crt", folder / "kubelet.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=node",
    ]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)
    return cert, key


def test_secure_metrics_are_read_with_a_token_from_the_kubelet_alone(
    bare: Host, serve: Callable[..., Server], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    figures = serve(metrics(time.time(), (1, 1, 1)), context=context, token=TOKEN)
    server, url = serve(), f"https://{figures.place}/metrics"

    def seen(**options: str) -> Seen:
        return look(kubelet(bare, server, metricsUrl=url, **options))

    assert reason(seen(), "PLEGSlow") == "MetricsUnavailable"
    trusted = bare.root / "var/lib/kubelet/pki/kubelet.crt"
    trusted.parent.mkdir(parents=True)
    trusted.write_bytes(certificate[0].read_bytes())
    assert reason(seen(), "PLEGSlow") == "MetricsForbidden"
    token = tmp_path / "token"
    token.write_text(TOKEN)
    assert seen(tokenFile=str(token))["PLEGSlow"] == "False"
    trusted.unlink()
    assert seen(tokenFile=str(token), caFile=str(certificate[0]))["PLEGSlow"] == "False"
    assert reason(seen(tokenFile="/nowhere"), "PLEGSlow") == "MetricsUnavailable"


def test_a_percentile_is_of_what_came_since() -> None:
    infinite = float("inf")
    assert percentile({}, {1: 99, 5: 100, infinite: 100}, 0.99) == 1
    assert percentile({}, {1: 98, 5: 99, infinite: 100}, 0.99) == 5
    assert percentile({}, {1: 0, 5: 0, infinite: 3}, 0.99) == 5
    assert percentile({1: 5, infinite: 5}, {1: 5, infinite: 5}, 0.99) is None
    assert percentile({1: 5, infinite: 50}, {1: 3, infinite: 3}, 0.99) == 1
    assert percentile({}, {}, 0.99) is None


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"requestTimeout": "0s"}, "requestTimeout"),
        ({"requestTimeout": "6s"}, "requestTimeout"),
        ({"plegSlowAt": "0s"}, "plegSlowAt"),
        ({"plegAge": "0s"}, "plegAge"),
        ({"restartWithin": "0s"}, "restartWithin"),
        ({"healthzUrl": "kubelet"}, "healthzUrl"),
        ({"metricsUrl": "ftp://127.0.0.1/"}, "metricsUrl"),
        ({"service": "kubelet"}, "service"),
    ],
)
def test_options_that_make_no_sense_are_faults(options: dict[str, Any], path: str) -> None:
    assert path in dict(msgspec.convert(options, KubeletOptions).faults())

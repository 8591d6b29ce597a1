"""The monitor of endpoints against real servers, real certificates and a real proxy on this machine."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, look, resolve_to, silent_addresses
from tests_support import eventually

from nodedoctor.types import ConditionStatus, Severity
from workers.monitors.network.connectivity import ConnectivityMonitor, ConnectivityOptions

TRUE, FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
Serve = Callable[..., str]


class Handler(BaseHTTPRequestHandler):
    """Answers with the status in the path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/") or 200))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - it is called so
        """Be silent."""


class Proxy(Handler):
    """Forwards CONNECT and absolute URLs, or answers with `status`."""

    status = 0
    asked: list[str]

    def do_CONNECT(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Proxy-Authorization')}")
        if self.status:
            self.send_error(self.status)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), 5) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pump, args=(far, self.connection))
            back.start()
            pump(self.connection, far)
            back.join()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status or 200)
        self.end_headers()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class SixServer(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers; gives host and port."""
    with ExitStack() as stack:

        def start(
            handler: type[Handler] = Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
        ) -> str:
            server = (SixServer if ":" in host else ThreadingHTTPServer)((host, 0), handler)
            server.handle_error = lambda *_: None  # type: ignore[method-assign]
            if tls:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            place = f"[{host}]" if ":" in host else host
            return f"{place}:{server.server_address[1]}"

        yield start


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def certificate(folder: Path, name: str, days: int) -> tuple[str, ssl.SSLContext]:
    """A self-signed certificate that begins a year ago or, to end soon, now; and a server's settings."""
    file, key = folder / f"{name}.pem", folder / f"{name}.key"
    (folder / "index").write_text("")
    (folder / "settings").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nrand_serial=yes\npolicy=p\n[p]\ncommonName=supplied\n"
        f"[e]\nsubjectAltName={name}\n"
    )

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl(
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-subj", "/CN=x", "-out", "r"
    )
    openssl(
        *("ca", "-batch", "-notext", "-config", "settings", "-selfsign", "-keyfile", str(key), "-in", "r"),
        *(
            "-md",
            "sha256",
            "-outdir",
            ".",
            "-out",
            str(file),
            "-extensions",
            "e",
            "-startdate",
            "200101000000Z",
        ),
        *(("-days", str(days)) if days > 0 else ("-enddate", "210101000000Z")),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return str(file), context


def monitor_of(*urls: str, **options: Any) -> ConnectivityMonitor:
    endpoints = [{"url": url, "name": f"e{number}"} for number, url in enumerate(urls)]
    text = {"endpoints": endpoints, "requestTimeout": "3s", **options}
    converted = msgspec.convert(text, ConnectivityOptions)
    assert list(converted.faults()) == []
    return ConnectivityMonitor("out", converted)


def reason(seen: Seen) -> str:
    """Why one endpoint is unreachable; empty while it is not."""
    verdict = seen.verdicts["EndpointUnreachable"]
    assert verdict.status is FALSE or verdict.message.startswith("e0: ")
    return verdict.reason if verdict.status is TRUE else ""


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_one_that_fails_is_named_and_all_are_connectivity_lost(serve: Serve) -> None:
    good, port = serve(), closed_port()
    monitor = monitor_of(f"tcp://127.0.0.1:{port}", f"http://{good}", f"tcp://{good}")
    seen = look(monitor)
    assert (reason(seen), seen["ConnectivityLost"]) == ("ConnectionRefused", FALSE)
    assert [seen.metric("endpoint_up", endpoint=f"e{n}") for n in range(3)] == [0, 1, 1]
    assert seen.metric("endpoint_response_seconds", endpoint="e0") is None
    assert seen.metric("endpoint_response_seconds", endpoint="e1") is not None
    assert look(monitor_of(f"tcp://127.0.0.1:{port}"))["ConnectivityLost"] is TRUE
    some = monitor_of(f"tcp://127.0.0.1:{port}", f"http://{good}", failureShare=50)
    assert look(some)["ConnectivityLost"] is TRUE
    with socket.create_server(("127.0.0.1", port)):
        assert reason(look(monitor)) == ""
        assert look(some)["ConnectivityLost"] is FALSE


@pytest.mark.parametrize(
    ("path", "wanted"), [("/500", "UnexpectedStatus"), ("/429", "UnexpectedStatus"), ("/302", "")]
)
def test_a_status_is_judged(serve: Serve, path: str, wanted: str) -> None:
    assert reason(look(monitor_of(f"http://{serve()}{path}"))) == wanted


def test_a_server_on_ipv6_answers(serve: Serve) -> None:
    assert reason(look(monitor_of(f"http://{serve(host='::1')}/"))) == ""


def test_a_name_that_there_is_not_is_not_resolved() -> None:
    assert reason(look(monitor_of("http://nothing.invalid/"))) == "NameNotResolved"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_servers_that_hang_are_waited_for_at_once(silent: str, scheme: str) -> None:
    monitor = monitor_of(f"{scheme}://{silent}", requestTimeout="300ms")
    assert reason(look(monitor)) == "Timeout"


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_behind_a_silent_address_the_next_one_answers(
    serve: Serve, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_addresses(1, int(serve().rpartition(":")[2])) as (hosts, port):
        resolve_to([*hosts, "127.0.0.1"], monkeypatch)
        monitor = monitor_of(f"{scheme}://two.test:{port}", requestTimeout="2s")
        assert reason(look(monitor)) == ""
        assert monitor.asking["e0"].took < 2


def speak(server: socket.socket, words: bytes, *, for_ever: bool) -> None:
    """Answer one after the other with these words, a byte at a time, and again and again if it is for ever."""
    with contextlib.suppress(OSError):
        while True:
            with server.accept()[0] as near, contextlib.suppress(OSError):
                near.settimeout(5)
                near.recv(4096)
                near.sendall(words)
                while for_ever:
                    near.sendall(b"x")
                    time.sleep(0.02)


@pytest.fixture
def speaking() -> Iterator[Callable[..., str]]:
    """Starts servers that say what is given; gives host and port."""
    with ExitStack() as stack:

        def start(words: bytes, *, for_ever: bool = False) -> str:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=speak, args=(server, words), kwargs={"for_ever": for_ever})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield start


@pytest.mark.parametrize("words", [b"", b"garbage\r\n\r\n"])
def test_what_is_no_answer_fails(speaking: Callable[..., str], words: bytes) -> None:
    assert reason(look(monitor_of(f"http://{speaking(words)}"))) == "RequestFailed"


def test_a_trickle_does_not_prolong_the_wait(speaking: Callable[..., str]) -> None:
    place = speaking(b"HTTP/1.1 200 OK\r\nX: ", for_ever=True)
    assert reason(look(monitor_of(f"http://{place}", requestTimeout="300ms"))) == "Timeout"
    proxied = monitor_of("https://far.invalid", proxy=f"http://{place}", requestTimeout="300ms")
    assert reason(look(proxied)) == "Timeout"
    eventually("it gave up", lambda: not proxied.asking["e0"].is_alive())


@pytest.mark.parametrize(
    ("name", "days", "trusted", "wanted"),
    [
        ("IP:127.0.0.1", 9999, True, ""),
        ("IP:127.0.0.1", 9999, False, "TLSUntrusted"),
        ("DNS:other.test", 9999, True, "TLSWrongName"),
        ("IP:127.0.0.1", 0, True, "TLSExpired"),
    ],
)
def test_certificates_fail_in_their_own_ways(
    serve: Serve, tmp_path: Path, name: str, days: int, trusted: bool, wanted: str
) -> None:
    file, context = certificate(tmp_path, name, days)
    options = {"caFile": file} if trusted else {}
    assert reason(look(monitor_of(f"https://{serve(tls=context)}", **options))) == wanted


def test_each_endpoint_has_its_own_authorities_or_none(serve: Serve, tmp_path: Path) -> None:
    file, context = certificate(tmp_path, "IP:127.0.0.1", 9999)
    url = f"https://{serve(tls=context)}"
    endpoints = [
        {"url": url, "name": "stranger"},
        {"url": url, "name": "known", "caFile": file},
        {"url": url, "name": "any", "insecureSkipVerify": True},
    ]
    for options in ({}, {"caFile": "/nonexistent.pem"}):
        seen = look(monitor_of(endpoints=endpoints, **options))
        up = {each["name"]: seen.metric("endpoint_up", endpoint=str(each["name"])) for each in endpoints}
        assert up == {"stranger": 0, "known": 1, "any": 1}


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_an_endpoint_may_have_a_time_of_its_own(serve: Serve, scheme: str) -> None:
    good = serve()
    with silent_addresses(1) as ((host,), port):
        endpoints = [
            {"url": f"{scheme}://{host}:{port}", "name": "e0", "timeout": "200ms"},
            {"url": f"http://{good}", "name": "slow", "timeout": "10s"},
        ]
        monitor = monitor_of(endpoints=endpoints, requestTimeout="1ms" if scheme == "tcp" else "1h")
        verdict = look(monitor).verdicts["EndpointUnreachable"]
    assert (verdict.reason, verdict.message) == ("Timeout", "e0: no whole answer within 200ms")


def test_a_certificate_that_ends_soon_is_warned_of(serve: Serve, tmp_path: Path) -> None:
    file, context = certificate(tmp_path, "IP:127.0.0.1", 5)
    url = f"https://{serve(tls=context)}"
    verdict = look(monitor_of(url, caFile=file)).verdicts["EndpointUnreachable"]
    assert (verdict.status, verdict.severity) == (FALSE, Severity.WARNING)
    assert verdict.message == "e0: its certificate expires in less than 14d"
    verdict = look(monitor_of(url, caFile=file, certificateWarning="2d")).verdicts["EndpointUnreachable"]
    assert verdict.severity is Severity.INFO


def proxy_of(status: int = 0) -> type[Proxy]:
    return type("OneProxy", (Proxy,), {"status": status, "asked": []})


def test_a_proxy_forwards(serve: Serve, tmp_path: Path) -> None:
    file, context = certificate(tmp_path, "IP:127.0.0.1", 9999)
    handler, far = proxy_of(), serve(tls=context)
    proxy = f"http://me:secret@{serve(handler)}"
    seen = look(monitor_of(f"https://{far}", "http://far.invalid/x", proxy=proxy, caFile=file))
    assert seen.verdicts["EndpointUnreachable"].message == ""
    assert sorted(handler.asked) == [f"{far} Basic bWU6c2VjcmV0", "http://far.invalid/x"]


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_is_told(serve: Serve, status: int) -> None:
    proxy = f"http://{serve(proxy_of(status))}"
    assert reason(look(monitor_of("https://far.invalid", proxy=proxy))) == "ProxyRefused"


def test_a_proxy_that_hangs_or_is_away_is_told(serve: Serve, silent: str) -> None:
    hanging = monitor_of("https://far.invalid", proxy=f"http://{silent}", requestTimeout="300ms")
    assert reason(look(hanging)) == "Timeout"
    away = monitor_of("https://far.invalid", proxy=f"http://127.0.0.1:{closed_port()}")
    assert reason(look(away)) == "ProxyUnreachable"


def test_the_proxy_of_the_environment_is_used_if_asked_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, good = proxy_of(), serve()
    monkeypatch.setenv("http_proxy", serve(handler))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reason(look(monitor_of("http://far.invalid/"))) == "NameNotResolved"
    seen = look(monitor_of("http://far.invalid/", f"http://{good}/", useEnvironmentProxy=True))
    assert (reason(seen), handler.asked) == ("", ["http://far.invalid/"])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"endpoints": [{"url": "ftp://a"}]}, "endpoints[0].url"),
        ({"endpoints": [{"url": "tcp://a"}]}, "endpoints[0].url"),
        ({"endpoints": [{"url": "http://a"}] * 2}, "endpoints"),
        ({"requestTimeout": "0s"}, "requestTimeout"),
        ({"proxy": "https://a"}, "proxy"),
        ({"proxy": "http://a:1", "useEnvironmentProxy": True}, "useEnvironmentProxy"),
        ({"caFile": "\0"}, "caFile"),
        ({"endpoints": [{"url": "http://a", "timeout": "0s"}]}, "endpoints[0].timeout"),
        ({"endpoints": [{"url": "http://a", "caFile": "\0"}]}, "endpoints[0].caFile"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], fault: str) -> None:
    converted = msgspec.convert({"endpoints": [{"url": "http://a"}], **options}, ConnectivityOptions)
    assert [path for path, _ in converted.faults()] == [fault]


def test_at_least_one_endpoint_is_asked_for() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"endpoints": []}, ConnectivityOptions)

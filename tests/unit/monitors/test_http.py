"""The HTTP monitor against real servers, good and bad, on this machine."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from network_support import resolve_to, silent_addresses

from nodedoctor.errors import Undetermined
from nodedoctor.monitor import Finding
from nodedoctor.types import Metric
from workers.http import LONGEST_BODY
from workers.monitors.network.http import HttpMonitor, HttpOptions

HOST = "127.0.0.1"


class Seen(msgspec.Struct, frozen=True):
    """The finding of one check, and its metrics by name."""

    finding: Finding
    metrics: dict[str, float]


def ask(url: str, **options: Any) -> Seen:
    """Check `url` once."""
    asked = msgspec.convert({"requestTimeout": "5s", "url": url, **options}, HttpOptions)
    assert list(asked.faults()) == []
    observations = list(HttpMonitor("kubelet-health", asked).check())
    (finding,) = [item for item in observations if isinstance(item, Finding)]
    return Seen(finding, {item.name: item.value for item in observations if isinstance(item, Metric)})


class Handler(BaseHTTPRequestHandler):
    """Answers with the status in the path; the headers that came are the body."""

    def do_GET(self) -> None:
        place = self.path.partition("?to=")
        status = int(place[0].strip("/") or 200)
        body = f"{self.headers}{self.command}\nall is well\n".encode()
        self.send_response(status)
        if status in range(300, 400):
            self.send_header("Location", unquote(place[2]) or "/200")
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in {204, 304}:
            self.wfile.write(body)

    do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - http.server calls it so

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - it is called so
        """Be silent."""


class Server(ThreadingHTTPServer):
    """Does not say when a client has refused it."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent."""


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts HTTP servers, with TLS if a context is given; gives their address."""
    with ExitStack() as stack:

        def start(context: ssl.SSLContext | None = None) -> str:
            server = Server((HOST, 0), Handler)
            if context:
                server.socket = context.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"http{'s' if context else ''}://{HOST}:{server.server_port}"

        yield start


@pytest.fixture
def answer() -> Iterator[Callable[..., str]]:
    """Starts servers that send these bytes to whoever comes, then a byte each `every` seconds or nothing more."""
    ended = threading.Event()
    with ExitStack() as stack:

        def converse(listener: socket.socket, data: bytes, every: float, close: bool) -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(data)
                while not close and not ended.wait(every or None):
                    connection.sendall(b"x")

        def start(data: bytes = b"", *, every: float = 0, close: bool = False) -> str:
            listener = socket.create_server((HOST, 0))
            thread = threading.Thread(target=converse, args=(listener, data, every, close))
            thread.start()
            stack.callback(thread.join)
            stack.callback(ended.set)
            stack.callback(listener.close)
            return f"http://{HOST}:{listener.getsockname()[1]}/"

        yield start


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that has signed itself, and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=here",
         "-addext", f"subjectAltName=IP:{HOST}"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def secure(serve: Callable[..., str], certificate: tuple[Path, Path]) -> str:
    """The address of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return serve(context)


def refused_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_that_answers_as_expected_is_fine(serve: Callable[..., str]) -> None:
    seen = ask(serve())
    assert (seen.finding.type, seen.finding.bad) == ("KubeletUnhealthy", False)
    assert (seen.metrics["http_up"], seen.metrics["http_status_code"]) == (1, 200)
    assert 0 < seen.metrics["http_response_seconds"] < 5


@pytest.mark.parametrize(
    ("status", "expected", "message"),
    [
        pytest.param(200, 200, "", id="the one expected"),
        pytest.param(204, [200, 204], "", id="one of several expected"),
        pytest.param(302, 302, "", id="a redirect is an answer"),
        pytest.param(302, 200, "answered 302, expected 200", id="a redirect is not followed"),
        pytest.param(404, 200, "answered 404, expected 200", id="not found"),
        pytest.param(503, [200, 204], "answered 503, expected 200 or 204", id="none of several"),
        pytest.param(200, 401, "answered 200, expected 401", id="what should be closed is open"),
    ],
)
def test_the_status_is_compared(serve: Callable[..., str], status: int, expected: Any, message: str) -> None:
    url = f"{serve()}/{status}"
    seen = ask(url, expectedStatusCode=expected)
    assert seen.metrics["http_status_code"] == status
    assert seen.metrics["http_up"] == float(not message)
    assert seen.finding.bad == bool(message)
    if message:
        assert (seen.finding.reason, seen.finding.message) == ("UnexpectedStatus", f"{url}: {message}")


@pytest.mark.parametrize(
    ("pattern", "bad"),
    [
        pytest.param("well", False, id="a part"),
        pytest.param("^all is (good|well)$", True, id="not the whole body"),
        pytest.param("(?m)^all is (good|well)$", False, id="a line"),
        pytest.param("sick", True, id="not in it"),
    ],
)
def test_the_body_is_searched(serve: Callable[..., str], pattern: str, bad: bool) -> None:
    seen = ask(serve(), expectedBody=pattern)
    assert seen.finding.bad is bad
    assert not bad or seen.finding.reason == "UnexpectedBody"


def test_what_is_sent_is_what_was_asked_for(serve: Callable[..., str]) -> None:
    sent = {"Authorization": "Bearer tiger", "Host": "elsewhere"}
    for name, value in sent.items():
        assert ask(serve(), headers=sent, expectedBody=f"{name}: {value}\n").finding.bad is False
    assert ask(serve(), expectedBody="User-Agent: node-doctor").finding.bad is False


def test_a_head_has_no_body(serve: Callable[..., str]) -> None:
    assert ask(serve(), method="HEAD").finding.bad is False
    assert ask(serve(), method="HEAD", expectedBody=".").finding.reason == "UnexpectedBody"


def test_a_proxy_of_the_environment_is_not_used(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{refused_port()}")
    assert ask(serve()).finding.bad is False


def test_a_problem_ends_when_the_server_is_back(serve: Callable[..., str]) -> None:
    assert ask(f"http://{HOST}:{refused_port()}/").finding.bad is True
    assert ask(serve()).finding.bad is False


def test_where_nobody_listens_the_connection_is_refused() -> None:
    url = f"http://{HOST}:{refused_port()}/"
    seen = ask(url)
    assert (seen.finding.bad, seen.finding.reason) == (True, "ConnectionRefused")
    assert seen.finding.message == f"{url}: nobody listens there"
    assert (seen.metrics["http_up"], seen.metrics["http_status_code"]) == (0, 0)


def test_a_name_that_there_is_not_is_not_resolved() -> None:
    assert ask("http://nothing.invalid/").finding.reason == "NameNotResolved"


@pytest.mark.parametrize(
    ("data", "every"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", 0, id="half of the head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", 0, id="half of the body"),
        pytest.param(b"", 0.02, id="a trickle from the start"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", 0.02, id="a trickle in the head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", 0.02, id="a trickle in the body"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", 0.02, id="a body without an end"),
    ],
)
def test_an_answer_that_is_not_whole_in_time_is_a_timeout(
    answer: Callable[..., str], data: bytes, every: float
) -> None:
    seen = ask(answer(data, every=every), requestTimeout="200ms")
    assert (seen.finding.bad, seen.finding.reason) == (True, "Timeout")
    assert seen.finding.message.endswith("no whole answer within 200ms")
    assert seen.metrics["http_response_seconds"] < 5


def test_a_server_that_accepts_nobody_is_a_timeout() -> None:
    """The kernel completes the connection; nobody ever reads the request."""
    with socket.create_server((HOST, 0), backlog=1) as listener:
        seen = ask(f"http://{HOST}:{listener.getsockname()[1]}/", requestTimeout="100ms")
    assert seen.finding.reason == "Timeout"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_all_addresses_of_a_name_share_the_time(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that are silent took three times as long as was allowed."""
    with silent_addresses(3) as (hosts, port):
        resolve_to(hosts, monkeypatch)
        seen = ask(f"{scheme}://three.test:{port}/", requestTimeout="1s")
    assert seen.finding.reason == "Timeout"
    assert seen.metrics["http_response_seconds"] < 2


def test_behind_a_silent_address_the_next_one_answers(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve()
    with silent_addresses(1, int(url.rpartition(":")[2])) as (hosts, port):
        resolve_to([*hosts, HOST], monkeypatch)
        assert ask(f"http://two.test:{port}/", requestTimeout="2s").finding.bad is False


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"\x00\xff\xfe" * 100, id="garbage"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="a status that is no number"),
        pytest.param(b"HTTP/1.1 99999 OK\r\n\r\n", id="a status that there is not"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 100_000 + b"\r\n\r\n", id="a line too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", id="too many lines"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="a chunk without a size"
        ),
    ],
)
def test_an_answer_that_is_no_http_is_a_problem(answer: Callable[..., str], data: bytes) -> None:
    seen = ask(answer(data, close=True))
    assert (seen.finding.bad, seen.finding.reason) == (True, "RequestFailed")


def test_what_is_no_http_is_not_repeated_as_it_changes(answer: Callable[..., str]) -> None:
    messages = set()
    for number in range(2):
        url = answer(f"SSH-2.0-session{number}\r\n".encode(), close=True)
        messages.add(ask(url).finding.message.removeprefix(url))
    assert messages == {": the request failed: no whole HTTP answer (BadStatusLine)"}


def test_only_the_beginning_of_a_body_is_read(answer: Callable[..., str]) -> None:
    """The rest never comes, and is not waited for."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    url = answer(head + b"well" + b"x" * LONGEST_BODY)
    assert ask(url, expectedBody="^well").finding.bad is False


def test_a_certificate_that_nobody_vouches_for_is_a_problem(secure: str) -> None:
    seen = ask(secure)
    assert (seen.finding.bad, seen.finding.reason) == (True, "TLSUntrusted")
    assert "self-signed certificate" in seen.finding.message


def test_a_certificate_that_the_configuration_names_is_trusted(
    secure: str, certificate: tuple[Path, Path]
) -> None:
    assert ask(secure, caFile=str(certificate[0])).finding.bad is False


def test_a_trusted_certificate_for_another_name_is_a_problem(
    secure: str, certificate: tuple[Path, Path]
) -> None:
    seen = ask(secure.replace(HOST, "localhost"), caFile=str(certificate[0]))
    assert seen.finding.reason == "TLSWrongName"


@pytest.mark.parametrize(
    ("begins", "ends", "reason"),
    [
        pytest.param("20200101000000Z", "20210101000000Z", "TLSExpired", id="over"),
        pytest.param("20990101000000Z", "20991231000000Z", "TLSNotYetValid", id="not yet begun"),
    ],
)
def test_a_certificate_out_of_its_time_is_a_problem_that_says_which(
    serve: Callable[..., str], tmp_path: Path, begins: str, ends: str, reason: str
) -> None:
    (tmp_path / "index").write_text("")
    (tmp_path / "settings").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nrand_serial=yes\npolicy=p\n[p]\ncommonName=supplied\n"
        f"[e]\nsubjectAltName=IP:{HOST}\n"
    )
    made = "req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /CN=here -out request"
    signed = (
        "ca -batch -notext -config settings -selfsign -keyfile key.pem -in request -md sha256 -outdir . "
        f"-out cert.pem -extensions e -startdate {begins} -enddate {ends}"
    )
    for words in (made, signed):
        subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert ask(serve(context), caFile=str(tmp_path / "cert.pem")).finding.reason == reason


def strict(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Settings of a server that lets in whoever shows that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_server_that_requires_a_certificate_of_its_clients_is_told_so(
    serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    """Mostly it had closed before the request was written, which hid what it said."""
    url, ca_file = serve(strict(certificate)), str(certificate[0])
    for _ in range(40):
        finding = ask(url, caFile=ca_file).finding
        assert (finding.reason, finding.message) == (
            "TLSFailed",
            f"{url}: TLS failed: the server requires a client certificate",
        )


@pytest.mark.parametrize("together", [False, True])
def test_a_client_certificate_is_shown(
    serve: Callable[..., str], certificate: tuple[Path, Path], tmp_path: Path, together: bool
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in certificate))
    files = {"clientCertFile": str(certificate[0]), "clientKeyFile": str(certificate[1])}
    files = {"clientCertFile": str(both)} if together else files
    assert ask(serve(strict(certificate)), caFile=str(certificate[0]), **files).finding.bad is False


def encrypted(key: Path) -> Path:
    """`key` with a password."""
    made = key.with_name("encrypted.pem")
    command = ["openssl", "pkcs8", "-topk8", "-in", key, "-out", made, "-passout", "pass:tiger"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def test_a_client_certificate_that_can_not_be_used_is_no_fault_of_the_server(
    serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    url = serve(strict(certificate))
    for key in ("/nonexistent.pem", str(certificate[0]), str(encrypted(certificate[1]))):
        with pytest.raises(Undetermined, match="client certificate") as caught:
            ask(url, clientCertFile=str(certificate[0]), clientKeyFile=key)
        assert caught.value.reason == "ClientCertificateUnusable"


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        pytest.param("/200", 200, "", id="none"),
        pytest.param("/301", 200, "", id="one"),
        pytest.param("/302?to=/307?to=/308?to=/200", 200, "", id="several"),
        pytest.param("/302?to=404", 404, "UnexpectedStatus", id="to what is not there"),
        pytest.param("/302?to=" * 10 + "/200", 200, "", id="ten"),
        pytest.param("/302?to=" * 11 + "/200", 302, "TooManyRedirects", id="eleven"),
        pytest.param("/304?to=/200", 304, "UnexpectedStatus", id="a status that is no redirect"),
        pytest.param("/302?to=ftp://h/", 302, "RedirectUnusable", id="to another protocol"),
        pytest.param("/302?to=http://%1bc/", 302, "RedirectUnusable", id="to what would color a screen"),
        pytest.param("/302?to=http://[", 302, "RedirectUnusable", id="to what is no address"),
        pytest.param("/302?to=http://u:p@h/", 302, "RedirectUnusable", id="to what asks for credentials"),
        pytest.param("/302?to=http://nothing.invalid/", 0, "NameNotResolved", id="to nowhere"),
    ],
)
def test_redirects_are_followed_if_they_are_to_be(
    serve: Callable[..., str], path: str, status: int, reason: str
) -> None:
    url = serve() + path
    seen = ask(url, followRedirects=True)
    assert (seen.metrics["http_status_code"], seen.finding.bad) == (status, bool(reason))
    assert not reason or (seen.finding.reason, url in seen.finding.message) == (reason, True)


def test_where_a_redirect_leads_is_told_if_nobody_answers_there(serve: Callable[..., str]) -> None:
    url, far = serve(), f"http://{HOST}:{refused_port()}"
    finding = ask(f"{url}/302?to={far}/?state=changes", followRedirects=True).finding
    assert finding.message.endswith(f": redirects to {far}: nobody listens there")


def test_headers_go_to_no_other_server(serve: Callable[..., str]) -> None:
    here, other = serve(), serve()
    token = {"headers": {"Authorization": "Bearer tiger"}, "followRedirects": True, "expectedBody": "tiger"}
    assert ask(f"{here}/302?to={here}/200", **token).finding.bad is False
    assert ask(f"{here}/302?to={other}/200", **token).finding.reason == "UnexpectedBody"
    assert ask(f"{here}/302?to={other}/302?to={here}/200", **token).finding.reason == "UnexpectedBody"


def test_a_client_certificate_goes_to_no_other_server(
    serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    here, other = serve(strict(certificate)), serve(strict(certificate))
    mine = {"clientCertFile": str(certificate[0]), "clientKeyFile": str(certificate[1])}
    options = {"caFile": str(certificate[0]), "followRedirects": True, **mine}
    assert ask(f"{here}/302?to=/200", **options).finding.bad is False
    assert "requires a client certificate" in ask(f"{here}/302?to={other}/200", **options).finding.message


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [("OPTIONS", 307, "OPTIONS"), ("OPTIONS", 303, "GET"), ("GET", 303, "GET")],
)
def test_the_method_is_kept_where_a_redirect_does_not_change_it(
    serve: Callable[..., str], method: str, status: int, then: str
) -> None:
    seen = ask(f"{serve()}/{status}", method=method, followRedirects=True, expectedBody=f"(?m)^{then}$")
    assert seen.finding.bad is False


def test_all_redirects_have_one_deadline(serve: Callable[..., str], answer: Callable[..., str]) -> None:
    url = answer(b"HTTP/1.1 200 OK\r\nX: ", every=0.02)
    seen = ask(f"{serve()}/302?to={url}", followRedirects=True, requestTimeout="300ms")
    assert seen.finding.reason == "Timeout"


def test_what_can_be_done_can_be_asked_for(serve: Callable[..., str]) -> None:
    assert ask(serve(), method="OPTIONS", expectedBody="(?m)^OPTIONS$").finding.bad is False


def test_any_certificate_is_taken_if_the_configuration_says_so(secure: str) -> None:
    assert ask(secure, insecureSkipVerify=True).finding.bad is False


def test_a_file_of_certificates_that_is_not_there_is_a_problem(secure: str) -> None:
    seen = ask(secure, caFile="/nonexistent.pem")
    assert (seen.finding.bad, seen.finding.reason) == (True, "RequestFailed")
    assert "No such file" in seen.finding.message


def test_a_server_without_tls_is_a_problem_where_it_is_expected(serve: Callable[..., str]) -> None:
    assert ask(serve().replace("http:", "https:")).finding.reason == "TLSFailed"


def test_a_server_that_never_ends_the_handshake_is_a_timeout(answer: Callable[..., str]) -> None:
    url = answer(b"").replace("http:", "https:")
    assert ask(url, requestTimeout="200ms").finding.reason == "Timeout"


def test_no_descriptor_is_left_open(serve: Callable[..., str], secure: str) -> None:
    urls = [serve(), secure, f"http://{HOST}:{refused_port()}/", "http://nothing.invalid/"]
    for url in urls:
        ask(url)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for url in urls * 10:
        ask(url)
    # A thread of the server may still be about to close the last connections.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param({"url": "http://h/"}, [], id="http"),
        pytest.param({"url": "https://[::1]:8443/x?y=z"}, [], id="https"),
        pytest.param({"url": "ftp://h/"}, ["url"], id="another scheme"),
        pytest.param({"url": "h:80"}, ["url"], id="no scheme"),
        pytest.param({"url": "http:///x"}, ["url"], id="no host"),
        pytest.param({"url": "http://u:p@h/"}, ["url"], id="credentials"),
        pytest.param({"url": "http://h/", "method": "POST"}, ["method"], id="another method"),
        pytest.param({"url": "http://h/", "clientKeyFile": "/k"}, ["clientKeyFile"], id="a key alone"),
        pytest.param({"url": "http://h/", "clientCertFile": "\0"}, ["clientCertFile"], id="a NUL"),
        pytest.param(
            {"url": "http://h/", "expectedBody": "(?=x)"}, ["expectedBody"], id="a pattern beyond RE2"
        ),
    ],
)
def test_a_request_that_can_never_be_right_is_a_fault(options: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in msgspec.convert(options, HttpOptions).faults()] == paths


def test_the_condition_has_the_name_that_the_configuration_gives() -> None:
    (condition,) = HttpMonitor.conditions_of("x", HttpOptions(url="http://h/", condition="KubeletDown"))
    assert condition.type == "KubeletDown"


def test_the_condition_may_be_worded_by_the_configuration(serve: Callable[..., str]) -> None:
    wording = {"reason": "KubeletUnhealthy", "okReason": "KubeletIsHealthy", "okMessage": "it works"}
    assert ask(serve() + "/500", **wording).finding.reason == "KubeletUnhealthy"
    options = msgspec.convert({"url": "http://x", **wording}, HttpOptions)
    (condition,) = HttpMonitor.conditions_of("kubelet", options)
    assert (condition.reason, condition.ok_reason, condition.ok_message) == tuple(wording.values())

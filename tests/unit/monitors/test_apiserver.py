"""The API server's monitor against real HTTPS servers, good and bad, on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from network_support import resolve_to, silent_addresses

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.types import Metric
from workers.kubernetes import at, found
from workers.monitors.kubernetes.apiserver.monitor import APIServerMonitor, pause, percentile, skew
from workers.monitors.kubernetes.apiserver.options import APIServerOptions
from workers.verdicts import Verdict, fold

HOST = "127.0.0.1"
READ_AT = time.time()
VERBOSE = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac failed: reason withheld\n"


def answer(status: int, body: str = "ok", *, ahead: float = 0, **headers: str) -> bytes:
    """An answer as the API server gives it."""
    date = {"Date": formatdate(time.time() + ahead, usegmt=True), "Content-Length": str(len(body))}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in (date | headers).items()]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", body]).encode()


def dated_anew(reply: bytes) -> bytes:
    """A `reply` made when this file was read, as it is now: its date is as far from the time as it was then."""

    def shifted(date: re.Match[bytes]) -> bytes:
        then = parsedate_to_datetime(date[0].decode()).timestamp()
        return formatdate(then + time.time() - READ_AT, usegmt=True).encode()

    return re.sub(rb"(?<=Date: )[^\r]*", shifted, reply)


class Server:
    """An HTTPS server that gives each request what `reply` makes of it; b"" closes, None hangs, a delay waits first."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.listener = socket.create_server((HOST, 0))
        self.listener.settimeout(0.05)
        self.url = f"https://{HOST}:{self.listener.getsockname()[1]}"
        self.reply: Callable[[str], bytes | None] = lambda _: answer(200)
        self.encrypts = True
        self.resets = False
        self.requests: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        """One connection after the other, until the end."""
        while not self.ended.is_set():
            with contextlib.suppress(OSError), self.listener.accept()[0] as connection:
                connection.settimeout(2)
                self.converse(connection)

    def converse(self, connection: socket.socket) -> None:
        """One request and its answer."""
        if self.resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if not self.encrypts:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        with self.context.wrap_socket(connection, server_side=True) as secure:
            self.requests.append(secure.recv(65536).decode())
            reply = self.reply(self.requests[-1].split()[1])
            if reply is None:
                secure.recv(1)
            else:
                secure.sendall(reply)

    def end(self) -> None:
        """Stop it."""
        self.ended.set()
        self.thread.join()
        self.listener.close()


Certify = Callable[..., tuple[Path, Path]]


@pytest.fixture
def certify(tmp_path: Path) -> Certify:
    """Makes a certificate that has signed itself, and its key."""

    def make(name: str = f"IP:{HOST}", days: int = 365) -> tuple[Path, Path]:
        number = len(list(tmp_path.glob("*.pem")))
        certificate, key = tmp_path / f"{number}.pem", tmp_path / f"{number}.key"
        config = tmp_path / "ca.cnf"
        (tmp_path / "index").write_text("")
        config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={tmp_path}/index\nnew_certs_dir={tmp_path}\nrand_serial=yes\n"
            f"default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n"
            f"[x]\nsubjectAltName={name}\nbasicConstraints=CA:TRUE\n[req]\ndistinguished_name=n\n[n]\n"
        )
        request = tmp_path / "request"
        made = [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        made += ["-config", config, "-subj", "/CN=api", "-keyout", key, "-out", request]
        subprocess.run(made, check=True, capture_output=True)
        start, end = (
            time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * d)) for d in (-9, days)
        )
        signed = ["openssl", "ca", "-batch", "-selfsign", "-config", config, "-keyfile", key, "-in", request]
        signed += ["-out", certificate, "-notext", "-startdate", start, "-enddate", end]
        subprocess.run(signed, check=True, capture_output=True)
        return certificate, key

    return make


@pytest.fixture
def serve(certify: Certify) -> Iterator[Callable[..., tuple[Server, Path]]]:
    """Starts servers; gives each and the file of its certificate."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[Server, Path]:
            certificate, key = certify(**options)
            server = Server(certificate, key)
            stack.callback(server.end)
            return server, certificate

        yield start


class Bench:
    """A monitor of a server, and what it last saw."""

    def __init__(self, server: Server, certificate: Path, **options: Any) -> None:
        asked = {"requestTimeout": "1s", "url": server.url, "caFile": str(certificate), **options}
        self.options = msgspec.convert(asked, APIServerOptions)
        assert list(self.options.faults()) == []
        self.monitor = APIServerMonitor("api", self.options)

    def look(self) -> tuple[dict[str, Verdict], dict[str, float]]:
        """Check once; everything declared is told of, nothing else is."""
        seen = list(self.monitor.check())
        findings = [item for item in seen if isinstance(item, Finding)]
        assert {f.type for f in findings} == {c.type for c in self.monitor.conditions}
        metrics = {m.name + m.labels.get("quantile", ""): m.value for m in seen if isinstance(m, Metric)}
        return {c.type: fold(c, findings) for c in self.monitor.conditions}, metrics

    def problems(self) -> dict[str, str]:
        """The conditions that are True, with their reasons."""
        return {kind: v.reason for kind, v in self.look()[0].items() if v.status == "True"}


@pytest.fixture
def server(serve: Callable[..., tuple[Server, Path]]) -> tuple[Server, Path]:
    return serve()


def test_a_ready_server_has_no_problem_and_is_asked_on_connections_of_their_own(
    server: tuple[Server, Path],
) -> None:
    verdicts, metrics = Bench(*server).look()
    assert {verdict.status for verdict in verdicts.values()} == {"False"}
    assert (metrics["apiserver_up"], metrics["apiserver_status_code"]) == (1, 200)
    assert 0 < metrics["apiserver_response_quantile_seconds0.99"] < 1
    assert abs(metrics["apiserver_clock_skew_seconds"]) < 1
    assert metrics["apiserver_certificate_not_after_seconds"] > time.time()
    assert server[0].requests[0].startswith("GET /readyz HTTP/1.1\r\n")
    assert "Connection: close" in server[0].requests[0]
    assert "Authorization" not in server[0].requests[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(answer(500, VERBOSE), {"APIServerUnhealthy": "ChecksFailing"}, id="a check fails"),
        pytest.param(answer(503), {"APIServerUnhealthy": "ServerError"}, id="an error without a list"),
        pytest.param(answer(302), {"APIServerUnhealthy": "UnexpectedStatus"}, id="a redirect"),
        pytest.param(answer(404), {"APIServerUnhealthy": "UnexpectedStatus"}, id="not found at all"),
        pytest.param(answer(401), {"APIServerUnauthorized": "CredentialsRejected"}, id="a rejected token"),
        pytest.param(answer(403), {"APIServerUnauthorized": "Forbidden"}, id="no permission"),
        pytest.param(answer(429), {"APIServerOverloaded": "TooManyRequests"}, id="too many requests"),
        pytest.param(answer(200, ahead=600), {"ClockSkewFromAPIServer": "ClocksDiffer"}, id="clock ahead"),
        pytest.param(answer(200, ahead=-600), {"ClockSkewFromAPIServer": "ClocksDiffer"}, id="clock behind"),
        pytest.param(b"hello\r\n\r\n", {"APIServerUnreachable": "NotAnAPIServer"}, id="garbage"),
        pytest.param(b"", {"APIServerUnreachable": "ConnectionClosed"}, id="it closes at once"),
        pytest.param(None, {"APIServerUnreachable": "Timeout"}, id="it hangs"),
    ],
)
def test_each_bad_answer_is_its_own_problem_until_the_next_good_one(
    reply: bytes | None, expected: dict[str, str], server: tuple[Server, Path], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    bench = Bench(*server, tokenFile=str(tmp_path / "token"))
    server[0].reply = lambda _: reply and dated_anew(reply)
    verdicts, _ = bench.look()
    assert {kind: v.reason for kind, v in verdicts.items() if v.status == "True"} == expected
    (message,) = [v.message for v in verdicts.values() if v.status == "True"]
    assert server[0].url in message
    assert "secret" not in message
    server[0].reply = lambda _: answer(200)
    assert bench.problems() == {}


def test_behind_a_silent_address_the_next_one_answers(
    serve: Callable[..., tuple[Server, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = serve(name="DNS:two.test")
    with silent_addresses(1, server.listener.getsockname()[1]) as (hosts, port):
        resolve_to([*hosts, HOST], monkeypatch)
        bench = Bench(server, certificate, url=f"https://two.test:{port}", requestTimeout="2s")
        assert bench.problems() == {}


def test_the_failing_checks_are_named(server: tuple[Server, Path]) -> None:
    server[0].reply = lambda _: answer(500, VERBOSE)
    message = Bench(*server).look()[0]["APIServerUnhealthy"].message
    assert message == f"{server[0].url} is not ready: etcd, poststarthook/rbac failed"


@pytest.mark.parametrize("code", [401, 403])
def test_who_comes_without_credentials_may_be_refused(code: int, server: tuple[Server, Path]) -> None:
    server[0].reply = lambda _: answer(code)
    verdicts, _ = Bench(*server).look()
    assert verdicts["APIServerUnreachable"].status == verdicts["APIServerUnauthorized"].status == "False"
    assert verdicts["APIServerUnhealthy"].status == "Unknown"


@pytest.mark.parametrize("known", ["/livez", "/healthz"])
def test_an_old_server_is_asked_for_what_it_knows(known: str, server: tuple[Server, Path]) -> None:
    server[0].reply = lambda path: answer(200 if path == known else 404)
    bench = Bench(*server)
    assert bench.problems() == {}
    server[0].requests.clear()
    assert bench.problems() == {}
    assert [request.split()[1] for request in server[0].requests] == [known]


def test_a_server_that_asks_for_a_pause_is_left_alone(server: tuple[Server, Path]) -> None:
    server[0].reply = lambda _: answer(429, Retry_After="60")
    bench = Bench(*server)
    assert bench.problems() == bench.problems() == {"APIServerOverloaded": "TooManyRequests"}
    assert len(server[0].requests) == 1
    bench.monitor.silent_until = 0
    server[0].reply = lambda _: answer(200)
    assert bench.problems() == {}


def test_nobody_at_the_port_is_a_refused_connection(server: tuple[Server, Path]) -> None:
    server[0].end()
    verdict = Bench(*server).look()[0]["APIServerUnreachable"]
    assert (verdict.status, verdict.reason) == ("True", "ConnectionRefused")


def test_a_reset_connection_is_told_from_a_closed_one(server: tuple[Server, Path]) -> None:
    server[0].resets = True
    bench = Bench(*server)
    assert bench.problems() == {"APIServerUnreachable": "ConnectionReset"}
    server[0].resets = False
    assert bench.problems() == {}


def test_a_server_that_does_not_speak_tls_is_told_from_a_dead_one(server: tuple[Server, Path]) -> None:
    server[0].encrypts = False
    bench = Bench(*server)
    assert bench.problems() == {"APIServerUnreachable": "TLSFailed"}
    server[0].encrypts = True
    assert bench.problems() == {}


def test_a_name_that_does_not_exist_is_not_resolved(server: tuple[Server, Path]) -> None:
    bench = Bench(*server, url="https://api.invalid.")
    assert bench.problems() == {"APIServerUnreachable": "NameNotResolved"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"name": "DNS:other.example"}, "CertificateOfOtherName", id="of another name"),
        pytest.param({"days": -1}, "CertificateExpired", id="expired"),
    ],
)
def test_a_certificate_that_can_not_be_right_says_why(
    options: dict[str, Any], reason: str, serve: Callable[..., tuple[Server, Path]]
) -> None:
    assert Bench(*serve(**options)).problems() == {"APIServerUnreachable": reason}


def test_a_certificate_of_nobody_we_trust_is_untrusted(server: tuple[Server, Path], certify: Certify) -> None:
    assert Bench(server[0], certify()[0]).problems() == {"APIServerUnreachable": "CertificateUntrusted"}


def test_a_certificate_that_expires_soon_is_warned_of(serve: Callable[..., tuple[Server, Path]]) -> None:
    served = serve(days=3)
    verdict = Bench(*served).look()[0]["APIServerCertificateExpiring"]
    assert (verdict.status, verdict.severity) == ("True", "warning")
    assert verdict.message == f"the certificate of {served[0].url} expires in less than 7d"
    assert Bench(*served, certificateWarning="1d").problems() == {}


def test_what_the_way_took_is_not_blamed_on_the_clock(server: tuple[Server, Path]) -> None:
    def late(_: str) -> bytes:
        time.sleep(1.6)
        return answer(200)

    server[0].reply = late
    assert Bench(*server, requestTimeout="5s", slowAt="5s", skewThreshold="100ms").problems() == {}


def test_a_slow_server_is_warned_of_until_it_is_fast_and_its_clock_is_not_blamed(
    server: tuple[Server, Path],
) -> None:
    def late(_: str) -> bytes:
        reply = answer(200)
        time.sleep(0.15)
        return reply

    bench = Bench(*server, slowAt="100ms", latencyWindow=5, skewThreshold="10ms")
    server[0].reply = late
    found = [bench.problems() for _ in range(5)]
    assert found == [{}] * 4 + [{"APIServerSlow": "AnswersTakeLong"}]
    server[0].reply = lambda _: answer(200)
    assert [bench.problems() for _ in range(3)][-1] == {}


def test_a_rotated_token_is_used_from_the_next_request_on(
    server: tuple[Server, Path], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    bench = Bench(*server, tokenFile=str(token))
    for text in ("first", "second"):
        token.write_text(f"{text}\n")
        bench.look()
        assert f"Authorization: Bearer {text}\r\n" in server[0].requests[-1]
    token.unlink()
    with pytest.raises(Undetermined, match="can't be read"):
        bench.look()


@pytest.mark.parametrize(
    ("date", "began", "took", "expected"),
    [
        pytest.param(1000, 1000.9, 0.1, 0, id="the same second"),
        pytest.param(1000, 990, 30, 0, id="a slow answer that was stamped on its way"),
        pytest.param(1000, 990, 1, 9, id="ahead"),
        pytest.param(1000, 1010, 5, 9, id="behind"),
    ],
)
def test_clocks_differ_only_by_what_the_way_does_not_explain(
    date: float, began: float, took: float, expected: float
) -> None:
    assert skew(date, began, took) == expected


def test_a_server_behind_a_path_is_asked_below_it(server: tuple[Server, Path]) -> None:
    assert Bench(*server, url=f"{server[0].url}/k8s/cluster/").problems() == {}
    assert server[0].requests[0].startswith("GET /k8s/cluster/readyz ")


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3, 1, 2, 4], share) for share in (0.5, 0.95, 0.99)] == [2, 4, 4]


@pytest.mark.parametrize(("text", "expected"), [("7", 7), ("", 0), ("-1", 0), ("99999", 600), ("Wed", 0)])
def test_a_pause_is_bounded(text: str, expected: float) -> None:
    assert pause(text) == expected


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://10.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: abc}}]
"""


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443", id="a pod"),
        pytest.param(
            {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443", "KUBECONFIG": "/x"},
            "https://[fd00::1]:6443",
            id="a pod with IPv6",
        ),
    ],
)
def test_a_pod_uses_its_service_account(
    environment: Mapping[str, str], url: str, tmp_path: Path, certify: Certify
) -> None:
    certify()[0].rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("abc\n")
    access = found("", environment, tmp_path)
    assert (access.server, access.token_file, access.token()) == (url, tmp_path / "token", "abc")
    assert access.named
    assert len(access.tls().get_ca_certs()) == 1, "the pod's authority alone is trusted"


def test_a_kubeconfig_is_used_and_the_configured_one_first(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    for access in (
        found("", {"KUBECONFIG": str(tmp_path / "config")}),
        found(str(tmp_path / "config"), {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBECONFIG": "/x"}),
    ):
        assert (access.server, access.token(), access.named) == ("https://10.0.0.1:6443", "abc", True)
        assert access.tls().verify_mode is ssl.CERT_NONE


def test_a_pods_account_comes_before_the_configured_kubeconfig(
    server: tuple[Server, Path], tmp_path: Path
) -> None:
    """The API server that conditions are written to must be the one that is judged."""
    (tmp_path / "config").write_text(KUBECONFIG)
    (tmp_path / "ca.crt").write_bytes(server[1].read_bytes())
    (tmp_path / "token").write_text("of-the-pod")
    host, port = server[0].url.removeprefix("https://").split(":")
    pod = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    kubeconfig = Host(kubeconfig=str(tmp_path / "config"))
    list(APIServerMonitor("api", APIServerOptions(), kubeconfig, pod, tmp_path).check())
    assert "Authorization: Bearer of-the-pod\r\n" in server[0].requests[0]


def test_a_client_shows_the_certificate_that_stands_in_its_kubeconfig(
    serve: Callable[..., tuple[Server, Path]], certify: Certify, tmp_path: Path
) -> None:
    server, authority = serve()
    server.context.verify_mode = ssl.CERT_REQUIRED
    files = dict(zip(("client-certificate-data", "client-key-data"), certify(), strict=True))
    server.context.load_verify_locations(files["client-certificate-data"])
    document = yaml.safe_load(KUBECONFIG)
    document["clusters"][0]["cluster"] = {"server": server.url, "certificate-authority": str(authority)}
    document["users"][0]["user"] = {key: b64encode(file.read_bytes()).decode() for key, file in files.items()}
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    monitor = APIServerMonitor("api", APIServerOptions(), Host(kubeconfig=str(tmp_path / "config")), {})
    assert [f.reason for f in monitor.check() if isinstance(f, Finding) and f.bad] == []
    document["users"][0]["user"] = {}
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    assert [f.type for f in monitor.check() if isinstance(f, Finding) and f.bad] == ["APIServerUnreachable"]


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    gone = str(tmp_path / "ca.crt")
    with pytest.raises(FileNotFoundError, match=gone):
        at("https://10.0.0.1", gone, "").tls()
    monitor = APIServerMonitor("api", APIServerOptions(url="https://10.0.0.1", ca_file=gone))
    with pytest.raises(Undetermined, match=gone) as caught:
        list(monitor.check())
    assert caught.value.reason == "CredentialsUnusable"


@pytest.mark.parametrize("text", ["", "[]", "a: {", "{}"])
def test_an_unusable_kubeconfig_is_undetermined(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    monitor = APIServerMonitor("api", APIServerOptions(), Host(kubeconfig=str(tmp_path / "config")), {})
    with pytest.raises(Undetermined) as caught:
        list(monitor.check())
    assert caught.value.reason == "KubeconfigUnusable"


def test_a_kubeconfig_that_may_not_be_read_is_a_matter_of_permission(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may become somebody else")
    (tmp_path / "config").touch(mode=0)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            found(str(tmp_path / "config"), {})
    finally:
        os.seteuid(0)


def test_outside_of_a_cluster_nothing_is_known() -> None:
    with pytest.raises(Undetermined) as caught:
        list(APIServerMonitor("api", APIServerOptions(), Host(), {}).check())
    assert caught.value.reason == "NoCluster"


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param({}, [], id="the defaults"),
        pytest.param({"url": "http://10.0.0.1"}, ["url"], id="a token in the clear"),
        pytest.param({"url": "https://u:p@10.0.0.1"}, ["url"], id="credentials"),
        pytest.param({"url": "https://10.0.0.1:99999"}, ["url"], id="no port"),
        pytest.param({"tokenFile": "/t", "caFile": "/c"}, ["caFile", "tokenFile"], id="files for nothing"),
        pytest.param({"slowAt": "0s", "skewThreshold": "0s"}, ["slowAt", "skewThreshold"], id="no time"),
    ],
)
def test_options_that_can_never_be_right_are_faults(options: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in msgspec.convert(options, APIServerOptions).faults()] == paths

"""The client of the Kubernetes API, against a server that fails in every way."""

from __future__ import annotations

import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_support import APIServer, as_data, certificate, garbage, hang, refuse, reset, slow, trickle
from tests_support import free_port

from workers import kubernetes
from workers.kubernetes import API, METADATA_ONLY, STRATEGIC, APIError, find

NODE = "/api/v1/nodes/n1"


@pytest.fixture
def server() -> Iterator[APIServer]:
    with APIServer(token="one") as double:
        double.add_node("n1")
        yield double


@pytest.fixture
def api(server: APIServer, tmp_path: Path) -> API:
    return reached(str(server.kubeconfig(tmp_path)))


def reached(kubeconfig: str, environment: dict[str, str] | None = None, **account: Path) -> API:
    access = find(kubeconfig, environment or {}, **account)
    assert access is not None
    return API(access)


def get(api: API, timeout: float = 5.0) -> Any:
    return api.request("GET", NODE, dict, timeout=timeout)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


def test_an_object_is_read_and_patched(api: API, server: APIServer) -> None:
    assert get(api)["metadata"]["name"] == "n1"
    body = {"status": {"conditions": [{"type": "DiskSpaceLow", "status": "True"}]}}
    answer = api.request(
        "PATCH",
        f"{NODE}/status",
        dict,
        params={"fieldManager": "node-doctor"},
        body=body,
        content_type=STRATEGIC,
        accept=METADATA_ONLY,
    )
    assert answer["kind"] == "PartialObjectMetadata"
    assert set(server.conditions("n1")) == {
        "DiskPressure",
        "DiskSpaceLow",
        "MemoryPressure",
        "PIDPressure",
        "Ready",
    }
    assert server.requests("PATCH")[0].query == {"fieldManager": "node-doctor"}


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (refuse(400, "BadRequest"), kubernetes.InvalidError),
        (refuse(401, "Unauthorized"), kubernetes.UnauthorizedError),
        (refuse(403, "Forbidden"), kubernetes.ForbiddenError),
        (refuse(404, "NotFound"), kubernetes.NotFoundError),
        (refuse(409, "Conflict"), kubernetes.ConflictError),
        (refuse(413, "RequestEntityTooLarge"), kubernetes.TooLargeError),
        (refuse(415, "UnsupportedMediaType"), kubernetes.InvalidError),
        (refuse(422, "Invalid"), kubernetes.InvalidError),
        (refuse(429, "TooManyRequests"), kubernetes.TooManyRequestsError),
        (refuse(500, "InternalError"), kubernetes.ServerError),
        (refuse(504, "Timeout"), kubernetes.ServerError),
        (refuse(302, "Found", Location="http://127.0.0.1:1/"), kubernetes.ServerError),
        (garbage(), kubernetes.ServerError),
        (garbage(502), kubernetes.ServerError),
        (reset(), kubernetes.UnreachableError),
        (reset(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), kubernetes.UnreachableError),
        (reset(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"), kubernetes.UnreachableError),
    ],
)
def test_each_failure_has_its_error(api: API, server: APIServer, act: Any, kind: type[APIError]) -> None:
    server.fault("GET", act)
    with pytest.raises(kind) as caught:
        get(api)
    assert type(caught.value) is kind
    text = str(caught.value)
    with pytest.raises(kind) as again:
        get(api)
    assert str(again.value) == text, "the text of an error holds nothing that changes"
    assert "0x" not in text
    server.heal()
    assert get(api)["metadata"]["name"] == "n1"


def test_nothing_is_retried_but_a_refused_token(api: API, server: APIServer) -> None:
    server.fault("GET", refuse(500, "InternalError"), times=1)
    with pytest.raises(kubernetes.ServerError):
        get(api)
    assert len(server.asked) == 1


def test_what_the_server_asks_to_wait_is_told(api: API, server: APIServer) -> None:
    server.fault("GET", refuse(429, "TooManyRequests", Retry_After="7"))
    with pytest.raises(kubernetes.TooManyRequestsError) as caught:
        get(api)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("PATCH", "/api/v1/nodes/n1/status", ("patch", "nodes/status")),
        ("GET", "/api/v1/nodes", ("list", "nodes")),
        ("GET", "/api/v1/nodes/n1", ("get", "nodes")),
        ("POST", "/api/v1/namespaces/default/events", ("create", "events")),
        ("PATCH", "/api/v1/namespaces/default/events/e", ("patch", "events")),
        ("GET", "/api/v1/namespaces/kube-system", ("get", "namespaces")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/x/leases/l", ("update", "leases")),
    ],
)
def test_a_refusal_names_verb_and_resource(method: str, path: str, wanted: tuple[str, str]) -> None:
    assert kubernetes.permission(method, path) == wanted


def test_what_the_role_does_not_allow_is_refused_by_name(api: API, server: APIServer) -> None:
    with pytest.raises(kubernetes.ForbiddenError, match="not allowed to list nodes"):
        api.request("GET", "/api/v1/nodes", dict)
    assert server.asked[-1].code == 403


@pytest.mark.parametrize(
    "act", [hang(), slow(3), trickle(), trickle(headers=True)], ids=["hang", "slow", "body", "headers"]
)
def test_no_server_can_hold_a_call_beyond_its_deadline(api: API, server: APIServer, act: Any) -> None:
    """A timeout for each byte is none: a server that sends one now and then held a call for ever."""
    server.fault("GET", act, times=1)
    began = time.monotonic()
    with pytest.raises(kubernetes.DeadlineError):
        get(api, timeout=0.4)
    assert time.monotonic() - began < 2
    assert get(api)["metadata"]["name"] == "n1"


def test_calls_that_never_come_back_do_not_pile_up(api: API, server: APIServer) -> None:
    server.fault("GET", trickle(headers=True))
    before = threading.active_count()
    for _ in range(kubernetes.MOST_ABANDONED):
        with pytest.raises(kubernetes.DeadlineError):
            get(api, timeout=0.1)
    with pytest.raises(RuntimeError, match="do not come back"):
        get(api, timeout=0.1)
    assert threading.active_count() <= before + 2 * (kubernetes.MOST_ABANDONED + 1)


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with APIServer() as gone:
        kubeconfig = gone.kubeconfig(tmp_path)
    with pytest.raises(kubernetes.UnreachableError, match="Connection refused"):
        get(reached(str(kubeconfig)))


def test_a_name_that_does_not_resolve_is_unreachable(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "k"
    kubeconfig.write_text(yaml.safe_dump(document("https://api.invalid:6443")))
    with pytest.raises((kubernetes.UnreachableError, kubernetes.DeadlineError), match=r"api\.invalid"):
        get(reached(str(kubeconfig)), timeout=3)


def document(server: str, cluster: dict[str, str] | None = None, user: dict[str, Any] | None = None) -> Any:
    return {
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def test_a_pods_token_is_read_again_for_each_request(tmp_path: Path, tls: tuple[Path, Path]) -> None:
    with APIServer(tls=tls, token="one") as server:
        server.add_node("n1")
        account = account_in(tmp_path, tls[0], "one\n")
        api = reached("", in_pod(server.port), account=account)
        assert get(api)["metadata"]["name"] == "n1"
        server.tokens = {"two"}
        with pytest.raises(kubernetes.UnauthorizedError):
            get(api)
        (account / "token").write_text("two")
        assert get(api)["metadata"]["name"] == "n1"
        (account / "token").unlink()
        with pytest.raises(kubernetes.UnauthorizedError, match="token"):
            get(api)


def test_a_token_that_is_rotated_during_a_request_costs_one_more(
    tmp_path: Path, tls: tuple[Path, Path]
) -> None:
    with APIServer(tls=tls, token="two") as server:
        server.add_node("n1")
        account = account_in(tmp_path, tls[0], "one")
        api = reached("", in_pod(server.port), account=account)

        def rotate(_handler: object) -> bool:
            (account / "token").write_text("two")
            return False

        server.fault("GET", rotate, times=1)
        assert get(api)["metadata"]["name"] == "n1"
        assert [one.code for one in server.asked] == [401, 200]


def account_in(folder: Path, ca: Path, token: str) -> Path:
    account = folder / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(ca.read_bytes())
    (account / "token").write_text(token)
    return account


def in_pod(port: int) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}


def test_credentials_are_a_pods_then_the_configured_file_then_that_of_the_environment(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text(yaml.safe_dump(document("https://one")))
    two.write_text(yaml.safe_dump(document("https://two")))
    account = account_in(tmp_path, one, "t")
    environment = {"KUBECONFIG": f"{two}:/other"}

    def server(kubeconfig: str, environment: dict[str, str]) -> str:
        access = find(kubeconfig, environment, account)
        return access.server if access else ""

    assert server(str(one), {**environment, **in_pod(443)}) == "https://127.0.0.1:443"
    assert server(str(one), environment) == "https://one"
    assert server("", environment) == "https://two"
    assert server("", {}) == ""
    assert find("", in_pod(443), tmp_path / "none") is None
    ipv6 = find("", {"KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
    assert ipv6
    assert ipv6.server == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "a: b",
        "clusters: []\ncurrent-context: x\ncontexts: []",
        yaml.safe_dump({**document("https://x"), "current-context": "y"}),
        yaml.safe_dump(document("https://x", {"certificate-authority": "/nowhere"})),
        yaml.safe_dump(document("https://x", {"certificate-authority-data": "%%%"})),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(kubernetes.CredentialsError, match=str(file)):
        find(str(file), {})
    with pytest.raises(kubernetes.CredentialsError, match="nowhere"):
        find("/nowhere", {})


def test_a_clients_certificate_in_the_file_leaves_no_file_behind(
    tmp_path: Path, tls: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pykube writes the key to /tmp, readable for everybody, and takes what somebody put there before."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    client = certificate(tmp_path, "client")
    with APIServer(tls=tls, client_ca=client[0]) as server:
        server.add_node("n1")
        cluster = {"certificate-authority-data": as_data(tls[0])}
        user = {"client-certificate-data": as_data(client[0]), "client-key-data": as_data(client[1])}
        file = tmp_path / "k"
        file.write_text(yaml.safe_dump(document(server.url, cluster, user)))
        api = reached(str(file))
        assert get(api)["metadata"]["name"] == "n1"
        assert list((tmp_path / "tmp").iterdir()) == []
        file.write_text(yaml.safe_dump(document(server.url, cluster)))
        with pytest.raises((kubernetes.TLSError, kubernetes.UnreachableError)):
            get(reached(str(file)))


def test_a_server_with_another_certificate_gets_no_token(tmp_path: Path, tls: tuple[Path, Path]) -> None:
    other = certificate(tmp_path, "other")
    with APIServer(tls=tls, token="one") as server:
        with pytest.raises(kubernetes.TLSError, match="CERTIFICATE_VERIFY_FAILED"):
            get(reached(str(server.kubeconfig(tmp_path, ca=other[0]))))
        assert server.asked == []


def test_the_tokens_file_of_a_kubeconfig_may_be_relative(server: APIServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one")
    assert get(reached(str(server.kubeconfig(tmp_path, tokenFile="token"))))["metadata"]["name"] == "n1"


def plugin(tmp_path: Path, script: str, version: str = "v1beta1") -> dict[str, Any]:
    file = tmp_path / "plugin"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": f"client.authentication.k8s.io/{version}", "command": str(file)}}


def test_a_credential_plugin_is_asked_for_the_token(server: APIServer, tmp_path: Path) -> None:
    user = plugin(tmp_path, """echo '{"status": {"token": "one"}}'""")
    file = tmp_path / "k"
    file.write_text(yaml.safe_dump(document(server.url, user=user)))
    assert get(reached(str(file)))["metadata"]["name"] == "n1"


@pytest.mark.parametrize(
    ("script", "version", "kind"),
    [
        ("exit 3", "v1beta1", kubernetes.CredentialsError),
        ("echo nonsense", "v1beta1", kubernetes.CredentialsError),
        ("echo '{}'", "v1beta1", kubernetes.CredentialsError),
        ("exit 0", "v1", kubernetes.CredentialsError),
        ("exec sleep 3", "v1beta1", kubernetes.DeadlineError),
    ],
)
def test_a_credential_plugin_that_fails_is_an_error_in_time(
    server: APIServer, tmp_path: Path, script: str, version: str, kind: type[APIError]
) -> None:
    file = tmp_path / "k"
    file.write_text(yaml.safe_dump(document(server.url, user=plugin(tmp_path, script, version))))
    with pytest.raises(kind):
        get(reached(str(file)), timeout=0.5)


def test_only_the_configured_proxy_is_used(
    server: APIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's proxy broke the way to the API server."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    assert get(reached(str(server.kubeconfig(tmp_path))))["metadata"]["name"] == "n1"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        file = tmp_path / "proxied"
        file.write_text(yaml.safe_dump(document(server.url, {"proxy-url": address})))
        seen: list[bytes] = []

        def accept() -> None:
            with proxy.accept()[0] as connection:
                seen.append(connection.recv(4096))

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(kubernetes.UnreachableError):
            get(reached(str(file)), timeout=2)
        thread.join()
    assert seen[0].startswith(f"GET {server.url}{NODE}".encode())


def test_no_descriptor_is_left_when_credentials_are_forgotten(tmp_path: Path, tls: tuple[Path, Path]) -> None:
    file = tmp_path / "k"
    file.write_text(yaml.safe_dump(document("https://x", {"certificate-authority-data": as_data(tls[0])})))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert find(str(file), {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before

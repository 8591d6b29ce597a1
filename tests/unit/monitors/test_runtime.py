"""The container runtime's monitor against a real containerd, and against servers that do what it never would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from containerd_support import Containerd, containerd
from cri_support import field, grpc, serving, until_it_hangs_up
from network_support import Seen, look
from tests_support import eventually

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.monitors.kubernetes.runtime import RuntimeMonitor, RuntimeOptions
from workers.protobuf import Malformed, Message

ROOT_ALONE = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="containerd takes root"
)


def monitor(root: Path, **options: Any) -> RuntimeMonitor:
    """One that looks at the node whose root is `root`."""
    settings = msgspec.convert({"requestTimeout": "1s", **options}, RuntimeOptions)
    assert not list(settings.faults())
    return RuntimeMonitor("runtime", settings, Host(root=root, proc=root / "proc"))


def why(seen: Seen, condition: str = "RuntimeUnhealthy") -> tuple[str, str]:
    """Status and reason of a condition."""
    return str(seen[condition]), seen.verdicts[condition].reason


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd that runs."""
    with containerd(tmp_path_factory.mktemp("cd")) as running:
        yield running


@ROOT_ALONE
def test_a_runtime_is_ready_and_its_network_once_it_is_configured(daemon: Containerd) -> None:
    watching = monitor(daemon.folder)
    seen = look(watching)
    assert why(seen) == ("False", "RuntimeReady")
    assert why(seen, "ContainerNetworkNotReady") == ("True", "NetworkPluginNotReady")
    assert "cni plugin not initialized" in seen.verdicts["ContainerNetworkNotReady"].message
    assert {m.labels["runtime"] for m in seen.metrics if m.name == "runtime_info"} == {"containerd"}
    with daemon.network():
        eventually("the network is ready", lambda: look(watching)["ContainerNetworkNotReady"] == "False")
    eventually("the network is gone", lambda: look(watching)["ContainerNetworkNotReady"] == "True")


@ROOT_ALONE
def test_a_runtime_that_hangs_is_told_until_it_goes_on(daemon: Containerd) -> None:
    watching = monitor(daemon.folder)
    assert look(watching)["RuntimeUnhealthy"] == "False"
    daemon.signal(signal.SIGSTOP)
    try:
        seen = look(watching)
    finally:
        daemon.signal(signal.SIGCONT)
    assert why(seen) == ("True", "RuntimeHangs")
    path = "/run/containerd/containerd.sock"
    assert seen.verdicts["RuntimeUnhealthy"].message == f"{path} does not answer within 1s"
    assert seen["ContainerNetworkNotReady"] == "Unknown"
    eventually("it answers", lambda: look(watching)["RuntimeUnhealthy"] == "False")


@ROOT_ALONE
def test_a_runtime_that_was_there_and_ended_is_down_until_it_runs_again(daemon: Containerd) -> None:
    watching = monitor(daemon.folder)
    assert look(watching)["RuntimeUnhealthy"] == "False"
    daemon.end()
    assert why(look(watching)) == ("True", "RuntimeDown")
    (daemon.folder / "run/containerd/containerd.sock").unlink()
    assert why(look(watching)) == ("True", "RuntimeDown")
    daemon.start()
    assert look(watching)["RuntimeUnhealthy"] == "False"


@ROOT_ALONE
def test_who_may_not_connect_is_told_what_is_missing(daemon: Containerd) -> None:
    code = """
import os, sys
from nodedoctor.host import Host
from workers.monitors.kubernetes.runtime import RuntimeMonitor, RuntimeOptions
os.chroot(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    list(RuntimeMonitor("runtime", RuntimeOptions(), Host()).check())
except PermissionError as error:
    print(error)
"""
    daemon.folder.chmod(0o755)
    words = [sys.executable, "-c", code, str(daemon.folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("/run/containerd/containerd.sock is for root")


def test_a_machine_without_a_runtime_is_undetermined(tmp_path: Path) -> None:
    with pytest.raises(Undetermined, match="no container runtime's socket") as caught:
        look(monitor(tmp_path))
    assert caught.value.reason == "NoRuntime"


def test_what_the_kubelet_uses_is_down_when_it_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    (tmp_path / "var/lib/kubelet/config.yaml").write_text(
        "containerRuntimeEndpoint: unix:///run/mine/cri.sock\n"
    )
    seen = look(monitor(tmp_path))
    assert why(seen) == ("True", "RuntimeDown")
    assert seen.verdicts["RuntimeUnhealthy"].message.startswith("/run/mine/cri.sock has no socket")


def test_a_runtime_on_the_network_is_undetermined(tmp_path: Path) -> None:
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    (tmp_path / "var/lib/kubelet/kubeadm-flags.env").write_text(
        'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=tcp://127.0.0.1:1"\n'
    )
    with pytest.raises(Undetermined) as caught:
        look(monitor(tmp_path))
    assert caught.value.reason == "NoUnixSocket"


def state(kind: str, *, ready: bool) -> bytes:
    """A StatusResponse with one condition."""
    told = field(1, kind.encode()) + (b"\x10\x01" if ready else b"") + field(3, b"Because")
    return field(1, field(1, told))


def nonsense(client: socket.socket) -> None:
    """Answers with a data frame of no stream."""
    client.sendall(b"\0\0\1\0\0\0\0\0\0x")
    until_it_hangs_up(client)


def trickle(client: socket.socket) -> None:
    """Sends a byte of a settings frame now and then."""
    for byte in b"\0\0\0\4\0\0\0\0\0" * 9:
        client.sendall(bytes([byte]))
        time.sleep(0.03)


@pytest.mark.parametrize(
    ("converse", "expected"),
    [
        pytest.param(grpc(b"", "12"), ("True", "RuntimeWithoutCRI"), id="a runtime of old"),
        pytest.param(grpc(b"", "13"), ("True", "RuntimeFails"), id="an error"),
        pytest.param(grpc(b"", "4"), ("True", "RuntimeHangs"), id="its own deadline"),
        pytest.param(grpc(b"\xff" * 20), ("True", "RuntimeAnswersWrong"), id="no message"),
        pytest.param(nonsense, ("True", "RuntimeAnswersWrong"), id="no HTTP/2"),
        pytest.param(lambda _: None, ("True", "RuntimeDown"), id="it closes at once"),
        pytest.param(trickle, ("True", "RuntimeHangs"), id="it trickles"),
        pytest.param(grpc(state("RuntimeReady", ready=False)), ("True", "RuntimeNotReady"), id="it is not ready"),
        pytest.param(grpc(state("RuntimeReady", ready=True), piece=3), ("False", "RuntimeReady"), id="in pieces"),
        pytest.param(grpc(state("NetworkReady", ready=True)), ("Unknown", "NotTold"), id="it says nothing of itself"),
    ],
)  # fmt: skip
def test_each_bad_answer_has_its_reason(
    converse: Callable[[socket.socket], None], expected: tuple[str, str], tmp_path: Path
) -> None:
    with serving(tmp_path / "cri.sock", converse):
        seen = look(monitor(tmp_path, endpoint="unix:///cri.sock", requestTimeout="500ms"))
    assert why(seen) == expected
    if expected[0] == "True":
        assert seen.verdicts["RuntimeUnhealthy"].message.startswith("/cri.sock ")


def ping(status: bytes) -> Callable[[socket.socket], None]:
    """Docker's answer."""

    def converse(client: socket.socket) -> None:
        client.recv(1024)
        client.sendall(b"HTTP/1.1 " + status + b"\r\n\r\nOK")

    return converse


def test_docker_alone_gets_a_ping(tmp_path: Path) -> None:
    watching = monitor(tmp_path)
    with serving(tmp_path / "run/docker.sock", ping(b"200 OK")):
        assert why(look(watching)) == ("False", "RuntimeReady")
    with serving(tmp_path / "run/docker.sock", ping(b"500 Internal Server Error")):
        assert why(look(watching)) == ("True", "RuntimeFails")
    assert why(look(watching)) == ("True", "RuntimeDown")
    with serving(tmp_path / "run/docker.sock", ping(b"200 OK")):
        assert look(watching)["RuntimeUnhealthy"] == "False"


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 11])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Message(data)


def test_an_endpoint_is_a_unix_socket() -> None:
    (fault,) = RuntimeOptions(endpoint="tcp://127.0.0.1").faults()
    assert fault[0] == "endpoint"
    assert [option for option, _ in RuntimeOptions(request_timeout="0s").faults()] == ["requestTimeout"]

"""Asks a container runtime over the Container Runtime Interface, version 1 (k8s.io/cri-api, runtime/v1/api.proto)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.grpc import UNIMPLEMENTED, StatusError, unary
from workers.kubelet import kubelet_of
from workers.protobuf import Malformed, Message

SOCKETS = (
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/containerd/containerd.sock",
)
"""Where runtimes listen. k3s's and RKE2's comes first and containerd's own last: Docker's containerd, which speaks no
CRI, listens there beside another that does."""
SCHEME = re.compile(r"(unix:(//)?)?(?=/)")
READY = b"\x0a\x02\x12\x00"
"""ListPodSandboxRequest whose filter has the state SANDBOX_READY, which is 0 and so takes no byte."""
FAILURES = (OSError, StatusError, Malformed)
"""What a call may raise."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where a runtime is asked: a path on the host, and whether the options or the kubelet named it."""

    path: str
    chosen: bool


class State(msgspec.Struct, frozen=True):
    """What a runtime says of one side of itself, such as NetworkReady."""

    ready: bool
    reason: str
    message: str


class Status(msgspec.Struct, frozen=True):
    """What a runtime says of itself: its conditions by type."""

    states: dict[str, State]


class Version(msgspec.Struct, frozen=True):
    """Which runtime it is."""

    name: str
    version: str


class Failure(msgspec.Struct, frozen=True):
    """What is wrong with a runtime, as a condition's reason and message."""

    reason: str
    message: str


class Runtime(msgspec.Struct, frozen=True):
    """The runtime at a socket; all that is asked of it shares one deadline, in seconds of time.monotonic.

    Each method may raise one of `FAILURES`.
    """

    socket: Path
    deadline: float

    def version(self) -> Version:
        """Which runtime it is."""
        answer = self.call("RuntimeService/Version")
        return Version(answer.text(2), answer.text(3))

    def status(self) -> Status:
        """How it is."""
        answer = self.call("RuntimeService/Status")
        states = {
            state.text(1): State(state.flag(2), state.text(3), state.text(4))
            for state in answer.message(1).messages(1)
        }
        return Status(states)

    def ready_pods(self) -> int:
        """How many pods have a sandbox that is ready."""
        return len(self.call("RuntimeService/ListPodSandbox", READY).all_bytes(1))

    def image_folders(self) -> tuple[str, ...]:
        """The folders on the host that hold its images."""
        answer = self.call("ImageService/ImageFsInfo")
        return tuple(usage.message(2).text(1) for usage in answer.messages(1))

    def call(self, method: str, request: bytes = b"") -> Message:
        """What it answers; most requests are empty."""
        return Message(unary(self.socket, f"/runtime.v1.{method}", request, self.deadline))


def endpoint_faults(endpoint: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an option `endpoint`."""
    if "\0" in endpoint or (endpoint and not SCHEME.match(endpoint)):
        yield (
            "endpoint",
            f"found {endpoint!r}, allowed: a Unix socket such as /run/containerd/containerd.sock",
        )


def find_endpoint(host: Host, configured: str = "") -> Endpoint | None:
    """Where the runtime of this machine is: what is configured, what the kubelet was told, or where a socket is.

    Raises:
        Undetermined: the kubelet's runtime is not at a Unix socket.
        PermissionError: no socket is to be seen, and not everywhere could be looked.
    """
    chosen = configured or of_kubelet(host)
    if chosen:
        scheme = SCHEME.match(chosen)
        if not scheme:
            raise Undetermined(f"the kubelet's runtime, {chosen}, is not at a Unix socket", "NoUnixSocket")
        return Endpoint(chosen[scheme.end() :], chosen=True)
    hidden: PermissionError | None = None
    for path in SOCKETS:
        try:
            if host.path(path).is_socket():
                return Endpoint(path, chosen=False)
        except PermissionError as error:
            hidden = error
    if hidden:
        raise hidden
    return None


def of_kubelet(host: Host) -> str:
    """The endpoint that the kubelet was told; empty if that can't be read: the sockets can still be looked for."""
    try:
        kubelet = kubelet_of(host)
    except (PermissionError, ValueError):
        return ""
    return kubelet.settings.container_runtime_endpoint if kubelet else ""


def explained(error: Exception, timeout: str) -> Failure:
    """What it means that a call failed with `error`; `timeout` is what the call was given."""
    match error:
        case StatusError():
            return refused(error)
        case TimeoutError():
            return Failure("RuntimeHangs", f"does not answer within {timeout}")
        case FileNotFoundError():
            return Failure("RuntimeDown", "has no socket: the runtime does not run")
        case ConnectionRefusedError():
            return Failure("RuntimeDown", "refuses connections: the runtime does not run")
        case Malformed():
            return Failure("RuntimeAnswersWrong", f"does not speak the runtime's protocol: {error}")
    text = getattr(error, "strerror", None) or str(error)
    return Failure("RuntimeDown", f"breaks the connection: {text}")


def refused(error: StatusError) -> Failure:
    """What it means that the runtime answered with an error."""
    if error.code == UNIMPLEMENTED:
        text = "does not serve CRI v1: the runtime is too old, or its CRI plugin is off or failed"
        return Failure("RuntimeWithoutCRI", f"{text} ({error})")
    return Failure("RuntimeFails", f"answers with an error (gRPC status {error.code}): {error}")

"""Whether the container runtime answers, and says that it and its network are ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options
from workers.cri import (
    FAILURES,
    Endpoint,
    Failure,
    Runtime,
    Status,
    endpoint_faults,
    explained,
    find_endpoint,
)
from workers.protobuf import Malformed
from workers.unix import connected

UNHEALTHY = ConditionType(
    "RuntimeUnhealthy",
    reason="RuntimeDown",
    ok_reason="RuntimeReady",
    reasons=(
        "RuntimeDown",
        "RuntimeHangs",
        "RuntimeNotReady",
        "RuntimeWithoutCRI",
        "RuntimeFails",
        "RuntimeAnswersWrong",
    ),
)
NETWORK = ConditionType(
    "ContainerNetworkNotReady", reason="NetworkPluginNotReady", ok_reason="ContainerNetworkReady"
)
RESPONSE = Gauge("runtime_response_seconds", "Time that the runtime took to tell its version and its status")
INFO = Gauge("runtime_info", "1, with what the runtime calls itself", ("runtime", "version"))
DOCKER = "/run/docker.sock"
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
LONGEST_LINE = 1024


class RuntimeOptions(Options, frozen=True):
    """Where the runtime is, and how long it may take."""

    endpoint: str = ""
    """The runtime's socket on the node; by default what the kubelet was told, else where runtimes usually listen."""
    request_timeout: Duration = "5s"
    """For all that the runtime is asked in one check."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What can't be asked."""
        yield from endpoint_faults(self.endpoint)
        if seconds(self.request_timeout) <= 0:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: more than 0"


class RuntimeMonitor(Monitor[RuntimeOptions]):
    """Asks the runtime for its version and status as the kubelet does: CRI v1 (k8s.io/cri-api, api.proto).

    The runtime's socket belongs to root, who needs no capability to connect. Where there is Docker alone, it gets a
    ping (Docker Engine API, /_ping) and has no network to tell of. A socket that was there once and is gone is a
    runtime that is down.
    """

    kind, options_type = "runtime-health-check", RuntimeOptions
    conditions = (UNHEALTHY, NETWORK)
    metrics = (RESPONSE, INFO)
    timeout = 15.0

    def __init__(self, name: str, options: RuntimeOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.known: Endpoint | None = None

    def check(self) -> Iterator[Observation]:
        """Find the runtime and ask it."""
        endpoint = find_endpoint(self.host, self.options.endpoint) or self.known or docker_of(self.host)
        if not endpoint:
            raise Undetermined("no container runtime's socket is on this machine", "NoRuntime")
        if endpoint.path == DOCKER:
            yield from self.check_docker(endpoint)
            return
        socket = self.host.path(endpoint.path)
        began = time.monotonic()
        runtime = Runtime(socket, began + seconds(self.options.request_timeout))
        try:
            version, status = runtime.version(), runtime.status()
        except PermissionError as error:
            raise not_allowed(endpoint) from error
        except FAILURES as error:
            yield from self.failed(endpoint, explained(error, self.options.request_timeout))
            return
        self.known = endpoint
        yield RESPONSE(time.monotonic() - began)
        yield INFO(1, runtime=version.name, version=version.version)
        yield from judged(endpoint.path, status)

    def failed(self, endpoint: Endpoint, failure: Failure) -> Iterator[Observation]:
        """What it means that the runtime was asked in vain."""
        if failure.reason == "RuntimeWithoutCRI" and not endpoint.chosen and endpoint != self.known:
            docker = docker_of(self.host)
            if docker:
                yield from self.check_docker(docker)
                return
            raise Undetermined(
                f"{endpoint.path} {failure.message}; no kubelet is known to use it", "NoRuntime"
            )
        self.known = endpoint
        yield UNHEALTHY.when(True, f"{endpoint.path} {failure.message}", failure.reason)
        yield NETWORK.unknown(f"the runtime at {endpoint.path} does not tell", "RuntimeUnhealthy")

    def check_docker(self, endpoint: Endpoint) -> Iterator[Observation]:
        """Ping Docker."""
        self.known = endpoint
        began = time.monotonic()
        try:
            status = ping(self.host.path(endpoint.path), began + seconds(self.options.request_timeout))
        except PermissionError as error:
            raise not_allowed(endpoint) from error
        except FAILURES as error:
            failure = explained(error, self.options.request_timeout)
            yield UNHEALTHY.when(True, f"{endpoint.path} {failure.message}", failure.reason)
        else:
            yield RESPONSE(time.monotonic() - began)
            text = f"{endpoint.path} answers a ping with HTTP status {status}"
            yield UNHEALTHY.when(status != 200, text, "RuntimeFails")
        yield NETWORK.unknown("Docker speaks no CRI and has no network plugin to tell of", "NoCRI")


def docker_of(host: Host) -> Endpoint | None:
    """Docker, if its socket is on this machine."""
    return Endpoint(DOCKER, chosen=False) if host.path(DOCKER).is_socket() else None


def not_allowed(endpoint: Endpoint) -> PermissionError:
    """What to tell who may not connect."""
    return PermissionError(
        f"{endpoint.path} is for root: run as root, or in the group that the socket belongs to"
    )


def judged(path: str, status: Status) -> Iterator[Observation]:
    """What the runtime at `path` says of itself and of its network; what it does not mention is not ready."""
    for kind, condition, reason in (
        ("RuntimeReady", UNHEALTHY, "RuntimeNotReady"),
        ("NetworkReady", NETWORK, NETWORK.reason),
    ):
        state = status.states.get(kind)
        if state is None:
            yield condition.unknown(f"{path} says nothing of {kind}", "NotTold")
            continue
        why = ": ".join(word for word in (state.reason, state.message) if word) or "without a reason"
        yield condition.when(not state.ready, f"{path} says that {kind} is false: {why}", reason)


def ping(path: Path, deadline: float) -> int:
    """The HTTP status that Docker at `path` answers a ping with.

    Raises:
        Malformed: it is no HTTP.
        TimeoutError: nothing came in time.
        OSError: it can't be reached.
    """
    with connected(path, deadline) as stream:
        stream.send(PING)
        answer = b""
        while b"\n" not in answer and len(answer) < LONGEST_LINE:
            answer += stream.receive()
    words = answer.split(b"\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise Malformed("no HTTP")
    return int(words[1])

"""Networks of a test's own, and what monitors find in them.

A monitor that reads /proc and opens sockets is looked at from this process (`entered`); one that reads /sys takes a
process whose /sys is the network's (`Inside`).
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from nodedoctor.monitor import Finding, Monitor
from nodedoctor.types import ConditionStatus, Event, Metric
from workers.verdicts import Verdict, fold

CLONE_NEWNET = 0x40000000
NUMBERS = itertools.count()
CODE = """
import sys
import msgspec
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.registry import monitor_type
from nodedoctor.types import Event, Metric

kind = monitor_type(sys.argv[1])
options = msgspec.convert(msgspec.json.decode(sys.argv[2]), kind.options_type)
assert list(options.faults()) == [], list(options.faults())
monitor = kind("inside", options, Host())
for _ in sys.stdin:
    seen = {"findings": [], "events": [], "metrics": [], "undetermined": ""}
    places = {Finding: "findings", Event: "events", Metric: "metrics"}
    try:
        for item in monitor.check():
            seen[places[type(item)]].append(item)
    except Undetermined as error:
        seen["undetermined"] = f"{error.reason}: {error}"
    print(msgspec.json.encode(seen).decode(), flush=True)
"""


class Seen(msgspec.Struct, frozen=True):
    """What one check found: a verdict for each condition, all subjects folded as the life cycle does."""

    verdicts: dict[str, Verdict]
    metrics: list[Metric]
    events: list[Event]

    def __getitem__(self, condition: str) -> ConditionStatus:
        return self.verdicts[condition].status

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series, None if it is absent."""
        return next((m.value for m in self.metrics if m.name == name and m.labels == labels), None)


def look(monitor: Monitor[Any]) -> Seen:
    """Check once; what is reported must be what the monitor declares, and of each condition something is said."""
    observations = list(monitor.check())
    findings = [o for o in observations if isinstance(o, Finding)]
    metrics = [o for o in observations if isinstance(o, Metric)]
    conditions = monitor.conditions_of(monitor.name, monitor.options)
    assert {finding.type for finding in findings} == {condition.type for condition in conditions}
    declared = {(gauge.name, frozenset(gauge.labels), gauge.kind) for gauge in monitor.metrics}
    assert {(m.name, frozenset(m.labels), m.kind) for m in metrics} <= declared
    verdicts = {condition.type: fold(condition, findings) for condition in conditions}
    return Seen(verdicts, metrics, [o for o in observations if isinstance(o, Event)])


def give_up(error: Exception) -> NoReturn:
    """A machine that can't make a fault skips the test, unless it is the CI: there it is an error."""
    if os.environ.get("CI") == "true":
        raise error
    pytest.skip(f"this machine can't make the fault: {error} {getattr(error, 'stderr', '')}")


def ip(*words: str, namespace: str = "") -> str:
    """Run the program of this name, in a namespace if one is given; what it prints."""
    inside = ["-n", namespace] if namespace else []
    try:
        return subprocess.run(["ip", *inside, *words], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)


def nft(rules: str, namespace: str) -> None:
    """Give a namespace rules, or take them."""
    command = ["ip", "netns", "exec", namespace, "nft", rules]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)


@contextmanager
def network_namespace() -> Iterator[str]:
    """The name of a new one, with nothing in it but a loopback that is up."""
    name = f"nd{os.getpid()}x{next(NUMBERS)}"
    ip("netns", "add", name)
    try:
        ip("link", "set", "lo", "up", namespace=name)
        yield name
    finally:
        ip("netns", "del", name)


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread is in `namespace`; only the first thread of a process also sees its /proc/net and /proc/sys/net.

    A socket stays in the network that it was made in, also when it is used elsewhere.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(place: int) -> None:
        if libc.setns(place, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    inside = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        enter(inside)
        yield
    finally:
        enter(before)
        os.close(before)
        os.close(inside)


@contextmanager
def own_network() -> Iterator[None]:
    """This thread is in a network of its own with nothing but a loopback."""
    with network_namespace() as name, entered(name):
        yield


class Pair(msgspec.Struct, frozen=True):
    """Two namespaces, and the cable between them: its ends are called `wire`.

    The default routes of the node lead to the gateway.
    """

    gateway: str
    node: str
    gateway_v4: str = "10.77.0.1"
    gateway_v6: str = "fd77::1"
    node_v4: str = "10.77.0.2"
    node_v6: str = "fd77::2"


@contextmanager
def gateway_and_node() -> Iterator[Pair]:
    """A node and, one hop away, whatever a test puts on its gateway: servers, peers, other networks."""
    with network_namespace() as gateway, network_namespace() as node:
        pair = Pair(gateway, node)
        ip("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", node, namespace=gateway)
        for namespace, v4, v6 in (
            (gateway, pair.gateway_v4, pair.gateway_v6),
            (node, pair.node_v4, pair.node_v6),
        ):
            ip("address", "add", f"{v4}/24", "dev", "wire", namespace=namespace)
            ip("address", "add", f"{v6}/64", "dev", "wire", "nodad", namespace=namespace)
            ip("link", "set", "wire", "up", namespace=namespace)
        ip("route", "add", "default", "via", pair.gateway_v4, namespace=node)
        ip("-6", "route", "add", "default", "via", pair.gateway_v6, namespace=node)
        yield pair


@contextmanager
def silent_addresses(count: int, port: int = 0) -> Iterator[tuple[list[str], int]]:
    """So many addresses of this machine and a port of theirs: connections there are never made, as their queue is full."""
    hosts = [f"127.0.0.{number + 2}" for number in range(count)]
    with ExitStack() as stack:
        for host in hosts:
            server = stack.enter_context(socket.create_server((host, port), backlog=0))
            port = server.getsockname()[1]
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((host, port))
        yield hosts, port


def resolve_to(hosts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every name lead to these addresses."""

    def found(_host: object, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", found)


class Inside:
    """A monitor that checks, when it is asked to, in a network namespace; ip netns gives it the right /sys."""

    def __init__(self, namespace: str, kind: str, **options: Any) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", CODE, kind, json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def check(self) -> dict[str, Any]:
        """What one check finds."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen

    def bad(self, condition: str) -> list[str]:
        """What is bad of a condition, by one check; it must have been looked at."""
        findings = [f for f in self.check()["findings"] if f["type"] == condition]
        assert findings
        return [f["message"] for f in findings if f["bad"]]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

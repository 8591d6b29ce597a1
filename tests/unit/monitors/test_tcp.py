"""The TCP monitor connects to real servers, and to what is none, on the gateway of a node of the test's own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.exception
import dns.resolver
import msgspec
import pytest
from network_support import Pair, Seen, entered, gateway_and_node, ip, look, nft

from workers.monitors.network.tcp import TcpMonitor, TcpOptions, connect_to_any
from workers.resolving import in_hosts, told

GATEWAY, GATEWAY_V6, PORT = "10.77.0.1", "fd77::1", 4000
KIND = "RegistryUnhealthy"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The test runs on the node."""
    with gateway_and_node() as pair, entered(pair.node):
        yield pair


def listener(pair: Pair, address: str = GATEWAY, backlog: int | None = None) -> socket.socket:
    """A server on the gateway; the kernel accepts for it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with entered(pair.gateway):
        return socket.create_server((address, PORT), family=family, backlog=backlog)


def monitor(*targets: str, **options: Any) -> TcpMonitor:
    chosen = msgspec.convert({"targets": targets, "connectTimeout": "300ms", **options}, TcpOptions)
    assert list(chosen.faults()) == []
    return TcpMonitor("registry-health", chosen)


def told_of(seen: Seen) -> tuple[str, str, str]:
    verdict = seen.verdicts[KIND]
    return verdict.status, verdict.reason, verdict.message


FINE = ("False", "ConnectionsAccepted", "")


@pytest.mark.parametrize("address", [GATEWAY, GATEWAY_V6])
def test_where_nobody_listens_the_connection_is_refused_until_somebody_does(pair: Pair, address: str) -> None:
    target = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    look_there = monitor(target)
    seen = look(look_there)
    assert told_of(seen) == ("True", "ConnectionRefused", f"{target}: nobody listens there")
    assert seen.metric("tcp_up", target=target) == 0
    assert seen.metric("tcp_connect_seconds", target=target) is None
    with listener(pair, address):
        seen = look(look_there)
    assert told_of(seen) == FINE
    assert seen.metric("tcp_up", target=target) == 1
    assert 0 < seen.metric("tcp_connect_seconds", target=target) < 0.3
    assert told_of(look(look_there))[0] == "True"


def test_packets_that_vanish_are_a_timeout_until_they_arrive(pair: Pair) -> None:
    look_there = monitor(f"{GATEWAY}:{PORT}")
    rules = "table ip t { chain c { type filter hook input priority 0; tcp dport 4000 drop; }; }"
    nft(rules, pair.gateway)
    with listener(pair):
        assert told_of(look(look_there)) == (
            "True", "Timeout", f"{GATEWAY}:{PORT}: no connection within 300ms",
        )  # fmt: skip
        nft("delete table ip t", pair.gateway)
        assert told_of(look(look_there)) == FINE


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        pytest.param("unreachable", "Unreachable", id="unreachable"),
        pytest.param("prohibit", "ConnectionFailed", id="prohibited"),
        pytest.param("blackhole", "ConnectionFailed", id="black hole"),
    ],
)
def test_a_target_without_a_way_there_is_a_problem_until_there_is_one(
    pair: Pair, route: str, reason: str
) -> None:
    look_there = monitor(f"{GATEWAY}:{PORT}")
    with listener(pair):
        ip("route", "add", route, f"{GATEWAY}/32", namespace=pair.node)
        assert told_of(look(look_there))[:2] == ("True", reason)
        ip("route", "del", route, f"{GATEWAY}/32", namespace=pair.node)
        assert told_of(look(look_there)) == FINE


def test_a_server_that_accepts_nobody_is_a_timeout_once_its_queue_is_full(pair: Pair) -> None:
    look_there = monitor(f"{GATEWAY}:{PORT}")
    with listener(pair, backlog=0) as server, ExitStack() as stack:
        waiting = [stack.enter_context(socket.socket()) for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex((GATEWAY, PORT))
        assert told_of(look(look_there))[:2] == ("True", "Timeout")
        stack.close()
        server.setblocking(False)
        deadline = time.monotonic() + 20
        while told_of(look(look_there)) != FINE:
            assert time.monotonic() < deadline
            accept_all(server)


def accept_all(server: socket.socket) -> None:
    """Take all connections that wait."""
    try:
        while True:
            server.accept()[0].close()
    except BlockingIOError:
        pass


def test_a_bad_target_hides_no_other_and_all_are_waited_for_at_once(pair: Pair) -> None:
    rules = "table ip t { chain c { type filter hook input priority 0; tcp dport 5000-5050 drop; }; }"
    nft(rules, pair.gateway)
    silent = [f"{GATEWAY}:{port}" for port in range(5000, 5040)]
    with listener(pair):
        began = time.monotonic()
        seen = look(monitor(*silent, f"{GATEWAY}:{PORT}", f"{GATEWAY}:1"))
    assert time.monotonic() - began < 40 * 0.3
    assert seen.metric("tcp_up", target=f"{GATEWAY}:{PORT}") == 1
    assert "nobody listens there" in told_of(seen)[2]
    assert told_of(seen)[2].count("no connection within") >= 15


def test_a_connection_that_takes_long_is_warned_of(pair: Pair) -> None:
    """Its first packet is lost, and sent again a second later."""
    nft(
        "table ip t { chain c { type filter hook input priority 0; tcp dport 4000 limit rate over 1/second burst 1 packets drop; }; }",
        pair.gateway,
    )
    look_there = monitor(f"{GATEWAY}:{PORT}", connectTimeout="10s", slowThreshold="500ms")
    with listener(pair):
        for _ in range(3):  # the limit lets the first through
            seen = look(look_there)
        nft("delete table ip t", pair.gateway)
        assert told_of(seen) == (
            "False",
            "ConnectionSlow",
            f"{GATEWAY}:{PORT}: connecting takes longer than 500ms",
        )
        assert seen.verdicts[KIND].severity == "warning"
        assert told_of(look(look_there)) == FINE


def test_a_name_in_the_hosts_file_is_resolved_and_one_that_there_is_not_is_told(pair: Pair) -> None:
    with entered(pair.node), socket.create_server(("127.0.0.1", PORT)):
        assert told_of(look(monitor(f"localhost:{PORT}"))) == FINE
    status, reason, message = told_of(look(monitor(f"nothing.invalid:{PORT}")))
    assert (status, reason) == ("True", "NameNotResolved")
    assert message.startswith(f"nothing.invalid:{PORT}: the name can't be resolved: ")


@pytest.mark.usefixtures("pair")
def test_of_several_addresses_one_is_enough() -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        asyncio.run(connect_to_any(["127.0.0.2", "::1", "127.0.0.1"], PORT))
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect_to_any(["127.0.0.2", "127.0.0.1"], PORT))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (dns.resolver.NXDOMAIN(), "it does not exist"),
        (dns.resolver.NoResolverConfiguration(), "/etc/resolv.conf names no nameserver"),
        (dns.resolver.NoNameservers(), "all nameservers fail"),
        (dns.resolver.LifetimeTimeout(timeout=1, errors=[]), "no nameserver answers"),
    ],
)
def test_what_is_said_of_a_name_is_always_the_same(error: dns.exception.DNSException, text: str) -> None:
    assert told(error) == text


def test_the_hosts_file_is_read() -> None:
    text = "127.0.0.1 localhost\n::1 localhost # x\n# 10.0.0.1 a\n\n10.0.0.2 b A.lan\n"
    assert in_hosts(text, "localhost") == ["127.0.0.1", "::1"]
    assert in_hosts(text, "a") == []
    assert in_hosts(text, "a.LAN") == ["10.0.0.2"]


def test_no_descriptor_is_left_open(pair: Pair) -> None:
    with listener(pair):
        look_there = monitor(
            f"{GATEWAY}:{PORT}", f"{GATEWAY}:1", f"[{GATEWAY_V6}]:1", "10.99.0.1:1", connectTimeout="50ms"
        )
        look(look_there)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            look(look_there)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("options", "path"),
    [
        pytest.param({"targets": ["a"]}, "targets[0]", id="no port"),
        pytest.param({"targets": ["a:1", ":1"]}, "targets[1]", id="no host"),
        pytest.param({"targets": ["::1:80"]}, "targets[0]", id="no brackets"),
        pytest.param({"targets": ["a:0"]}, "targets[0]", id="port 0"),
        pytest.param({"targets": ["a:70000"]}, "targets[0]", id="port too large"),
        pytest.param({"targets": ["http://a:1"]}, "targets[0]", id="a URL"),
        pytest.param({"targets": ["u@a:1"]}, "targets[0]", id="a user"),
        pytest.param({"targets": ["a:1", "a:1"]}, "targets", id="twice"),
        pytest.param({"targets": ["a:1"], "connectTimeout": "0s"}, "connectTimeout", id="no time"),
        pytest.param({"targets": ["a:1"], "slowThreshold": "3s"}, "slowThreshold", id="slower than possible"),
    ],
)
def test_options_that_can_not_be_right_are_faults(options: dict[str, Any], path: str) -> None:
    assert [where for where, _ in msgspec.convert(options, TcpOptions).faults()] == [path]


def test_the_condition_has_the_name_that_the_configuration_gives() -> None:
    (condition,) = TcpMonitor.conditions_of("x", TcpOptions(targets=("a:1",), condition="RegistryGone"))
    assert condition.type == "RegistryGone"

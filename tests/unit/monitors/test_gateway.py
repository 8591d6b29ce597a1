"""The monitor of gateways on a node in a network namespace, whose gateways are in another one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Inside, Pair, entered, gateway_and_node, ip, network_namespace, nft
from tapnetem import Cable, cable
from tests_support import eventually

from workers.monitors.network.gateway.monitor import GatewayMonitor, GatewayOptions
from workers.monitors.network.gateway.routes import Hop, default_hops, way_to

SILENT = "table inet t { chain c { type filter hook input priority 0; meta l4proto { icmp } drop; }; }"
REFUSING = "table arp t { chain c { type filter hook input priority 0; drop; }; }"
QUICK = {"count": 2, "timeout": "300ms", "requireDefaultRoute": True}
Start = Callable[..., Inside]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A node with default routes of both families."""
    with gateway_and_node() as made:
        quick_neighbours(made.node)
        yield made


def quick_neighbours(namespace: str) -> None:
    """Have the kernel find out in two seconds what takes it up to a minute by default."""
    for family in ("ipv4", "ipv6"):
        for name, value in (
            ("base_reachable_time_ms", 500),
            ("retrans_time_ms", 200),
            ("delay_first_probe_time", 1),
        ):
            path = f"/proc/sys/net/{family}/neigh/wire/{name}"
            command = ["ip", "netns", "exec", namespace, "sh", "-c", f"echo {value} > {path}"]
            subprocess.run(command, check=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts monitors in a namespace."""
    with ExitStack() as stack:

        def one(namespace: str, **options: Any) -> Inside:
            inside = Inside(namespace, "gateway-health-check", **{**QUICK, **options})
            stack.callback(inside.close)
            return inside

        yield one


def told(seen: dict[str, Any], condition: str) -> set[tuple[bool | None, str, str]]:
    return {(f["bad"], f["reason"], f["message"]) for f in seen["findings"] if f["type"] == condition}


def up(seen: dict[str, Any], name: str = "gateway_up") -> dict[str, float]:
    return {m["labels"]["gateway"]: m["value"] for m in seen["metrics"] if m["name"] == name}


def test_gateways_of_both_families_are_asked(pair: Pair, start: Start) -> None:
    seen = start(pair.node).check()
    assert up(seen) == {pair.gateway_v4: 1.0, pair.gateway_v6: 1.0}
    assert {m["labels"]["family"] for m in seen["metrics"]} == {"ipv4", "ipv6"}
    assert up(seen, "gateway_loss_ratio") == {pair.gateway_v4: 0.0, pair.gateway_v6: 0.0}
    assert all(0 < rtt < 0.1 for rtt in up(seen, "gateway_rtt_seconds").values())
    assert [f["bad"] for f in seen["findings"]] == [False] * len(seen["findings"])


@pytest.mark.parametrize("family", [4, 6])
def test_a_gateway_that_is_gone_is_told_and_the_other_is_not_until_it_is_back(
    pair: Pair, start: Start, family: int
) -> None:
    gone, other = pair.gateway_v4, pair.gateway_v6
    if family == 6:
        gone, other = other, gone
    size = {4: 24, 6: 64}[family]
    monitor = start(pair.node)
    assert monitor.bad("GatewayUnreachable") == []
    ip("address", "del", f"{gone}/{size}", "dev", "wire", namespace=pair.gateway)
    message = f"gateway {gone} at wire is not found on its network"
    eventually("it is down", lambda: monitor.bad("GatewayUnreachable") == [message])
    assert up(monitor.check()) == {gone: 0.0, other: 1.0}
    more = ["nodad"] if family == 6 else []
    ip("address", "add", f"{gone}/{size}", "dev", "wire", *more, namespace=pair.gateway)
    eventually("it is up", lambda: monitor.bad("GatewayUnreachable") == [])


@pytest.mark.parametrize("family", [4, 6])
def test_one_check_is_enough_where_the_kernel_only_remembers_the_gateway(
    pair: Pair, start: Start, family: int
) -> None:
    """An entry that is stale was taken for a gateway that is there."""
    address, size = {4: (pair.gateway_v4, 24), 6: (pair.gateway_v6, 64)}[family]
    monitor = start(pair.node)
    assert monitor.bad("GatewayUnreachable") == []
    ip("neigh", "change", address, "dev", "wire", "nud", "stale", namespace=pair.node)
    ip("address", "del", f"{address}/{size}", "dev", "wire", namespace=pair.gateway)
    message = f"gateway {address} at wire is not found on its network"
    assert monitor.bad("GatewayUnreachable") == [message]


def test_a_gateway_that_never_answers_echoes_is_there_as_a_neighbour(pair: Pair, start: Start) -> None:
    nft(SILENT, pair.gateway)
    ip("-6", "route", "del", "default", namespace=pair.node)
    seen = start(pair.node).check()
    assert up(seen) == {pair.gateway_v4: 1.0}
    assert {bad for bad, _, _ in told(seen, "GatewayUnreachable")} == {False}
    text = f"gateway {pair.gateway_v4} at wire: it answers no echo"
    assert told(seen, "GatewayLossHigh") == told(seen, "GatewaySlow") == {(None, "NoEchoes", text)}


def test_a_gateway_that_does_not_answer_echoes_any_more_loses_them_all(pair: Pair, start: Start) -> None:
    ip("-6", "route", "del", "default", namespace=pair.node)
    monitor = start(pair.node)
    assert monitor.bad("GatewayLossHigh") == []
    nft(SILENT, pair.gateway)
    assert monitor.bad("GatewayLossHigh") == [
        f"gateway {pair.gateway_v4} at wire loses 40 % of echoes or more"
    ]
    assert monitor.bad("GatewayUnreachable") == []
    nft("delete table inet t", pair.gateway)
    assert monitor.bad("GatewayLossHigh") == []


def test_a_lost_default_route_is_told_where_one_is_required(pair: Pair, start: Start) -> None:
    monitor, lenient = start(pair.node), start(pair.node, requireDefaultRoute=False)
    for flag in ("-4", "-6"):
        ip(flag, "route", "del", "default", namespace=pair.node)
    assert monitor.bad("GatewayUnreachable") == ["there is no default route"]
    assert lenient.check()["undetermined"] == "NoDefaultRoute: there is no default route"
    ip("route", "add", "default", "via", pair.gateway_v4, namespace=pair.node)
    assert monitor.bad("GatewayUnreachable") == []


def test_a_link_that_is_down_is_told_as_such(pair: Pair, start: Start) -> None:
    monitor = start(pair.node)
    ip("link", "set", "wire", "down", namespace=pair.gateway)
    wanted = {
        f"wire, which leads to {pair.gateway_v4}, is down",
        f"wire, which leads to {pair.gateway_v6}, is down",
    }
    eventually("the link is down", lambda: set(monitor.bad("GatewayUnreachable")) == wanted)
    assert {reason for bad, reason, _ in told(monitor.check(), "GatewayUnreachable") if bad} == {"LinkDown"}
    ip("link", "set", "wire", "up", namespace=pair.gateway)
    ip("address", "add", f"{pair.gateway_v6}/64", "dev", "wire", "nodad", namespace=pair.gateway)
    eventually("it is up", lambda: monitor.bad("GatewayUnreachable") == [])


def test_all_next_hops_of_a_multipath_route_are_asked(pair: Pair, start: Start) -> None:
    ip("address", "add", "10.77.0.3/24", "dev", "wire", namespace=pair.gateway)
    hops = [word for last in (1, 3, 4) for word in ("nexthop", "via", f"10.77.0.{last}", "dev", "wire")]
    ip("route", "replace", "default", *hops, namespace=pair.node)
    six = [word for last in (1, 9) for word in ("nexthop", "via", f"fd77::{last}", "dev", "wire")]
    ip("-6", "route", "del", "default", namespace=pair.node)
    ip("-6", "route", "add", "default", *six, namespace=pair.node)
    seen = start(pair.node).check()
    assert up(seen) == {"10.77.0.1": 1.0, "10.77.0.3": 1.0, "10.77.0.4": 0.0, "fd77::1": 1.0, "fd77::9": 0.0}
    assert {message for bad, _, message in told(seen, "GatewayUnreachable") if bad} == {
        "gateway 10.77.0.4 at wire is not found on its network",
        "gateway fd77::9 at wire is not found on its network",
    }


def test_of_several_default_routes_the_dead_one_is_named(pair: Pair, start: Start) -> None:
    ip("route", "add", "default", "via", "10.77.0.9", "metric", "50", namespace=pair.node)
    monitor = start(pair.node)
    assert monitor.bad("GatewayUnreachable") == ["gateway 10.77.0.9 at wire is not found on its network"]
    ip("address", "add", "10.77.0.9/24", "dev", "wire", namespace=pair.gateway)
    eventually("it is up", lambda: monitor.bad("GatewayUnreachable") == [])


def test_routes_that_lead_nowhere_and_those_of_other_tables_have_no_gateways(pair: Pair) -> None:
    ip("route", "add", "unreachable", "default", "metric", "900", namespace=pair.node)
    ip("route", "add", "default", "via", "10.77.0.8", "table", "100", namespace=pair.node)
    ip("route", "add", "10.0.0.0/8", "via", "10.77.0.7", namespace=pair.node)
    via = ["via", "inet6", "fd77::5", "dev", "wire"]
    ip("-4", "route", "add", "default", *via, "metric", "9", namespace=pair.node)
    ip("-6", "route", "add", "unreachable", "default", "metric", "900", namespace=pair.node)
    ip("-6", "route", "add", "default", "dev", "wire", "metric", "800", namespace=pair.node)
    with entered(pair.node):
        assert default_hops() == [
            Hop("wire", "", "ipv6"),
            Hop("wire", "10.77.0.1", "ipv4"), Hop("wire", "fd77::1", "ipv6"), Hop("wire", "fd77::5", "ipv4"),
        ]  # fmt: skip


def test_an_interface_that_leads_everywhere_by_itself_is_there_while_it_is_up(
    pair: Pair, start: Start
) -> None:
    ip("-6", "route", "del", "default", namespace=pair.node)
    ip("route", "replace", "default", "dev", "wire", namespace=pair.node)
    monitor = start(pair.node)
    seen = monitor.check()
    assert up(seen) == {"": 1.0}
    assert told(seen, "GatewaySlow") == {(None, "NoGateway", "no gateway can be asked for echoes")}
    ip("link", "set", "wire", "down", namespace=pair.gateway)
    wanted = ["wire, which leads to everywhere, is down"]
    eventually("it is down", lambda: monitor.bad("GatewayUnreachable") == wanted)


def test_a_gateway_that_is_valid_on_its_link_alone_is_asked(pair: Pair, start: Start) -> None:
    ip("address", "add", "fe80::77/64", "dev", "wire", "nodad", namespace=pair.gateway)
    ip("-6", "route", "replace", "default", "via", "fe80::77", "dev", "wire", namespace=pair.node)
    monitor, given = start(pair.node), start(pair.node, gateways=["fe80::77%wire"], requireDefaultRoute=False)
    for one in (monitor, given):
        seen = one.check()
        assert up(seen)["fe80::77"] == 1.0
        assert up(seen, "gateway_loss_ratio")["fe80::77"] == 0.0
    ip("address", "del", "fe80::77/64", "dev", "wire", namespace=pair.gateway)
    wanted = ["gateway fe80::77 at wire is not found on its network"]
    eventually("it is down", lambda: given.bad("GatewayUnreachable") == wanted)


def test_gateways_that_are_given_are_asked_and_no_others(pair: Pair, start: Start) -> None:
    gateways = [pair.gateway_v4, "10.77.0.66", "10.88.0.1"]
    seen = start(pair.node, gateways=gateways, requireDefaultRoute=False).check()
    assert {m["labels"]["interface"] for m in seen["metrics"]} == {"wire"}
    assert up(seen)[pair.gateway_v4] == 1.0
    assert up(seen)["10.77.0.66"] == 0.0
    # What is behind another gateway is nobody's neighbour; this one rejects packets for it, and so says nothing.
    assert {reason for bad, reason, _ in told(seen, "GatewayUnreachable") if bad is None} == {"NoAnswer"}
    assert pair.gateway_v6 not in up(seen)


def test_a_gateway_without_a_route_is_told(pair: Pair, start: Start) -> None:
    ip("route", "del", "default", namespace=pair.node)
    monitor = start(pair.node, gateways=["10.88.0.1"], requireDefaultRoute=False)
    assert told(monitor.check(), "GatewayUnreachable") == {
        (True, "NoRoute", "there is no route to the gateway 10.88.0.1")
    }
    ip("route", "add", "blackhole", "10.88.0.1", namespace=pair.node)
    assert {(bad, reason) for bad, reason, _ in told(monitor.check(), "GatewayUnreachable")} == {
        (None, "NoRoutes")
    }
    with entered(pair.node):
        assert way_to(pair.gateway_v4) == Hop("wire", pair.gateway_v4, "ipv4")


def test_by_tcp_a_gateway_is_found_where_nothing_else_tells(pair: Pair, start: Start) -> None:
    """Its hardware address is given, so the kernel does not look for it."""
    nft(SILENT, pair.gateway)
    lines = ip("link", "show", "wire", namespace=pair.gateway)
    address = lines.split("link/ether ")[1].split()[0]
    ip("neigh", "replace", pair.gateway_v4, "lladdr", address, "dev", "wire", namespace=pair.node)
    options = {"gateways": [pair.gateway_v4], "requireDefaultRoute": False, "port": 5300}
    monitor = start(pair.node, **options)
    assert up(monitor.check()) == {pair.gateway_v4: 1.0}
    rules = "table ip u { chain c { type filter hook input priority 0; tcp dport 5300 drop; }; }"
    nft(rules, pair.gateway)
    text = (
        "gateway 10.77.0.1 at wire: it answers no echo, it is not known as a neighbour, "
        "and silent at TCP port 5300"
    )
    assert told(monitor.check(), "GatewayUnreachable") == {(None, "NoAnswer", text)}


UNPRIVILEGED = """
import sys
from nodedoctor.host import Host
from workers.monitors.network.gateway.monitor import GatewayMonitor, GatewayOptions
options = GatewayOptions(gateways=("10.77.0.1",), count=2, timeout="300ms")
for item in GatewayMonitor("x", options, Host()).check():
    print(getattr(item, "bad", ""), getattr(item, "message", item))
"""


def unprivileged(namespace: str) -> str:
    """What a process finds that may not do anything."""
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]
    command = [
        "ip",
        "netns",
        "exec",
        namespace,
        *drop,
        "--inh-caps",
        "-all",
        sys.executable,
        "-c",
        UNPRIVILEGED,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_may_not_send_echoes_finds_the_neighbour_and_says_what_it_takes(pair: Pair) -> None:
    lines = unprivileged(pair.node).splitlines()
    assert lines[0].startswith(" Metric(name='gateway_up', value=1.0")
    assert lines[1].strip() == "False"
    for line in lines[2:]:
        assert line == (
            "None gateway 10.77.0.1 at wire: ICMP echoes may not be sent: it takes CAP_NET_RAW, "
            "or a group within net.ipv4.ping_group_range"
        )
    assert len(lines) == 4


def test_a_group_that_may_send_echoes_needs_no_capability(pair: Pair) -> None:
    path = "/proc/sys/net/ipv4/ping_group_range"
    subprocess.run(["ip", "netns", "exec", pair.node, "sh", "-c", f"echo 65534 65534 > {path}"], check=True)
    text = unprivileged(pair.node)
    assert "gateway_loss_ratio" in text
    assert "CAP_NET_RAW" not in text


def test_many_dead_gateways_take_no_longer_than_one(pair: Pair, start: Start) -> None:
    dead = [f"10.77.0.{last}" for last in range(100, 160)]
    monitor = start(pair.node, gateways=dead, requireDefaultRoute=False)
    began = time.monotonic()
    assert len(monitor.bad("GatewayUnreachable")) == 60
    assert time.monotonic() - began < GatewayMonitor.timeout


# Loss and delay


@pytest.fixture
def wire() -> Iterator[tuple[str, Cable]]:
    """A node and the cable to its gateway."""
    with network_namespace() as node, network_namespace() as router, cable(node, router) as made:
        ip("address", "add", "10.77.0.2/24", "dev", "wire", namespace=node)
        ip("address", "add", "10.77.0.1/24", "dev", "wire", namespace=router)
        ip("route", "add", "default", "via", "10.77.0.1", namespace=node)
        yield node, made


def test_lost_echoes_are_told_until_they_are_few(wire: tuple[str, Cable], start: Start) -> None:
    node, made = wire
    monitor = start(node, count=10, timeout="100ms", lossThreshold=40)
    assert monitor.bad("GatewayLossHigh") == []
    made.loss = 0.2
    seen = monitor.check()
    assert [bad for bad, _, _ in told(seen, "GatewayLossHigh")] == [False]
    assert 0.05 < up(seen, "gateway_loss_ratio")["10.77.0.1"] < 0.35
    made.loss = 0.6
    assert monitor.bad("GatewayLossHigh") == ["gateway 10.77.0.1 at wire loses 40 % of echoes or more"]
    assert monitor.bad("GatewayUnreachable") == []
    made.loss = 0.0
    assert monitor.bad("GatewayLossHigh") == []


def test_a_slow_gateway_is_told_until_it_is_fast(wire: tuple[str, Cable], start: Start) -> None:
    node, made = wire
    monitor = start(node, latencyThreshold="100ms", timeout="1s")
    assert monitor.bad("GatewaySlow") == []
    made.delay = 0.1
    seen = monitor.check()
    assert told(seen, "GatewaySlow") == {
        (True, "EchoesLate", "gateway 10.77.0.1 at wire takes 100ms or more to answer")
    }
    assert up(seen, "gateway_rtt_seconds")["10.77.0.1"] >= 0.2
    assert monitor.bad("GatewayLossHigh") == []
    made.delay = 0.0
    assert monitor.bad("GatewaySlow") == []


def test_a_cable_that_loses_everything_is_a_gateway_that_is_gone(
    wire: tuple[str, Cable], start: Start
) -> None:
    node, made = wire
    quick_neighbours(node)
    monitor = start(node)
    assert monitor.bad("GatewayUnreachable") == []
    made.loss = 1.0
    wanted = ["gateway 10.77.0.1 at wire is not found on its network"]
    eventually("it is gone", lambda: monitor.bad("GatewayUnreachable") == wanted)
    made.loss = 0.0
    eventually("it is back", lambda: monitor.bad("GatewayUnreachable") == [])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        pytest.param({"gateways": ["router"]}, "gateways[0]", id="a name"),
        pytest.param({"gateways": ["fe80::1"]}, "gateways[0]", id="no interface"),
        pytest.param({"gateways": ["10.0.0.1", "10.0.0.1"]}, "gateways", id="twice"),
        pytest.param({"timeout": "0s"}, "timeout", id="no time"),
        pytest.param({"count": 20, "timeout": "600ms"}, "timeout", id="slower than the monitor"),
        pytest.param({"latencyThreshold": "0s"}, "latencyThreshold", id="always slow"),
    ],
)
def test_options_that_can_not_work_are_faults(options: dict[str, Any], fault: str) -> None:
    assert [path for path, _ in msgspec.convert(options, GatewayOptions).faults()] == [fault]

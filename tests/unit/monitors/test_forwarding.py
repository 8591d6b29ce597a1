"""The monitor of forwarding and default routes: real settings, interfaces and routes in a network of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, give_up, ip, look, own_network

from nodedoctor.host import Host
from workers.monitors.network.forwarding import (
    ForwardingMonitor,
    ForwardingOptions,
    Route,
    ipv4_routes,
    running,
)

SETTINGS = Path("/proc/sys/net")


@pytest.fixture
def network() -> Iterator[None]:
    """A node as it should be: it forwards, and has a default route for both protocols over the interface `wire`."""
    with own_network():
        add_interface("wire", "10.9.0.1/24")
        put("ipv4/ip_forward", 1)
        put("ipv6/conf/all/forwarding", 1)
        ip("route", "add", "default", "via", "10.9.0.2", "metric", "100")
        ip("-6", "route", "add", "default", "via", "fe80::2", "dev", "wire", "metric", "100")
        yield


def add_interface(name: str, address: str) -> None:
    """One end of a cable; the other is called like it with `-peer`."""
    peer = f"{name}-peer"
    ip("link", "add", name, "type", "veth", "peer", "name", peer)
    ip("address", "add", address, "dev", name)
    for end in (name, peer):
        ip("link", "set", end, "up")


def put(setting: str, value: int) -> None:
    (SETTINGS / setting).write_text(f"{value}\n")


def looking(**options: Any) -> Seen:
    return look(ForwardingMonitor("forwarding", msgspec.convert(options, ForwardingOptions)))


def problems(**options: Any) -> list[str]:
    """The messages of the conditions that are True."""
    return [verdict.message for verdict in looking(**options).verdicts.values() if verdict.status == "True"]


def problems_when(text: str, within: float = 30.0, **options: Any) -> None:
    """Wait until the one problem is `text`, or until there is none if it is empty: a link goes up and down later."""
    end = time.monotonic() + within
    wanted = [text] if text else []
    while (found := problems(**options)) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.02)


EVERYTHING: dict[str, Any] = {"ipv6": True, "looseReversePath": True}


@pytest.mark.usefixtures("network")
def test_a_node_that_forwards_and_has_routes_is_fine() -> None:
    put("ipv4/conf/all/rp_filter", 0)
    put("ipv4/conf/wire/rp_filter", 0)
    put("ipv4/conf/wire-peer/rp_filter", 0)
    problems_when("", **EVERYTHING)
    assert len(looking(**EVERYTHING).verdicts) == 4


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("ipv4/ip_forward", "net.ipv4.ip_forward is 0", id="IPv4, of all interfaces"),
        pytest.param(
            "ipv4/conf/wire/forwarding", "net.ipv4.conf.wire.forwarding is 0", id="of one interface"
        ),
        pytest.param("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding is 0", id="IPv6"),
    ],
)
def test_forwarding_that_is_off_is_a_problem_until_it_is_on(setting: str, message: str) -> None:
    problems_when("", ipv6=True)
    put(setting, 0)
    assert problems(ipv6=True) == [message]
    assert looking(ipv6=True).verdicts["IPForwardingDisabled"].reason == "ForwardingIsOff"
    put(setting, 1)
    assert problems(ipv6=True) == []


@pytest.mark.usefixtures("network")
def test_only_what_is_asked_for_has_to_forward() -> None:
    problems_when("")
    put("ipv6/conf/all/forwarding", 0)
    put("ipv4/conf/wire/forwarding", 0)
    put("ipv4/conf/lo/forwarding", 0)
    put("ipv4/conf/default/forwarding", 0)
    assert problems() == ["net.ipv4.conf.wire.forwarding is 0"]
    assert problems(interfaces=["cali*", "wire-*"]) == []
    assert problems(interfaces=["cali*", "wir?"]) == ["net.ipv4.conf.wire.forwarding is 0"]
    put("ipv4/ip_forward", 0)
    put("ipv6/conf/all/forwarding", 1)
    assert problems(ipv4=False, ipv6=True) == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", ["iptables", "ip6tables"])
def test_bridged_packets_that_bypass_the_filter_are_a_warning_until_they_do_not(name: str) -> None:
    problems_when("", ipv6=True)
    try:
        put(f"bridge/bridge-nf-call-{name}", 0)
    except OSError as error:  # br_netfilter is not loaded
        give_up(error)
    verdict = looking(ipv6=True).verdicts["BridgeFilteringDisabled"]
    assert (verdict.status, verdict.severity) == ("True", "warning")
    assert verdict.message == f"net.bridge.bridge-nf-call-{name} is 0"
    assert problems(ipv4=name == "iptables", ipv6=name == "ip6tables") == [verdict.message]
    assert problems(ipv4=name != "iptables", ipv6=name != "ip6tables") == []
    put(f"bridge/bridge-nf-call-{name}", 1)
    assert problems(ipv6=True) == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("everywhere", "own", "strict"),
    [
        pytest.param(0, 0, False, id="off"),
        pytest.param(0, 1, True, id="strict here"),
        pytest.param(1, 0, True, id="strict everywhere"),
        pytest.param(2, 1, False, id="loose everywhere beats strict here"),
        pytest.param(1, 2, False, id="loose here beats strict everywhere"),
    ],
)
def test_the_larger_of_both_reverse_path_filters_counts(everywhere: int, own: int, strict: bool) -> None:
    options = {"looseReversePath": True, "forwarding": False, "defaultRoute": False, "interfaces": ["wire"]}
    put("ipv4/conf/all/rp_filter", everywhere)
    put("ipv4/conf/wire/rp_filter", own)
    message = "the reverse path filter (rp_filter) of wire is strict"
    assert problems(**options) == ([message] if strict else [])
    put("ipv4/conf/wire/rp_filter", 2)
    assert problems(**options) == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("protocol", "family"), [("IPv4", "-4"), ("IPv6", "-6")])
def test_a_default_route_that_is_missing_is_a_problem_until_there_is_one(protocol: str, family: str) -> None:
    problems_when("", ipv6=True)
    ip(family, "route", "delete", "default")
    ip(family, "route", "add", "unreachable", "default", "metric", "50")
    seen = looking(ipv6=True).verdicts["DefaultRouteMissing"]
    assert (seen.status, seen.reason) == ("True", "NoDefaultRoute")
    assert seen.message == f"there is no {protocol} default route over an interface that is up"
    assert problems(defaultRoute=False, ipv6=True) == []
    assert problems(ipv4=family == "-6", ipv6=family == "-4") == []
    ip(family, "route", "add", "default", "dev", "wire", "metric", "70")
    assert problems(ipv6=True) == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("protocol", ["IPv4", "IPv6"])
def test_a_route_over_a_link_that_is_down_is_a_problem_until_it_is_up(protocol: str) -> None:
    options = {"ipv4": protocol == "IPv4", "ipv6": protocol == "IPv6"}
    problems_when("", **options)
    ip("link", "set", "wire-peer", "down")
    problems_when(f"the {protocol} default route leads over wire, whose link is down", **options)
    assert looking(**options).verdicts["DefaultRouteMissing"].reason == "DefaultRouteLinkDown"
    ip("link", "set", "wire-peer", "up")
    problems_when("", **options)


@pytest.mark.usefixtures("network")
def test_the_next_route_counts_if_the_kernel_goes_on_to_it_while_a_link_is_down() -> None:
    add_interface("spare", "10.8.0.1/24")
    ip("route", "add", "default", "via", "10.8.0.2", "metric", "200")
    ip("link", "set", "wire-peer", "down")
    problems_when("the IPv4 default route leads over wire, whose link is down")
    put("ipv4/conf/wire/ignore_routes_with_linkdown", 1)
    problems_when("")
    ip("route", "delete", "default", "via", "10.8.0.2")
    seen = looking().verdicts["DefaultRouteMissing"]
    assert (seen.status, seen.reason) == ("True", "DefaultRouteLinkDown")


@pytest.mark.usefixtures("network")
def test_two_routes_with_the_same_metric_are_a_warning() -> None:
    ip("route", "append", "default", "via", "10.9.0.3", "metric", "200")
    problems_when("")
    assert looking().verdicts["DefaultRouteMissing"].reason == "DefaultRouteExists"
    ip("route", "append", "default", "via", "10.9.0.3", "metric", "100")
    seen = looking().verdicts["DefaultRouteMissing"]
    assert (seen.status, seen.reason, seen.severity) == ("False", "DefaultRouteAmbiguous", "warning")
    ip("route", "delete", "default", "via", "10.9.0.3", "metric", "100")
    assert looking().verdicts["DefaultRouteMissing"].reason == "DefaultRouteExists"


def test_an_interface_that_has_just_gone_does_not_run() -> None:
    assert running("lo")
    assert not running("nothing")


def test_half_of_the_internet_is_no_default_route() -> None:
    """As VPNs lay them over the default route: 0.0.0.0/1 has the same target and another mask."""
    text = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
        "eth0\t00000000\t0200090A\t0003\t0\t0\t7\t00000000\t0\t0\t0\n"
    )
    assert ipv4_routes(text) == [Route("eth0", 7)]


def test_a_kernel_without_the_protocol_or_br_netfilter_can_neither_forward_nor_bridge(tmp_path: Path) -> None:
    (tmp_path / "sys/net/ipv4/conf").mkdir(parents=True)
    options = msgspec.convert({"ipv4": False, "ipv6": True}, ForwardingOptions)
    seen = look(ForwardingMonitor("forwarding", options, Host(proc=tmp_path)))
    forwarding = seen.verdicts["IPForwardingDisabled"]
    assert forwarding.status == "True"
    assert forwarding.message == "net.ipv6.conf.all.forwarding does not exist: the kernel can't do it"
    assert (seen["BridgeFilteringDisabled"], seen["DefaultRouteMissing"]) == ("False", "True")


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param({}, [], id="the defaults"),
        pytest.param({"ipv4": False}, ["ipv4"], id="no protocol"),
        pytest.param({"ipv4": False, "ipv6": True}, [], id="IPv6 alone"),
        pytest.param(
            {"ipv4": False, "ipv6": True, "looseReversePath": True},
            ["looseReversePath"],
            id="a filter that there is not",
        ),
        pytest.param(
            {"forwarding": False, "bridgeFiltering": False, "defaultRoute": False},
            ["forwarding"],
            id="nothing",
        ),
    ],
)
def test_options_that_ask_for_nothing_are_faults(options: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in msgspec.convert(options, ForwardingOptions).faults()] == paths


def test_only_what_is_asked_for_is_reported() -> None:
    options = msgspec.convert({"forwarding": False, "looseReversePath": True}, ForwardingOptions)
    conditions = {condition.type for condition in ForwardingMonitor.conditions_of("f", options)}
    assert conditions == {"BridgeFilteringDisabled", "ReversePathFilterStrict", "DefaultRouteMissing"}

"""The gateway monitor in a network namespace whose gateway is in another one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from network_support import Inside, ip, network_namespace
from tests_support import eventually

DROP = "table inet t { chain c { type filter hook input priority 0; meta l4proto { icmp } drop; }; }"


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """The namespace of a node and the one of its gateway, 10.9.0.1 and fd09::1, with a cable between."""
    with network_namespace() as node, network_namespace() as router:
        ip("link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", router, namespace=node)
        for name, end, last in ((node, "up0", 2), (router, "down0", 1)):
            ip("link", "set", end, "up", namespace=name)
            ip("addr", "add", f"10.9.0.{last}/24", "dev", end, namespace=name)
            ip("addr", "add", f"fd09::{last}/64", "dev", end, "nodad", namespace=name)
        ip("route", "add", "default", "via", "10.9.0.1", namespace=node)
        yield node, router


@pytest.fixture
def monitor(networks: tuple[str, str]) -> Iterator[Inside]:
    """A monitor on the node."""
    with ExitStack() as stack:
        inside = Inside(networks[0], "gateway-health-check", count=2, timeout=0.3, requireDefaultRoute=True)
        stack.callback(inside.close)
        yield inside


def test_a_gateway_that_loses_its_address_is_down_until_it_has_it_again(
    networks: tuple[str, str], monitor: Inside
) -> None:
    assert monitor.bad("GatewayUnreachable") == []
    ip("addr", "del", "10.9.0.1/24", "dev", "down0", namespace=networks[1])
    wanted = ["gateway 10.9.0.1 at up0 is not found on its network"]
    eventually("it is down", lambda: monitor.bad("GatewayUnreachable") == wanted)
    ip("addr", "add", "10.9.0.1/24", "dev", "down0", namespace=networks[1])
    eventually("it is up", lambda: monitor.bad("GatewayUnreachable") == [])


def test_a_gateway_that_drops_icmp_is_there(networks: tuple[str, str], monitor: Inside) -> None:
    subprocess.run(["ip", "netns", "exec", networks[1], "nft", DROP], check=True)
    seen = monitor.check()
    assert [finding["bad"] for finding in seen["findings"]] == [False] * 4
    assert [(m["name"], m["value"]) for m in seen["metrics"]] == [("gateway_up", 1.0)]


def test_an_ipv6_gateway_is_asked_too(networks: tuple[str, str], monitor: Inside) -> None:
    ip("-6", "route", "add", "default", "via", "fd09::1", namespace=networks[0])
    up = {m["labels"]["gateway"]: m["value"] for m in monitor.check()["metrics"] if m["name"] == "gateway_up"}
    assert up == {"10.9.0.1": 1.0, "fd09::1": 1.0}


def test_a_lost_default_route_is_told(networks: tuple[str, str], monitor: Inside) -> None:
    ip("route", "del", "default", namespace=networks[0])
    assert monitor.bad("GatewayUnreachable") == ["there is no default route"]

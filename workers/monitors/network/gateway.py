"""Whether the gateways of the default routes are there."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from nodedoctor.errors import Undetermined
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options, Percent
from nodedoctor.types import Severity
from workers.ping import Echo, echo, neighbour, provoke

DOWN = ConditionType(
    "GatewayUnreachable",
    reason="GatewayDown",
    ok_reason="GatewaysReachable",
    reasons=("GatewayDown", "NoDefaultRoute", "LinkDown"),
)
LOSS = ConditionType(
    "GatewayLossHigh", reason="EchoesLost", ok_reason="FewEchoesLost", severity=Severity.WARNING
)
SLOW = ConditionType("GatewaySlow", reason="EchoesLate", ok_reason="EchoesInTime", severity=Severity.WARNING)
LABELS = ("gateway", "interface", "family")
UP = Gauge("gateway_up", "1 if the gateway is there", LABELS)
RTT = Gauge("gateway_rtt_seconds", "Mean time until an echo came back", LABELS)
LOST = Gauge("gateway_loss_ratio", "Share of the echoes that did not come back", LABELS)
RTF_UP, RTF_REJECT = 0x1, 0x200


class GatewayOptions(Options, frozen=True):
    """How gateways are asked, and what is expected of them."""

    require_default_route: bool = False
    """A machine without a default route has a problem; by default it may be isolated on purpose."""
    count: Annotated[int, Meta(ge=1, le=20)] = 5
    """Echo requests in one check."""
    timeout: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Seconds to wait for each."""
    loss_threshold: Percent = 40
    """Share of lost echoes that is a problem."""
    latency_threshold: Annotated[float, Meta(gt=0)] = 0.1
    """Mean seconds until an echo comes back that are a problem."""


class Route(msgspec.Struct, frozen=True, order=True):
    """One default route; `gateway` is empty where the interface alone leads on."""

    interface: str
    gateway: str
    family: str


class GatewayMonitor(Monitor[GatewayOptions]):
    """Asks the gateways of all default routes for ICMP echoes; one that is silent is sought as a neighbour.

    Reads /proc/net/route (proc_pid_net(5)) and /proc/net/ipv6_route; neighbours come from rtnetlink(7).
    """

    kind, options_type = "gateway-health-check", GatewayOptions
    conditions = (DOWN, LOSS, SLOW)
    metrics = (UP, RTT, LOST)
    capabilities = ("CAP_NET_RAW",)
    timeout = 20.0

    def check(self) -> Iterator[Observation]:
        """Look at each gateway once."""
        routes = default_routes(self.host.proc / "net")
        if not routes and not self.options.require_default_route:
            raise Undetermined("there is no default route", "NoDefaultRoute")
        yield DOWN.when(not routes, "there is no default route", "NoDefaultRoute")
        yield LOSS.when(False, "")
        yield SLOW.when(False, "")
        with ThreadPoolExecutor(8) as pool:
            for seen in pool.map(lambda route: list(self.look(route)), routes):
                yield from seen

    def look(self, route: Route) -> Iterator[Observation]:
        """One of them."""
        labels = {"gateway": route.gateway, "interface": route.interface, "family": route.family}
        if not route.gateway:
            up = is_up(self.host.sys / "class/net" / route.interface)
            yield UP(float(up), **labels)
            yield DOWN.when(not up, f"{route.interface}, which the default route uses, is down", "LinkDown")
            return
        name = f"gateway {route.gateway} at {route.interface}"
        answer = echo(scoped(route), self.options.count, self.options.timeout)
        there = True if answer and answer.loss < 1 else found_as_neighbour(route)
        if there is None:
            why = "answers no echo" if answer else "may not be asked for echoes (CAP_NET_RAW is missing)"
            yield DOWN.unknown(f"{name} {why} and is not known as a neighbour", "NoAnswer")
            return
        yield UP(float(there), **labels)
        yield DOWN.when(not there, f"{name} is not found on its network")
        if answer and answer.loss < 1:
            yield from self.judge(answer, name, labels)

    def judge(self, answer: Echo, name: str, labels: dict[str, str]) -> Iterator[Observation]:
        """How well it answers."""
        limit, latest = self.options.loss_threshold, self.options.latency_threshold
        yield RTT(answer.rtt, **labels)
        yield LOST(answer.loss, **labels)
        yield LOSS.when(answer.loss * 100 >= limit, f"{name} loses {limit:g} % of echoes or more")
        yield SLOW.when(answer.rtt >= latest, f"{name} takes {latest:g} s or more to answer")


def default_routes(folder: Path) -> list[Route]:
    """All of them, of both families."""
    found = set()
    for line in lines(folder / "route")[1:]:
        name, target, gateway, flags, *rest = line.split()
        if int(target, 16) == int(rest[3], 16) == 0 and int(flags, 16) & (RTF_UP | RTF_REJECT) == RTF_UP:
            address = socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))
            found.add(Route(name, "" if address == "0.0.0.0" else address, "ipv4"))  # noqa: S104 - no binding
    for line in lines(folder / "ipv6_route"):
        target, length, _, _, gateway, _, _, _, flags, name = line.split()
        if int(target, 16) == int(length, 16) == 0 and int(flags, 16) & (RTF_UP | RTF_REJECT) == RTF_UP:
            hop = int(gateway, 16)
            found.add(Route(name, str(IPv6Address(hop)) if hop else "", "ipv6"))
    return sorted(found)


def lines(path: Path) -> list[str]:
    """The lines of a file; none where the kernel lacks the family."""
    return path.read_text().splitlines() if path.exists() else []


def scoped(route: Route) -> str:
    """The gateway's address, with its interface where it is valid on that alone."""
    return f"{route.gateway}%{route.interface}" if route.gateway.startswith("fe80") else route.gateway


def found_as_neighbour(route: Route) -> bool | None:
    """Whether the kernel finds it, after it was made to look; it tries for three seconds."""
    provoke(route.gateway, route.interface)
    deadline = time.monotonic() + 4
    found = neighbour(route.gateway, route.interface)
    while not found and time.monotonic() < deadline:
        time.sleep(0.2)
        found = neighbour(route.gateway, route.interface)
    return found


def is_up(path: Path) -> bool:
    """Whether an interface works; tunnels do not tell."""
    return lines(path / "operstate") in (["up"], ["unknown"])

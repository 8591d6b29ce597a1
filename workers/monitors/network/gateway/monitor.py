"""Whether the gateways of this node are there, lose packets, or are slow."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.types import Severity
from workers.monitors.network.gateway import neighbour
from workers.monitors.network.gateway.routes import Hop, default_hops, way_to
from workers.ping import PAUSE, Echo, echo

DOWN = ConditionType(
    "GatewayUnreachable",
    reason="GatewayDown",
    ok_reason="GatewaysReachable",
    reasons=("GatewayDown", "LinkDown", "NoDefaultRoute", "NoRoute"),
)
LOSS = ConditionType(
    "GatewayLossHigh", reason="EchoesLost", ok_reason="FewEchoesLost", severity=Severity.WARNING
)
SLOW = ConditionType("GatewaySlow", reason="EchoesLate", ok_reason="EchoesInTime", severity=Severity.WARNING)
LABELS = ("gateway", "interface", "family")
UP = Gauge("gateway_up", "1 if the gateway is there", LABELS)
RTT = Gauge("gateway_rtt_seconds", "Mean time until an echo came back", LABELS)
LOST = Gauge("gateway_loss_ratio", "Share of the echoes that did not come back", LABELS)
LONGEST = 12.0
"""Seconds for all echoes of one gateway; what the neighbours' table and TCP take comes on top."""


class GatewayOptions(Options, frozen=True):
    """Which gateways, how they are asked, and what is expected of them."""

    gateways: tuple[str, ...] = ()
    """Addresses; one that is valid on one link alone with its interface, as fe80::1%eth0. Empty: those of all default
    routes, of multipath ones too."""
    require_default_route: bool = False
    """A machine without a default route has a problem; by default it may be isolated on purpose."""
    count: Annotated[int, Meta(ge=1, le=20)] = 5
    """Echo requests in one check."""
    timeout: Duration = "500ms"
    """To wait for each, and for a connection. All echoes together may take 12s."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 53
    """TCP port that is tried where neither echoes nor the neighbours' table tell; to be refused is an answer."""
    loss_threshold: Annotated[float, Meta(gt=0, le=100)] = 40
    """Share of lost echoes that is a problem."""
    latency_threshold: Duration = "100ms"
    """Mean time until an echo comes back that is a problem."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Gateways that are none, and times that do not fit."""
        for index, text in enumerate(self.gateways):
            try:
                scope = ip_address(text).is_link_local and ":" in text and "%" not in text
            except ValueError:
                yield f"gateways[{index}]", f"found {text!r}, allowed: an address"
                continue
            if scope:
                yield f"gateways[{index}]", f"found {text!r}, allowed: {text}%INTERFACE"
        if len(set(self.gateways)) < len(self.gateways):
            yield "gateways", "holds a gateway twice"
        if not 0 < seconds(self.timeout) <= LONGEST / self.count - PAUSE:
            allowed = f"more than 0, and {LONGEST:g}s for all echoes together"
            yield "timeout", f"found {self.timeout!r}, allowed: {allowed}"
        if seconds(self.latency_threshold) <= 0:
            yield "latencyThreshold", f"found {self.latency_threshold!r}, allowed: more than 0"


class Look(msgspec.Struct, frozen=True):
    """What was found of one gateway: whether it is there, how it answers echoes, and why it doesn't."""

    there: bool | None
    answer: Echo | None = None
    why: str = ""
    reason: str = ""


class GatewayMonitor(Monitor[GatewayOptions]):
    """Asks gateways for ICMP echoes; those that give none are sought as neighbours, and at last by TCP.

    Routes and neighbours come from rtnetlink(7), so they are those of the agent's own network namespace. Many routers
    do not answer echoes, or few: one that is a neighbour is there.
    """

    kind, options_type = "gateway-health-check", GatewayOptions
    conditions = (DOWN, LOSS, SLOW)
    metrics = (UP, RTT, LOST)
    capabilities = ("CAP_NET_RAW",)
    # 12 s for echoes, 9 for neighbours, 1 or so to connect, all gateways at once.
    timeout = 30.0

    def __init__(self, name: str, options: GatewayOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.answered: set[Hop] = set()

    def check(self) -> Iterator[Observation]:
        """Look at each gateway once."""
        hops: list[Hop] = []
        if self.options.require_default_route or not self.options.gateways:
            hops = routes()
            if not hops and not self.options.require_default_route:
                raise Undetermined("there is no default route", "NoDefaultRoute")
            yield DOWN.when(not hops, "there is no default route", "NoDefaultRoute")
        if self.options.gateways:
            found = [way(address) for address in self.options.gateways]
            yield from (one for one in found if isinstance(one, Finding))
            hops = [one for one in found if isinstance(one, Hop)]
        self.answered &= set(hops)
        if not any(hop.gateway for hop in hops):
            yield LOSS.unknown("no gateway can be asked for echoes", "NoGateway")
            yield SLOW.unknown("no gateway can be asked for echoes", "NoGateway")
        for hop, seen in zip(hops, asyncio.run(self.look_at_all(hops)), strict=True):
            yield from self.tell(hop, seen)

    async def look_at_all(self, hops: list[Hop]) -> list[Look]:
        """All of them at once."""
        return await asyncio.gather(*(self.look(hop) for hop in hops))

    async def look(self, hop: Hop) -> Look:
        """One of them."""
        if not is_up(self.host.sys / "class/net" / hop.interface):
            text = f"{hop.interface}, which leads to {hop.gateway or 'everywhere'}, is down"
            return Look(there=False, why=text, reason="LinkDown")
        if not hop.gateway:
            return Look(there=True)
        answer, why = None, "it answers no echo"
        try:
            answer = await echo(hop.scoped, self.options.count, seconds(self.options.timeout))
        except OSError as error:
            why = str(error)
        if answer and answer.loss < 1:
            return Look(there=True, answer=answer)
        there = await neighbour.found(hop.gateway, hop.interface)
        if there is None and await connects(hop.scoped, self.options.port, seconds(self.options.timeout)):
            there = True
        return Look(there, answer, why)

    def tell(self, hop: Hop, seen: Look) -> Iterator[Observation]:
        """What was found of a gateway."""
        labels = {"gateway": hop.gateway, "interface": hop.interface, "family": hop.family}
        name = f"gateway {hop.gateway} at {hop.interface}"
        if seen.there is None:
            text = f"{name}: {seen.why}, it is not known as a neighbour, and silent at TCP port {self.options.port}"
            yield DOWN.unknown(text, "NoAnswer")
        else:
            yield UP(float(seen.there), **labels)
            down = seen.why if seen.reason else f"{name} is not found on its network"
            yield DOWN.when(not seen.there, down, seen.reason)
        if hop.gateway:
            yield from self.judge(hop, seen, name, labels)

    def judge(self, hop: Hop, seen: Look, name: str, labels: dict[str, str]) -> Iterator[Observation]:
        """How well it answers echoes, if it is one that does."""
        limit, latest = self.options.loss_threshold, self.options.latency_threshold
        answer = seen.answer
        if answer and answer.loss < 1:
            self.answered.add(hop)
        if answer is None or hop not in self.answered or not seen.there:
            yield LOSS.unknown(f"{name}: {seen.why}", "NoEchoes")
            yield SLOW.unknown(f"{name}: {seen.why}", "NoEchoes")
            return
        yield LOST(answer.loss, **labels)
        yield LOSS.when(answer.loss * 100 >= limit, f"{name} loses {limit:g} % of echoes or more")
        if answer.loss == 1:
            yield SLOW.unknown(f"{name}: {seen.why}", "NoEchoes")
            return
        yield RTT(answer.rtt, **labels)
        yield SLOW.when(answer.rtt >= seconds(latest), f"{name} takes {latest} or more to answer")


def routes() -> list[Hop]:
    """The next hops of the default routes.

    Raises:
        Undetermined: the kernel does not tell.
    """
    try:
        return default_hops()
    except OSError as error:
        raise Undetermined(
            f"the kernel does not tell its routes: {error.strerror or error}", "NoRoutes"
        ) from error


def way(address: str) -> Hop | Finding:
    """How `address` is reached, or what there is to say if it can't be."""
    try:
        return way_to(address)
    except OSError as error:
        if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
            return DOWN.when(True, f"there is no route to the gateway {address}", "NoRoute")
        text = f"the kernel does not tell the route to the gateway {address}: {error.strerror or error}"
        return DOWN.unknown(text, "NoRoutes")


async def connects(address: str, port: int, limit: float) -> bool:
    """Whether `address` answers an attempt to connect, if only by refusing it."""
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    except OSError:
        return False
    return True


def is_up(path: Path) -> bool:
    """Whether an interface is up and has a carrier, as its folder in /sys says; one that is not seen there may be."""
    try:
        return (path / "carrier").read_text().strip() == "1"
    except FileNotFoundError:
        return True
    except OSError:
        # EINVAL: it was not set up; Documentation/ABI/testing/sysfs-class-net.
        return False

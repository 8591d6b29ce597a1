"""Whether the kernel forwards packets, and knows where to send what is for elsewhere."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from nodedoctor.monitor import ConditionType, Finding, Monitor, Observation, Options
from nodedoctor.types import Severity

FORWARDING = ConditionType("IPForwardingDisabled", reason="ForwardingIsOff", ok_reason="ForwardingIsOn")
BRIDGE = ConditionType(
    "BridgeFilteringDisabled",
    reason="BridgedPacketsBypassFilter",
    ok_reason="BridgedPacketsFiltered",
    severity=Severity.WARNING,
)
STRICT = ConditionType(
    "ReversePathFilterStrict",
    reason="StrictReversePath",
    ok_reason="NoStrictReversePath",
    severity=Severity.WARNING,
)
ROUTE = ConditionType(
    "DefaultRouteMissing",
    reason="NoDefaultRoute",
    ok_reason="DefaultRouteExists",
    warning_reason="DefaultRouteAmbiguous",
    reasons=("NoDefaultRoute", "DefaultRouteLinkDown"),
)
NOT_INTERFACES = {"all", "default", "lo"}
"""Folders beside those of the interfaces that packets come in by from elsewhere."""
RP_FILTER_STRICT = 1
RTF_REJECT = 0x200
SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40


class ForwardingOptions(Options, frozen=True):
    """What is asked for, of which protocols and interfaces."""

    ipv4: bool = True
    """Whether IPv4 is to be forwarded, filtered and routed."""
    ipv6: bool = False
    """Whether IPv6 is."""
    forwarding: bool = True
    """Whether packets must be forwarded (condition IPForwardingDisabled)."""
    interfaces: tuple[str, ...] = ("*",)
    """Those interfaces that have to forward what comes in by them, as shell patterns."""
    bridge_filtering: bool = True
    """Whether iptables must see bridged packets, where br_netfilter is loaded (BridgeFilteringDisabled)."""
    loose_reverse_path: bool = False
    """Whether none of those interfaces may filter strictly by reverse path, IPv4 (ReversePathFilterStrict)."""
    default_route: bool = True
    """Whether there must be a default route in the main table, over an interface that is up (DefaultRouteMissing)."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Something is asked for."""
        if not self.ipv4 and not self.ipv6:
            yield "ipv4", "found false, and ipv6 is false, too: at least one must be true"
        if not self.ipv4 and self.loose_reverse_path:
            yield "looseReversePath", "found true, and ipv4 is false: the filter knows IPv4 alone"
        if not asked_for(self):
            yield "forwarding", "found false, as are all others: at least one condition must be asked for"


def asked_for(options: ForwardingOptions) -> tuple[ConditionType, ...]:
    """The conditions that `options` ask for."""
    asked = {
        FORWARDING: options.forwarding,
        BRIDGE: options.bridge_filtering,
        STRICT: options.loose_reverse_path,
        ROUTE: options.default_route,
    }
    return tuple(condition for condition, wanted in asked.items() if wanted)


class Route(msgspec.Struct, frozen=True):
    """A default route that leads somewhere."""

    interface: str
    metric: int


class ForwardingMonitor(Monitor[ForwardingOptions]):
    """Looks at the settings and routes without which pods are not reached, or reach nothing.

    Reads the settings of Documentation/networking/ip-sysctl.rst, and of br_netfilter, below /proc/sys/net, the
    default routes in /proc/net/route and /proc/net/ipv6_route (proc_pid_net(5)), and the state of their interfaces
    (netdevice(7)), all of the network that it runs in: it needs the host's. Routes of other tables than main are not
    seen for IPv4.
    """

    kind, options_type = "ip-forwarding-health-check", ForwardingOptions
    conditions = (FORWARDING, BRIDGE, STRICT, ROUTE)
    timeout = 5.0

    @classmethod
    def conditions_of(cls, name: str, options: ForwardingOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """Those that are asked for."""
        return asked_for(options)

    def check(self) -> Iterator[Observation]:
        """Look at all that is asked for. What is said of nobody, such as bridges without br_netfilter, is fine."""
        asked = asked_for(self.options)
        for condition in asked:
            yield condition.when(False, "")
        looks = {FORWARDING: self.forwarding, BRIDGE: self.bridge, STRICT: self.strict, ROUTE: self.routes}
        for condition in asked:
            yield from looks[condition]()

    def forwarding(self) -> Iterator[Finding]:
        """Whether packets are forwarded; the switch of an interface matters for IPv4 alone."""
        if self.options.ipv6:
            yield self.switched_on(FORWARDING, "net/ipv6/conf/all/forwarding")
        if self.options.ipv4:
            switch = self.switched_on(FORWARDING, "net/ipv4/ip_forward")
            yield switch
            # It stands for all interfaces: what each of them says is told only where they differ from it.
            for interface in () if switch.bad else self.interfaces():
                with suppress(FileNotFoundError):  # an interface that has just gone
                    on = self.number(f"net/ipv4/conf/{interface}/forwarding")
                    yield FORWARDING.when(not on, f"net.ipv4.conf.{interface}.forwarding is 0")

    def bridge(self) -> Iterator[Finding]:
        """Whether iptables sees bridged packets."""
        for wanted, name in ((self.options.ipv4, "iptables"), (self.options.ipv6, "ip6tables")):
            setting = f"net/bridge/bridge-nf-call-{name}"
            if wanted and (self.host.proc / "sys" / setting).exists():
                yield self.switched_on(BRIDGE, setting)

    def strict(self) -> Iterator[Finding]:
        """Whether packets are dropped that came in by another interface than the answer would leave by."""
        everywhere = self.number("net/ipv4/conf/all/rp_filter")
        for interface in self.interfaces():
            with suppress(FileNotFoundError):  # an interface that has just gone
                own = self.number(f"net/ipv4/conf/{interface}/rp_filter")
                message = f"the reverse path filter (rp_filter) of {interface} is strict"
                # The larger of both counts, and loose is larger than strict.
                yield STRICT.when(max(everywhere, own) == RP_FILTER_STRICT, message)

    def routes(self) -> Iterator[Finding]:
        """Whether there is a default route that can be used."""
        net = self.host.proc / "net"
        if self.options.ipv4:
            found = ipv4_routes(text_of(net / "route"))
            yield self.best_route("IPv4", found)
            yield ROUTE.warn_when(
                len({route.metric for route in found}) < len(found),
                "two IPv4 default routes have the same metric: only one of them is used",
            )
        if self.options.ipv6:
            yield self.best_route("IPv6", ipv6_routes(text_of(net / "ipv6_route")))

    def best_route(self, protocol: str, found: list[Route]) -> Finding:
        """Whether the route that the kernel takes, of those `found`, leads over an interface that is up."""
        down = {route.interface for route in found if not running(route.interface)}
        usable = [route for route in found if route.interface not in down or not self.skips(protocol, route)]
        if not usable:
            reason = "DefaultRouteLinkDown" if found else "NoDefaultRoute"
            return ROUTE.when(
                True, f"there is no {protocol} default route over an interface that is up", reason
            )
        best = min(usable, key=lambda route: route.metric)
        message = f"the {protocol} default route leads over {best.interface}, whose link is down"
        return ROUTE.when(best.interface in down, message, "DefaultRouteLinkDown")

    def skips(self, protocol: str, route: Route) -> bool:
        """Whether the kernel goes on to the next route while the link of this one is down."""
        with suppress(FileNotFoundError):  # an interface that has just gone
            name = f"net/{protocol.lower()}/conf/{route.interface}/ignore_routes_with_linkdown"
            return bool(self.number(name))
        return True

    def switched_on(self, condition: ConditionType, setting: str) -> Finding:
        """Whether `setting`, a path below /proc/sys, is not 0; one that is not there is off."""
        name = setting.replace("/", ".")
        try:
            return condition.when(not self.number(setting), f"{name} is 0")
        except FileNotFoundError:
            return condition.when(True, f"{name} does not exist: the kernel can't do it")

    def number(self, setting: str) -> int:
        """The value of a setting, a path below /proc/sys."""
        return int((self.host.proc / "sys" / setting).read_text())

    def interfaces(self) -> list[str]:
        """The interfaces that the options choose."""
        names = {path.name for path in (self.host.proc / "sys/net/ipv4/conf").iterdir()} - NOT_INTERFACES
        return sorted(n for n in names if any(fnmatchcase(n, pattern) for pattern in self.options.interfaces))


def text_of(table: Path) -> str:
    """The text of a table of routes; empty if the kernel does not have the protocol."""
    try:
        return table.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""


def ipv4_routes(text: str) -> list[Route]:
    """The default routes in the text of /proc/net/route, without those that refuse packets."""
    rows = (line.split() for line in text.splitlines()[1:])
    return [
        Route(interface, int(metric))
        for interface, target, _gateway, flags, _references, _use, metric, mask, *_ in rows
        if int(target, 16) == int(mask, 16) == 0 and not int(flags, 16) & RTF_REJECT
    ]


def ipv6_routes(text: str) -> list[Route]:
    """The default routes in the text of /proc/net/ipv6_route, without those that refuse packets."""
    rows = (line.split() for line in text.splitlines())
    return [
        Route(interface, int(metric, 16))
        for target, length, _source, _bits, _gateway, metric, _references, _use, flags, interface in rows
        if int(target, 16) == int(length, 16) == 0 and not int(flags, 16) & RTF_REJECT
    ]


def running(interface: str) -> bool:
    """Whether `interface` exists and its link is up; netdevice(7)."""
    request = struct.pack("16s24x", interface.encode(errors="surrogateescape"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
    flags: int = struct.unpack_from("H", answer, 16)[0]
    return bool(flags & IFF_RUNNING)

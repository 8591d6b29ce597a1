"""Where packets to everywhere go first, as the kernel's routes say; rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from workers.netlink import aligned, ask, attribute, attributes

RTM_GETROUTE = 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA = 1, 4, 5, 9, 18
RTN_UNICAST = 1
RTM_F_CLONED = 0x200
TABLES = {253, 254}
"""RT_TABLE_DEFAULT and RT_TABLE_MAIN."""
FAMILIES: dict[int, str] = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}
MESSAGE = 12
"""Size of a rtmsg."""


class Hop(msgspec.Struct, frozen=True, order=True):
    """One way out; `gateway` is empty where the interface alone leads on."""

    interface: str
    gateway: str
    family: str
    """Of what is sent there; the gateway's own may be another one."""

    @property
    def scoped(self) -> str:
        """The gateway's address, with its interface where it is valid on that alone."""
        alone = self.gateway and ip_address(self.gateway).is_link_local
        return f"{self.gateway}%{self.interface}" if alone and ":" in self.gateway else self.gateway


def default_hops() -> list[Hop]:
    """The next hops of all default routes, those of multipath routes too.

    Raises:
        OSError: the kernel does not tell.
    """
    found: set[Hop] = set()
    for message in ask(RTM_GETROUTE, bytes(MESSAGE), dump=True):
        family, length, _, _, table, _, _, kind, flags = struct.unpack_from("=8BI", message)
        if (
            family in FAMILIES
            and length == 0
            and table in TABLES
            and kind == RTN_UNICAST
            and not flags & RTM_F_CLONED
        ):
            found.update(hops(attributes(message[MESSAGE:]), FAMILIES[family]))
    return sorted(found)


def hops(route: dict[int, bytes], family: str) -> Iterator[Hop]:
    """The next hops among the attributes of a route for a family."""
    if RTA_OIF in route:
        yield Hop(named(struct.unpack("=i", route[RTA_OIF])[0]), gateway(route), family)
    rest = route.get(RTA_MULTIPATH, b"")
    while len(rest) >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", rest)
        yield Hop(named(index), gateway(attributes(rest[8:length])), family)
        rest = rest[aligned(max(length, 8)) :]


def gateway(hop: dict[int, bytes]) -> str:
    """The address of a next hop, which may be of another family than its route; empty if it has none."""
    packed = hop.get(RTA_GATEWAY) or hop.get(RTA_VIA, b"")[2:]
    return str(ip_address(packed)) if packed else ""


def named(index: int) -> str:
    """The name of an interface."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def way_to(address: str) -> Hop:
    """How packets for the gateway `address`, which may name its interface, leave this node.

    Raises:
        OSError: there is no way.
    """
    bare, _, interface = address.partition("%")
    packed, family = ip_address(bare).packed, socket.AF_INET6 if ":" in bare else socket.AF_INET
    if interface:
        return Hop(interface, bare, FAMILIES[family])
    head = struct.pack("=8BI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    (message,) = ask(RTM_GETROUTE, head + attribute(RTA_DST, packed))
    return Hop(named(struct.unpack("=i", attributes(message[MESSAGE:])[RTA_OIF])[0]), bare, FAMILIES[family])

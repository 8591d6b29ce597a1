"""Whether an address on the network answers: by ICMP echo, or by what the kernel knows of it as a neighbour."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import struct

import icmplib
import msgspec

RTM_NEWNEIGH, RTM_GETNEIGH, NLMSG_DONE = 28, 30, 3
NLM_F_DUMP_REQUEST = 0x301
NDA_DST = 1
THERE = 0x02 | 0x04 | 0x08 | 0x40 | 0x80
"""NUD_REACHABLE, STALE, DELAY, NOARP and PERMANENT; rtnetlink(7)."""
GONE = 0x01 | 0x20
"""NUD_INCOMPLETE and FAILED."""
DISCARD = 9


class Echo(msgspec.Struct, frozen=True):
    """What several echo requests found; the share that was lost, and the mean time of the rest in seconds."""

    loss: float
    rtt: float


def echo(address: str, count: int, timeout: float) -> Echo | None:
    """Ask `address` for echoes with an id of its own; None if this process may not send any."""
    for privileged in (True, False):
        with contextlib.suppress(icmplib.ICMPLibError):
            number = random.randrange(1, 0x10000)
            found = icmplib.ping(address, count, 0.1, timeout, id=number, privileged=privileged)
            return Echo(found.packet_loss, found.avg_rtt / 1000)
    return None


def provoke(address: str, interface: str) -> None:
    """Have the kernel look for the neighbour `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
        target = (
            (address, DISCARD, 0, socket.if_nametoindex(interface)) if ":" in address else (address, DISCARD)
        )
        sender.sendto(b"", target)


def neighbour(address: str, interface: str) -> bool | None:
    """Whether the kernel finds `address` at `interface`; None if it can't tell (yet)."""
    states = 0
    # The interface may have gone meanwhile, and a sandbox may forbid netlink.
    with contextlib.suppress(OSError):
        key = socket.if_nametoindex(interface), ipaddress.ip_address(address).packed
        states = neighbours().get(key, 0)
    return True if states & THERE else False if states & GONE else None


def neighbours() -> dict[tuple[int, bytes], int]:
    """The kernel's table of neighbours: their states by interface and address."""
    found: dict[tuple[int, bytes], int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(1)
        kernel.send(struct.pack("=IHHIIB3xiHBB", 28, RTM_GETNEIGH, NLM_F_DUMP_REQUEST, 1, 0, 0, 0, 0, 0, 0))
        while True:
            data = kernel.recv(1 << 17)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind != RTM_NEWNEIGH:
                    return found
                index, state = struct.unpack_from("=iH", data, 20)
                found[index, destination(data[28:length])] = state
                data = data[length + 3 & ~3 :]


def destination(attributes: bytes) -> bytes:
    """The address among the attributes of a neighbour."""
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == NDA_DST:
            return attributes[4:length]
        attributes = attributes[max(length, 4) + 3 & ~3 :]
    return b""

"""Whether the kernel finds an address on a network that this node is on: arp(7), RFC 4861."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from ipaddress import ip_address

from workers.netlink import ask, attribute

RTM_GETNEIGH = 30
NDA_DST = 1
REACHABLE, FAILED = 0x02, 0x20
"""NUD_REACHABLE and NUD_FAILED of rtnetlink(7)."""
LOOKING = 0x01 | 0x04 | 0x08 | 0x10
"""NUD_INCOMPLETE, STALE, DELAY and PROBE: the kernel is going to know. Without any of them it never looks."""
DISCARD = 9
PATIENCE = 9.0
"""The kernel trusts what it knew for 5 seconds after the first packet, then asks three times, a second apart."""
PAUSE = 0.25


async def found(address: str, interface: str) -> bool | None:
    """Whether `address` is at `interface`, after the kernel was made to look; None if that can't be told.

    An address that it heard of within its reachable time, at most 45 s, counts as found.
    """
    # The interface may have gone meanwhile, a sandbox may forbid netlink, and old kernels don't answer this.
    with contextlib.suppress(OSError):
        index, end = socket.if_nametoindex(interface), time.monotonic() + PATIENCE
        provoke(address, index)
        while True:
            known = state(address, index)
            if known & (REACHABLE | FAILED):
                return bool(known & REACHABLE)
            if not known & LOOKING or time.monotonic() > end:
                return None
            await asyncio.sleep(PAUSE)
    return None


def provoke(address: str, index: int) -> None:
    """Have the kernel look for `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = (address, DISCARD, 0, index) if ":" in address else (address, DISCARD)
    # It may be known already that there is nobody.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", place)


def state(address: str, index: int) -> int:
    """What the kernel knows of a neighbour, as a NUD_ number; 0 if nothing.

    Raises:
        OSError: it does not tell.
    """
    packed = ip_address(address).packed
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    head = struct.pack("=B3xiHBB", family, index, 0, 0, 0)
    try:
        (message,) = ask(RTM_GETNEIGH, head + attribute(NDA_DST, packed))
    except FileNotFoundError:
        return 0
    known: int = struct.unpack_from("=H", message, 8)[0]
    return known

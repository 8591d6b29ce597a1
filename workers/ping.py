"""Whether an address answers ICMP echoes; RFC 792 and RFC 4443."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from typing import Any

import msgspec
from icmplib import (
    AsyncSocket,
    ICMPLibError,
    ICMPRequest,
    ICMPSocketError,
    ICMPv4Socket,
    ICMPv6Socket,
    SocketPermissionError,
)

PAUSE = 0.1
IDS = itertools.count(random.randrange(0x10000))
"""Ids of echoes that this process sends by raw sockets; those of two at the same time differ."""
FORBIDDEN = "ICMP echoes may not be sent: it takes CAP_NET_RAW, or a group within net.ipv4.ping_group_range"


class Echo(msgspec.Struct, frozen=True):
    """What several echo requests found; the share that was lost, and the mean time of the rest in seconds."""

    loss: float
    rtt: float


async def echo(address: str, count: int, timeout: float) -> Echo:
    """Ask `address` for `count` echoes, one after the other, and wait `timeout` seconds at most for each.

    Raises:
        PermissionError: this process may not send any.
        OSError: it can't, for another reason on this machine.
    """
    times = []
    with AsyncSocket(opened(address)) as sock:
        try:
            # What comes from other addresses never arrives, and errors of routers on the way do at once.
            sock.sock.connect(place(address))
        except OSError:
            return Echo(1.0, 0.0)
        number = next(IDS) % 0x10000
        for sequence in range(count):
            await asyncio.sleep(PAUSE if sequence else 0)
            if (took := await one(sock, ICMPRequest(address, number, sequence), timeout)) is not None:
                times.append(took)
    return Echo(1 - len(times) / count, sum(times) / len(times) if times else 0.0)


def place(address: str) -> tuple[Any, ...]:
    """`address` as a socket takes it; connect(2) forgets the interface of one that names it otherwise."""
    return socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]


def opened(address: str) -> ICMPv4Socket | ICMPv6Socket:
    """A socket for echoes: as the kernel lets groups have it, see icmp(7), else a raw one."""
    family = ICMPv6Socket if ":" in address else ICMPv4Socket
    try:
        return family(privileged=False)
    except SocketPermissionError:
        pass
    except ICMPSocketError as error:
        raise OSError(str(error)) from error
    try:
        return family(privileged=True)
    except SocketPermissionError as error:
        raise PermissionError(FORBIDDEN) from error


async def one(sock: AsyncSocket, request: ICMPRequest, limit: float) -> float | None:
    """The seconds until the echo of `request` was back; None if it was lost."""
    began = time.monotonic()
    try:
        sock.send(request)
        reply = await sock.receive(request, limit)
        reply.raise_for_status()
    except ICMPLibError:
        return None
    return time.monotonic() - began

"""One probe of one peer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Sequence

import dns.exception
import msgspec

from workers.ping import echo
from workers.resolving import addresses, told
from workers.stream import NO_WAY

ECHOES = 2


class Peer(msgspec.Struct, frozen=True, order=True):
    """Another node. Without a port it is asked for echoes."""

    name: str
    host: str
    port: int = 0

    @property
    def shown(self) -> str:
        """Its name, and where it is."""
        host = f"[{self.host}]" if self.port and ":" in self.host else self.host
        where = f"{host}:{self.port}" if self.port else host
        return where if self.name in {self.host, where} else f"{self.name} ({where})"


class Result(msgspec.Struct, frozen=True):
    """Whether a peer is reachable, None if that can't be said; the seconds that it took, or what went wrong."""

    reachable: bool | None
    rtt: float = 0.0
    reason: str = ""
    message: str = ""


NO_ANSWER = Result(reachable=False, reason="NoAnswer")


async def probe_all(peers: Sequence[Peer], limit: float) -> list[Result]:
    """What a probe of each peer finds, in their order, after `limit` seconds at most."""
    return await asyncio.gather(*(probe(peer, limit) for peer in peers))


async def probe(peer: Peer, limit: float) -> Result:
    """Look once whether `peer` is there. Whose name is not known can't be said to be unreachable.

    Raises:
        PermissionError: no echoes may be sent.
    """
    try:
        async with asyncio.timeout(limit):
            host = (await addresses(peer.host, limit))[0]
            return await (connect(host, peer.port) if peer.port else ask(host, limit))
    except TimeoutError:
        return NO_ANSWER
    except dns.exception.DNSException as error:
        text = f"the name {peer.host} can't be resolved: {told(error)}"
        return Result(reachable=None, reason="NameNotResolved", message=text)
    except OSError as error:
        return failed(peer, error)


def failed(peer: Peer, error: OSError) -> Result:
    """What an error means; those of this machine say nothing about the peer.

    Raises:
        PermissionError: it is none of the kernel's, but that no echoes may be sent at all.
    """
    if error.errno in NO_WAY:
        return Result(reachable=False, reason="NoRoute")
    if isinstance(error, PermissionError) and not error.errno:
        raise error
    if error.errno == errno.ETIMEDOUT:
        return NO_ANSWER
    text = os.strerror(error.errno) if error.errno else str(error)
    return Result(reachable=None, reason="NotProbed", message=f"{peer.shown} can't be probed: {text}")


async def connect(host: str, port: int) -> Result:
    """Connect to a port; whoever refuses or resets the connection is there.

    Raises:
        OSError: it did neither.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        began = time.monotonic()
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return Result(reachable=True, rtt=time.monotonic() - began)


async def ask(host: str, limit: float) -> Result:
    """Ask for echoes; one is enough.

    Raises:
        OSError: none can be sent.
    """
    found = await echo(host, ECHOES, limit / ECHOES)
    return Result(reachable=True, rtt=found.rtt) if found.loss < 1 else NO_ANSWER

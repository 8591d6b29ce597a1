"""Asking time servers by SNTP (RFC 4330)."""

from __future__ import annotations

import secrets
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack
from urllib.parse import urlsplit

import msgspec

PORT = 123
PACKET = struct.Struct("!BBbb11I")
"""Leap, version and mode; stratum; poll; precision; delay, dispersion, reference; four timestamps of two words."""
VERSION_4_CLIENT = 0x23
SERVER_MODE = 4
ALARM = 3
REFUSALS = {b"DENY", b"RSTR", b"RATE"}
"""Kisses of death that ask a client to be quiet; the others tell why a server does not know the time."""
UNIX_EPOCH = 2208988800
"""Seconds from 1900 to 1970."""


class Answer(msgspec.Struct, frozen=True):
    """What a server says, in seconds; or why it says nothing.

    Attributes:
        offset: What would have to be added to this machine's clock.
        uncertainty: How wrong `offset` can be, if one way took all the time.
        failure: Why there is no time; empty if there is.
        refused: Whether the server does not want to be asked again.
    """

    offset: float = 0.0
    uncertainty: float = 0.0
    failure: str = ""
    refused: bool = False

    @property
    def came(self) -> bool:
        """Whether there is a time."""
        return not self.failure


class Query(msgspec.Struct, frozen=True):
    """A question under way: to which server, the number that its answer has to repeat, and when it was sent."""

    server: str
    number: bytes
    sent: float


def address(server: str) -> tuple[str, int]:
    """Name and port of NAME, NAME:PORT or [ADDRESS]:PORT.

    Raises:
        ValueError: `server` is none of them.
    """
    parts = urlsplit(f"//{server}")
    if not parts.hostname or parts.netloc != server or "@" in server or parts.port == 0:
        raise ValueError("allowed: NAME, NAME:PORT, [ADDRESS] or [ADDRESS]:PORT")
    parts.hostname.encode("idna")
    return parts.hostname, parts.port or PORT


def ask(servers: Iterable[str], within: float) -> dict[str, Answer]:
    """Ask all `servers` at once and give what each answers within so many seconds.

    Resolving their names is not part of that time.
    """
    answers: dict[str, Answer] = {}
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for server in servers:
            try:
                sock = stack.enter_context(connected(server))
                waiting.register(sock, selectors.EVENT_READ, send(sock, server))
            except OSError as error:
                answers[server] = Answer(failure=error.strerror or str(error))
        deadline = time.monotonic() + within
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                assert isinstance(key.fileobj, socket.socket)
                answer = receive(key.fileobj, key.data)
                if answer:
                    answers[key.data.server] = answer
                    waiting.unregister(key.fileobj)
        silent = [key.data.server for key in waiting.get_map().values()]
    return answers | {server: Answer(failure="no answer in time") for server in silent}


def connected(server: str) -> socket.socket:
    """A socket that gets what comes from `server` alone, and its refusals.

    Raises:
        OSError: there is no such name, or no way there.
    """
    host, port = address(server)
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock


def send(sock: socket.socket, server: str) -> Query:
    """Ask. A random number instead of the time tells neither the time here nor what a forged answer must repeat."""
    number = secrets.token_bytes(8)
    sent = time.time()
    sock.send(bytes([VERSION_4_CLIENT]) + bytes(39) + number)
    return Query(server, number, sent)


def receive(sock: socket.socket, query: Query) -> Answer | None:
    """What has come, or None if it is no answer to `query`."""
    try:
        data = sock.recv(1024, socket.MSG_DONTWAIT)
    except BlockingIOError:  # a packet whose checksum was wrong
        return None
    except OSError as error:
        return Answer(failure=error.strerror or str(error))
    return read(data, query, time.time())


def read(data: bytes, query: Query, received: float) -> Answer | None:
    """What the packet `data` says that came at `received` (Unix time), or None if it is no answer to `query`.

    See RFC 4330, sections 5 (checks and calculation) and 8 (the kiss of death).
    """
    if len(data) < PACKET.size or data[0] & 7 != SERVER_MODE or data[24:32] != query.number:
        return None
    _, stratum, _, _, _, _, reference, *stamps = PACKET.unpack_from(data)
    kiss = struct.pack("!I", reference)
    if stratum == 0 and kiss in REFUSALS:
        return Answer(failure=f"it refuses to answer ({kiss.decode()})", refused=True)
    arrived, left = unix_time(*stamps[4:6]), unix_time(*stamps[6:8])
    if data[0] >> 6 == ALARM or stratum not in range(1, 16) or not any(stamps[6:8]):
        return Answer(failure="it does not know the time itself")
    offset = ((arrived - query.sent) + (left - received)) / 2
    travelled = (received - query.sent) - (left - arrived)
    return Answer(offset, max(0.0, travelled / 2))


def unix_time(whole: int, fraction: int) -> float:
    """Seconds since 1970 of a timestamp, which counts anew in 2036; RFC 4330, section 3."""
    era = 0 if whole & 0x80000000 else 1 << 32
    return whole + era - UNIX_EPOCH + fraction / (1 << 32)

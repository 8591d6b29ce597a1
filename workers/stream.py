"""Connecting and reading with one deadline for everything."""

from __future__ import annotations

import errno
import io
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
"""Errors of connect(2) that say that packets don't get there."""


def left(deadline: float) -> float:
    """Seconds until `deadline`.

    Raises:
        TimeoutError: it has passed.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def dial(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to `host`. Its addresses share the time, so that a silent one leaves some to the next.

    Raises:
        OSError: none of them takes the connection; TimeoutError if not in time.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = TimeoutError()
    for number, (family, _, _, _, address) in enumerate(found):
        try:
            return connected(family, address, left(deadline) / (len(found) - number))
        except OSError as failed:
            error = failed
    raise error


def connected(family: int, address: tuple[Any, ...], within: float) -> socket.socket:
    """A connection to one address."""
    sock = socket.socket(family)
    try:
        sock.settimeout(within)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


class DeadlineSocket(io.RawIOBase):
    """A socket as a file whose every read has what is left of one deadline: a trickle does not prolong it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The file that http.client reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Like socket.recv_into.

        Raises:
            TimeoutError: the deadline has passed.
        """
        self.sock.settimeout(left(self.deadline))
        return self.sock.recv_into(buffer)

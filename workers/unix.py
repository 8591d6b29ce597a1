"""A conversation over a Unix socket, with one deadline for all of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.stream import left


class Stream:
    """A connected socket; what is sent and received shares one deadline, in seconds of time.monotonic."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline

    def within(self) -> socket.socket:
        """The socket, with what is left of the time for its next call.

        Raises:
            TimeoutError: nothing is left.
        """
        self.sock.settimeout(left(self.deadline))
        return self.sock

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self.within().sendall(data)

    def receive(self) -> bytes:
        """What comes next.

        Raises:
            ConnectionError: the other side has closed the connection.
        """
        data = self.within().recv(65536)
        if not data:
            raise ConnectionError("closed before there was a whole answer")
        return data


@contextmanager
def connected(path: Path, deadline: float) -> Iterator[Stream]:
    """A conversation with who listens at `path`.

    Raises:
        TimeoutError: the deadline has passed, or so many connections wait that there is no place for this one.
        OSError: connect(2) failed.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        stream = Stream(sock, deadline)
        try:
            stream.within().connect(str(path))
        except BlockingIOError as error:
            raise TimeoutError from error
        yield stream

"""Takes a TCP port, now or when whoever has it lets it go."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator

FIRST, LONGEST = 1.0, 30.0


def listen(address: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=128)


def explain(error: OSError, address: str, port: int) -> str:
    """Why the port could not be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {address} is taken: free it, or configure another one"
    return f"port {port} on {address} can't be taken: {error.strerror}"


def waits() -> Iterator[float]:
    """Seconds to wait before each further try: doubled up to LONGEST, with jitter."""
    wait = FIRST
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(LONGEST, wait * 2)

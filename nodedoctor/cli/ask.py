"""Asks the running agent over its unix socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any

import msgspec

from nodedoctor.bus.sockets import HEALTH
from nodedoctor.errors import AgentUnreachableError


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def ask(run_dir: Path, path: str, timeout: float = 3.0) -> tuple[int, Any]:
    """The answer of the agent in `run_dir` to GET `path`: its HTTP status, and its body as plain values.

    Raises:
        AgentUnreachableError: nobody answers there within `timeout` seconds.
    """
    connection = UnixConnection(run_dir / HEALTH, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, msgspec.json.decode(response.read())
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        where = run_dir / HEALTH
        msg = f"no agent answers at {where}: {text}; does it run, with this --run-dir and exporters.http enabled?"
        raise AgentUnreachableError(msg) from None
    finally:
        connection.close()

"""One request to the kubelet, with one deadline for all of it."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from workers.stream import DeadlineSocket

LONGEST_BODY = 16 << 20
"""More than the metrics of a kubelet with hundreds of pods."""
CHUNK = 64 * 1024


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes


def ask(url: str, limit: float, token: str = "", context: ssl.SSLContext | None = None) -> Answer:
    """Get `url` within `limit` seconds; redirects are answers, proxies are not used.

    Raises:
        OSError, http.client.HTTPException: no whole answer came; TimeoutError if not in time.
    """
    parts, deadline = urlsplit(url), time.monotonic() + limit
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=limit, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=limit)
    headers = {"User-Agent": "node-doctor", "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.connect()
        connection.request(
            "GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers
        )
        # http.client wants a socket and calls its makefile alone.
        stream: Any = DeadlineSocket(connection.sock, deadline)
        response = http.client.HTTPResponse(stream, method="GET")
        response.begin()
        return Answer(response.status, read(response))
    finally:
        connection.close()


def read(response: http.client.HTTPResponse) -> bytes:
    """The body."""
    chunks, size = [], 0
    while size < LONGEST_BODY and (chunk := response.read1(CHUNK)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)

"""One request to the API server, and what came of it."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from workers.http import LONGEST_BODY, TLS_REASONS, expiry
from workers.kubernetes import Access
from workers.stream import NO_WAY, DeadlineSocket, dial, left

MEANINGS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    ((TimeoutError,), "Timeout", "gives no whole answer in time"),
    ((socket.gaierror,), "NameNotResolved", "has a name that can't be resolved"),
    ((ConnectionRefusedError,), "ConnectionRefused", "refuses connections: nobody listens there"),
    (
        (http.client.RemoteDisconnected, ssl.SSLEOFError, http.client.IncompleteRead),
        "ConnectionClosed",
        "closes the connection without a whole answer",
    ),
    ((ConnectionResetError, BrokenPipeError), "ConnectionReset", "resets the connection"),
    ((ssl.SSLError,), "TLSFailed", "does not agree with this agent on TLS"),
    ((http.client.HTTPException, ValueError), "NotAnAPIServer", "answers with something that is not HTTP"),
)
"""What an exception means, the narrower ones first: reason and message."""


class Answer(msgspec.Struct, frozen=True):
    """What the server said; times in seconds."""

    status: int
    headers: Mapping[str, str]
    body: str
    began: float
    """Wall clock when the request was sent."""
    took: float
    """From connecting to the last byte."""
    answered: float
    """From sending the request to the answer's head."""
    expires: float | None
    """Wall clock when the server's certificate expires."""

    @property
    def date(self) -> float | None:
        """The server's clock in whole seconds, from its header; RFC 9110, section 6.6.1."""
        try:
            return parsedate_to_datetime(self.headers.get("date", "")).timestamp()
        except ValueError:
            return None


class Failure(msgspec.Struct, frozen=True):
    """Why no answer came."""

    reason: str
    message: str


def ask(access: Access, path: str, limit: float) -> Answer | Failure:
    """Request `path`, with one deadline of `limit` seconds for everything.

    Raises:
        OSError: the token or a certificate of ours can't be read.
    """
    token, context = access.token(), access.tls()
    try:
        return converse(access.server, path, token, context, time.monotonic() + limit)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return failure(error)


def converse(url: str, path: str, token: str, context: ssl.SSLContext, deadline: float) -> Answer:
    """Like `ask`, with exceptions for what went wrong."""
    parts, start = urlsplit(url), time.monotonic()
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    with dial(host, port, deadline) as plain:
        plain.settimeout(left(deadline))
        sock = context.wrap_socket(plain, server_hostname=host) if secure else plain
        with sock:
            began, sent = time.time(), time.monotonic()
            sock.sendall(request(parts.netloc, parts.path.rstrip("/") + path, token))
            # http.client wants a socket and calls its makefile alone.
            stream: Any = DeadlineSocket(sock, deadline)
            response = http.client.HTTPResponse(stream, method="GET")
            response.begin()
            answered = time.monotonic() - sent
            body = response.read(LONGEST_BODY).decode(errors="replace")
            headers = {name.lower(): value for name, value in response.getheaders()}
            took = time.monotonic() - start
            return Answer(response.status, headers, body, began, took, answered, expiry(sock))


def request(host: str, path: str, token: str) -> bytes:
    """The bytes to send."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "User-Agent: node-doctor", "Connection: close"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def failure(error: Exception) -> Failure:
    """What `error` means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return of_certificate(error)
    if isinstance(error, OSError) and error.errno in NO_WAY:
        return Failure("NoRoute", f"can't be reached from here: {error.strerror}")
    for kinds, reason, text in MEANINGS:
        if isinstance(error, kinds):
            return Failure(reason, text)
    return Failure("ConnectionFailed", f"can't be asked: {getattr(error, 'strerror', None) or error}")


def of_certificate(error: ssl.SSLCertVerificationError) -> Failure:
    """What is wrong with the server's certificate."""
    match TLS_REASONS.get(error.verify_code):
        case "TLSWrongName":
            return Failure("CertificateOfOtherName", "shows a certificate of another name")
        case "TLSExpired" | "TLSNotYetValid":
            text = "shows a certificate that is not valid now; see its dates and this node's clock"
            return Failure("CertificateExpired", text)
    return Failure("CertificateUntrusted", f"shows a certificate that is not trusted: {error.verify_message}")

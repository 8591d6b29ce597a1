"""One HTTP exchange with one deadline for all of it, and what went wrong with it in words."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import msgspec

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from workers.stream import DeadlineSocket, dial, left

LONGEST_BODY = CHUNK = 64 * 1024
HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
HEADER_VALUE = re.compile(r"[ -~\t]*\Z")
REDIRECTS = (301, 302, 303, 307, 308)
TLS_REASONS = {9: "TLSNotYetValid", 10: "TLSExpired", 62: "TLSWrongName", 64: "TLSWrongName"}
"""X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL."""
FAILURES = (
    *("ConnectionRefused", "NameNotResolved", "RequestFailed", "Timeout"),
    *("TLSFailed", "TLSUntrusted", *sorted(set(TLS_REASONS.values()))),
)
"""The reasons of answers that did not come."""
ALERTS = {"TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate"}
"""Alerts of TLS (RFC 8446, section 6.2) that an operator can do something about."""
TUNNEL_FAILED = "Tunnel connection failed"
"""Said of a proxy that answers CONNECT with another status than 200."""


class Request(msgspec.Struct, frozen=True):
    """What to ask for, and how."""

    url: str
    within: str
    method: str = "GET"
    headers: dict[str, str] = {}
    ca_file: str = ""
    unverified: bool = False
    proxy: str = ""
    """http://[USER:PASSWORD@]HOST:PORT."""
    context: ssl.SSLContext | None = None
    """TLS settings that several requests share: the system's authorities take a megabyte each time."""
    certificate: tuple[str, str] | None = None
    """The files of this client's certificate and its key, shown to a server that wants to know."""
    redirects: int = 0
    """How many of them are followed, one after the other."""
    longest: int = LONGEST_BODY
    """Bytes of the answer's body that are read."""


class Answer(msgspec.Struct, frozen=True):
    """What came back: a status and the beginning of the body, or the reason and message of why nothing did."""

    status: int = 0
    body: bytes = b""
    reason: str = ""
    message: str = ""
    location: str = ""
    """Where to ask instead; RFC 9110, section 10.2.2."""
    expires: float | None = None
    """Wall clock when the server's verified certificate expires."""


def header_faults(headers: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what can't be sent."""
    for name, value in headers.items():
        if not HEADER_NAME.match(name) or not HEADER_VALUE.match(value):
            text = "a header's name is made of letters, digits and -, its value of ASCII in one line"
            yield f"headers.{name}", text


def url_faults(url: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with `url`."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna")
    except (ValueError, UnicodeError) as error:
        yield "url", f"found {url!r}: {error}"
        return
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        yield "url", f"found {url!r}, allowed: http://HOST[:PORT][/PATH] or https://..."
    if parts.username or parts.password:
        yield "url", "holds credentials; send them as a header instead"
    if not re.match(r"[!-~]*\Z", parts.path + parts.query):
        yield "url", f"found {url!r}: blanks and what is not ASCII must be written as %XX"


def exchange(request: Request) -> Answer:
    """Send the request and read the answer.

    Raises:
        Undetermined: this client's certificate can't be used.
    """
    deadline = time.monotonic() + seconds(request.within)
    answer = attempt(request, deadline)
    return followed(request, answer, request.redirects, deadline) if request.redirects else answer


def attempt(request: Request, deadline: float) -> Answer:
    """Ask one server."""
    try:
        return converse(request, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return failure(error, request.within)


def followed(request: Request, answer: Answer, most: int, deadline: float) -> Answer:
    """What comes in the end, after at most so many redirects from `answer` to `request` on."""
    if answer.status not in REDIRECTS or not answer.location:
        return answer
    if most == 0:
        text = f"redirects more than {request.redirects} times"
        return Answer(answer.status, reason="TooManyRedirects", message=text)
    try:
        url = urljoin(request.url, answer.location)
    except ValueError:
        url = ""
    if not url.isprintable() or any(url_faults(url)):
        text = "redirects to what is no http:// or https:// address without credentials"
        return Answer(answer.status, reason="RedirectUnusable", message=text)
    onward = redirected(request, url, answer.status)
    answer = attempt(onward, deadline)
    if answer.reason:
        text = "{}://{}".format(*urlsplit(url)[:2])
        return msgspec.structs.replace(answer, message=f"redirects to {text}: {answer.message}")
    return followed(onward, answer, most - 1, deadline)


def redirected(request: Request, url: str, status: int) -> Request:
    """`request` for `url`; another server gets neither its headers nor the client's certificate."""
    if status == http.client.SEE_OTHER and request.method != "HEAD":
        request = msgspec.structs.replace(request, method="GET")
    if origin(url) != origin(request.url):
        request = msgspec.structs.replace(request, headers={}, certificate=None)
    return msgspec.structs.replace(request, url=url)


def origin(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port; RFC 6454."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def failure(error: Exception, within: str) -> Answer:
    """What an error of an exchange means."""
    match error:
        case TimeoutError():
            return Answer(reason="Timeout", message=f"no whole answer within {within}")
        case socket.gaierror():
            return Answer(reason="NameNotResolved", message=f"the name can't be resolved: {error.strerror}")
        case ConnectionRefusedError():
            return Answer(reason="ConnectionRefused", message="nobody listens there")
        case ssl.SSLCertVerificationError():
            reason = TLS_REASONS.get(error.verify_code, "TLSUntrusted")
            return Answer(reason=reason, message=f"TLS failed: {error.verify_message}")
        case ssl.SSLError():
            text = error.reason or str(error)
            return Answer(reason="TLSFailed", message=f"TLS failed: {ALERTS.get(text, text)}")
        case http.client.HTTPException() if not isinstance(error, OSError):
            # Its text holds what came, which may be something else each time.
            text = f"no whole HTTP answer ({type(error).__name__})"
        case _:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Answer(reason="RequestFailed", message=f"the request failed: {text}")


def converse(request: Request, deadline: float) -> Answer:
    """Like `exchange`, with exceptions for what went wrong."""
    parts, proxy = urlsplit(request.url), urlsplit(request.proxy)
    connection = connection_to(request, deadline)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "node-doctor", "Connection": "close", **request.headers}
        if request.proxy and parts.scheme == "http":
            target = f"http://{parts.netloc}{target}"
            headers = {**headers, **authorization(proxy)}
        try:
            connection.request(request.method, target, headers=headers)
        except OSError:
            read_alert(connection.sock, deadline)
            raise
        expires = expiry(connection.sock)
        response = response_of(connection.sock, request.method, deadline)
        location = response.getheader("Location", "")
        return Answer(response.status, read(response, request.longest), location=location, expires=expires)
    finally:
        connection.close()


def connection_to(request: Request, deadline: float) -> http.client.HTTPConnection:
    """A connection to the server, perhaps through a proxy; http.client would make it without one deadline."""
    parts, proxy = urlsplit(request.url), urlsplit(request.proxy)
    host, secure = parts.hostname or "", parts.scheme == "https"
    context = tls(request) if secure else None
    connection = (
        http.client.HTTPSConnection(host, parts.port, context=context)
        if secure
        else http.client.HTTPConnection(host, parts.port)
    )
    near, port = (proxy.hostname or "", proxy.port or 80) if request.proxy else (host, connection.port)
    connection.sock = dial(near, port, deadline)
    try:
        if secure and request.proxy:
            tunnel(connection, authorization(proxy), deadline)
        connection.sock.settimeout(left(deadline))
        if context:
            connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    except BaseException:
        connection.close()
        raise
    return connection


def read_alert(sock: socket.socket, deadline: float) -> None:
    """Raise what a TLS server has said before it closed, where writing to it fails.

    In TLS 1.3 it looks at the client's certificate when the client believes that the handshake is over.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(left(deadline))
        # Without an alert, the failure to write says more.
        with suppress(TimeoutError, ConnectionError, ssl.SSLEOFError):
            sock.recv(1)


def tunnel(connection: http.client.HTTPConnection, headers: dict[str, str], deadline: float) -> None:
    """Have the proxy at the other end connect to the server.

    Raises:
        OSError: it refuses.
    """
    place = f"[{connection.host}]" if ":" in connection.host else connection.host
    target = f"{place}:{connection.port}"
    connection.sock.settimeout(left(deadline))
    asking = http.client.HTTPConnection(connection.host, connection.port)
    asking.sock = connection.sock
    asking.request("CONNECT", target, headers={"Host": target, **headers})
    response = response_of(connection.sock, "CONNECT", deadline)
    if response.status != http.client.OK:
        raise OSError(f"{TUNNEL_FAILED}: {response.status} {response.reason}")


def response_of(sock: socket.socket, method: str, deadline: float) -> http.client.HTTPResponse:
    """The head of the answer that comes from `sock`."""
    # http.client wants a socket and calls its makefile alone.
    stream: Any = DeadlineSocket(sock, deadline)
    response = http.client.HTTPResponse(stream, method=method)
    response.begin()
    return response


def authorization(proxy: SplitResult) -> dict[str, str]:
    """The header that shows a proxy who asks."""
    if proxy.username is None:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(words.encode()).decode()}"}


def expiry(sock: socket.socket) -> float | None:
    """When the server's certificate expires; None without a verified one."""
    certificate = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) if certificate else None


def read(response: http.client.HTTPResponse, longest: int) -> bytes:
    """The first `longest` bytes of the body."""
    body = bytearray()
    while len(body) < longest and (chunk := response.read1(min(CHUNK, longest - len(body)))):
        body += chunk
    return bytes(body)


def tls(request: Request) -> ssl.SSLContext:
    """The TLS settings that `request` asks for."""
    if request.context:
        return request.context
    if request.unverified:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=request.ca_file or None)
    if request.certificate:
        show(context, *request.certificate)
    return context


def show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Have clients with `context` show a certificate.

    Raises:
        Undetermined: it can't be used.
    """
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key or None, password="")
    except OSError as error:
        what = getattr(error, "reason", None) or error.strerror
        text = f"the client certificate {certificate} or its key can't be used: {what}"
        raise Undetermined(text, "ClientCertificateUnusable") from error

"""Whether an HTTP server answers as it should."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import condition_name
from workers.stream import DeadlineSocket

UP = Gauge("http_up", "1 if the last request was answered as expected")
CODE = Gauge("http_status_code", "Status code of the last answer, 0 without one")
DURATION = Gauge("http_response_seconds", "Time from connecting to the last byte that was read")
LONGEST_BODY = 64 * 1024
HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
HEADER_VALUE = re.compile(r"[ -~\t]*\Z")


class HttpOptions(Options, frozen=True):
    """What to ask for, and what is expected."""

    url: str
    """http:// or https://, without credentials."""
    expected_status_code: int | tuple[int, ...] = 200
    method: str = "GET"
    """GET or HEAD."""
    headers: dict[str, str] = {}
    expected_body: str = ""
    """A regular expression (RE2) that must be found in the first 64 KiB of the body."""
    request_timeout: Duration = "5s"
    """For the whole exchange, however slowly the answer comes."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    insecure_skip_verify: bool = False
    """Accept any certificate, for any name."""
    condition: ConditionName | None = None
    """The condition's name; by default it is made of the monitor's: kubelet-health gives KubeletUnhealthy."""
    reason: str = ""
    """The condition's reason while it is True; by default what went wrong: Timeout, UnexpectedStatus..."""
    ok_reason: str = "AnswersAsExpected"
    """The condition's reason while it is False."""
    ok_message: str = ""
    """The condition's message while it is False."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What makes a request impossible."""
        yield from url_faults(self.url)
        if self.method not in {"GET", "HEAD"}:
            yield "method", f"found {self.method!r}, allowed: GET, HEAD"
        if seconds(self.request_timeout) <= 0:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: more than 0"
        if self.expected_status_code == ():
            yield "expectedStatusCode", "is empty: no answer could be right"
        for name, value in self.headers.items():
            if not HEADER_NAME.match(name) or not HEADER_VALUE.match(value):
                yield (
                    f"headers.{name}",
                    "a header's name is made of letters, digits and -, its value of ASCII in one line",
                )
        if "\0" in self.ca_file:
            yield "caFile", "holds a NUL"
        try:
            compile_pattern(self.expected_body)
        except ValueError as error:
            yield "expectedBody", str(error)


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


class Answer(msgspec.Struct, frozen=True):
    """What came back: a status and the beginning of the body, or the reason and message of why nothing did."""

    status: int = 0
    body: bytes = b""
    reason: str = ""
    message: str = ""


class HttpMonitor(Monitor[HttpOptions]):
    """Sends one request and compares the answer. Redirects are answers like others; proxies are not used."""

    kind, options_type = "http-health-check", HttpOptions
    metrics = (UP, CODE, DURATION)

    @classmethod
    def conditions_of(cls, name: str, options: HttpOptions) -> tuple[ConditionType, ...]:
        """One condition, named by the options or for the monitor."""
        kind = options.condition or condition_name(name)
        return (
            ConditionType(kind, options.reason or "RequestFailed", options.ok_reason, options.ok_message),
        )

    def check(self) -> Iterator[Observation]:
        """Ask once."""
        (condition,) = self.conditions_of(self.name, self.options)
        began = time.monotonic()
        answer = exchange(self.options)
        yield DURATION(time.monotonic() - began)
        yield CODE(answer.status)
        reason, message = verdict(self.options, answer)
        yield UP(float(not reason))
        yield condition.when(bool(reason), f"{self.options.url}: {message}", self.options.reason or reason)


def verdict(options: HttpOptions, answer: Answer) -> tuple[str, str]:
    """What is wrong with `answer`, as reason and message; both empty if nothing is."""
    expected = options.expected_status_code
    codes = (expected,) if isinstance(expected, int) else expected
    if answer.reason:
        return answer.reason, answer.message
    if answer.status not in codes:
        wanted = " or ".join(str(code) for code in codes)
        return "UnexpectedStatus", f"answered {answer.status}, expected {wanted}"
    if options.expected_body and not compile_pattern(options.expected_body).search(answer.body):
        return "UnexpectedBody", f"the body does not match {options.expected_body!r}"
    return "", ""


def exchange(options: HttpOptions) -> Answer:
    """Send the request and read the answer, with one deadline for all of it."""
    limit = seconds(options.request_timeout)
    try:
        return converse(options, time.monotonic() + limit)
    except TimeoutError:
        return Answer(reason="Timeout", message=f"no whole answer within {options.request_timeout}")
    except socket.gaierror as error:
        return Answer(reason="NameNotResolved", message=f"the name can't be resolved: {error.strerror}")
    except ConnectionRefusedError:
        return Answer(reason="ConnectionRefused", message="nobody listens there")
    except ssl.SSLError as error:
        text = getattr(error, "verify_message", "") or error.reason or str(error)
        return Answer(reason="TLSFailed", message=f"TLS failed: {text}")
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Answer(reason="RequestFailed", message=f"the request failed: {text}")


def converse(options: HttpOptions, deadline: float) -> Answer:
    """Like `exchange`, with exceptions for what went wrong."""
    parts = urlsplit(options.url)
    host, left = parts.hostname or "", max(0.001, deadline - time.monotonic())
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, parts.port, timeout=left, context=tls(options))
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=left)
    try:
        connection.connect()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "node-doctor", "Connection": "close", **options.headers}
        connection.request(options.method, target, headers=headers)
        # http.client wants a socket and calls its makefile alone.
        stream: Any = DeadlineSocket(connection.sock, deadline)
        response = http.client.HTTPResponse(stream, method=options.method)
        response.begin()
        return Answer(response.status, read(response))
    finally:
        connection.close()


def read(response: http.client.HTTPResponse) -> bytes:
    """The beginning of the body."""
    body = b""
    while len(body) < LONGEST_BODY and (chunk := response.read1(LONGEST_BODY - len(body))):
        body += chunk
    return body


def tls(options: HttpOptions) -> ssl.SSLContext:
    """The TLS settings that `options` ask for."""
    context = ssl.create_default_context(cafile=options.ca_file or None)
    if options.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

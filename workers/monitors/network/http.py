"""Whether an HTTP server answers as it should."""

from __future__ import annotations

import time
from collections.abc import Iterator

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import condition_name
from workers.http import FAILURES, Answer, Request, exchange, header_faults, url_faults

UP = Gauge("http_up", "1 if the last request was answered as expected")
CODE = Gauge("http_status_code", "Status code of the last answer, 0 without one")
DURATION = Gauge("http_response_seconds", "Time from connecting to the last byte that was read")

REASONS = (*FAILURES, "RedirectUnusable", "TooManyRedirects", "UnexpectedBody", "UnexpectedStatus")
METHODS = ("GET", "HEAD", "OPTIONS")
MOST_REDIRECTS = 10


class HttpOptions(Options, frozen=True):
    """What to ask for, and what is expected."""

    url: str
    """http:// or https://, without credentials."""
    expected_status_code: int | tuple[int, ...] = 200
    method: str = "GET"
    """GET, HEAD or OPTIONS."""
    headers: dict[str, str] = {}
    expected_body: str = ""
    """A regular expression (RE2) that must be found in the first 64 KiB of the body."""
    request_timeout: Duration = "5s"
    """For the whole exchange, however slowly the answer comes."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    client_cert_file: str = ""
    """A certificate (PEM) to show to a server that requires one."""
    client_key_file: str = ""
    """Its key; by default in the same file."""
    follow_redirects: bool = False
    """Judge the answer that at most 10 redirects lead to; headers and the certificate go to no other host or port."""
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
        if self.method not in METHODS:
            yield "method", f"found {self.method!r}, allowed: {', '.join(METHODS)}"
        if seconds(self.request_timeout) <= 0:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: more than 0"
        if self.expected_status_code == ():
            yield "expectedStatusCode", "is empty: no answer could be right"
        yield from header_faults(self.headers)
        files = {
            "caFile": self.ca_file,
            "clientCertFile": self.client_cert_file,
            "clientKeyFile": self.client_key_file,
        }
        yield from ((option, "holds a NUL") for option, path in files.items() if "\0" in path)
        if self.client_key_file and not self.client_cert_file:
            yield "clientKeyFile", "is of no use without clientCertFile"
        try:
            compile_pattern(self.expected_body)
        except ValueError as error:
            yield "expectedBody", str(error)


class HttpMonitor(Monitor[HttpOptions]):
    """Sends one request (RFC 9110) and compares the answer. Redirects are answers, unless they are to be followed.

    Proxies are not used.
    """

    kind, options_type = "http-health-check", HttpOptions
    metrics = (UP, CODE, DURATION)

    @classmethod
    def conditions_of(cls, name: str, options: HttpOptions) -> tuple[ConditionType, ...]:
        """One condition, named by the options or for the monitor."""
        kind = options.condition or condition_name(name)
        reason, reasons = options.reason or "RequestFailed", () if options.reason else REASONS
        return (ConditionType(kind, reason, options.ok_reason, options.ok_message, reasons=reasons),)

    def check(self) -> Iterator[Observation]:
        """Ask once."""
        (condition,) = self.conditions_of(self.name, self.options)
        began = time.monotonic()
        answer = exchange(request_of(self.options))
        yield DURATION(time.monotonic() - began)
        yield CODE(answer.status)
        reason, message = verdict(self.options, answer)
        yield UP(float(not reason))
        yield condition.when(bool(reason), f"{self.options.url}: {message}", self.options.reason or reason)


def request_of(options: HttpOptions) -> Request:
    """What `options` ask for."""
    return Request(
        options.url,
        options.request_timeout,
        options.method,
        options.headers,
        options.ca_file,
        options.insecure_skip_verify,
        certificate=(options.client_cert_file, options.client_key_file) if options.client_cert_file else None,
        redirects=MOST_REDIRECTS if options.follow_redirects else 0,
    )


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

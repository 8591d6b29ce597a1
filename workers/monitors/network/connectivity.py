"""Whether the node reaches the places that it needs."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from threading import Thread
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import msgspec
from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options
from nodedoctor.types import Severity
from workers.http import (
    FAILURES,
    TUNNEL_FAILED,
    Answer,
    Request,
    exchange,
    failure,
    header_faults,
    url_faults,
)
from workers.stream import dial

REASONS = (*FAILURES, "ProxyRefused", "ProxyUnreachable", "UnexpectedStatus")
LOST = ConditionType("ConnectivityLost", reason="EndpointsUnreachable", ok_reason="EndpointsReachable")
UNREACHABLE = ConditionType(
    "EndpointUnreachable",
    reason="RequestFailed",
    ok_reason="EndpointsReachable",
    severity=Severity.WARNING,
    warning_reason="CertificateExpiresSoon",
    reasons=REASONS,
)
UP = Gauge("endpoint_up", "1 if the endpoint answered as expected", ("endpoint",))
LATENCY = Gauge("endpoint_response_seconds", "Time from its name to the end of its answer", ("endpoint",))
PROXY_AUTHENTICATION_REQUIRED = 407


class Endpoint(Options, frozen=True):
    """One place to reach."""

    url: str
    """http://, https:// or tcp://HOST:PORT, to which is only connected, without a proxy."""
    name: str = ""
    """What it is called in messages and metrics; by default its URL."""
    expected_status_codes: tuple[int, ...] = ()
    """By default all from 200 to 399."""
    method: Annotated[str, Meta(pattern="^(GET|HEAD)$")] = "GET"
    """GET or HEAD."""
    headers: dict[str, str] = {}
    """Sent along."""
    timeout: Duration | None = None
    """For all of it, the name included; by default requestTimeout."""
    ca_file: str = ""
    """Certificates to trust; by default those of the monitor's caFile."""
    insecure_skip_verify: bool = False
    """Accept any certificate, for any name."""

    def called(self) -> str:
        """What it is called."""
        return self.name or self.url

    def faults(self) -> Iterator[tuple[str, str]]:
        """What can't be reached."""
        is_tcp = self.url.startswith("tcp://")
        yield from url_faults(re.sub("^tcp:", "http:", self.url))
        if is_tcp and not re.fullmatch(r"tcp://[^/?#]+:[0-9]+", self.url):
            yield "url", f"found {self.url!r}, allowed: tcp://HOST:PORT"
        yield from header_faults(self.headers)
        if self.timeout is not None and seconds(self.timeout) <= 0:
            yield "timeout", f"found {self.timeout!r}, allowed: more than 0"
        if "\0" in self.ca_file:
            yield "caFile", "holds a NUL"


class ConnectivityOptions(Options, frozen=True):
    """Where the node must get through to."""

    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=32)]
    """All are asked at once. There are none by default: nobody asked for traffic."""
    request_timeout: Duration = "5s"
    """For all of it, names included, of endpoints without a timeout of their own."""
    failure_share: Annotated[float, Meta(gt=0, le=100)] = 100
    """Percent of the endpoints that fail at once while connectivity is lost."""
    proxy: str = ""
    """http://[USER:PASSWORD@]HOST:PORT, for all but tcp://."""
    use_environment_proxy: bool = False
    """Take the proxy from the agent's http_proxy, https_proxy and no_proxy instead."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    certificate_warning: Duration = "14d"
    """A server's certificate is warned of so long before it expires."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What can't be asked."""
        for number, each in enumerate(self.endpoints):
            yield from ((f"endpoints[{number}].{path}", text) for path, text in each.faults())
        if len({each.called() for each in self.endpoints}) < len(self.endpoints):
            yield "endpoints", "holds a name twice"
        if seconds(self.request_timeout) <= 0:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: more than 0"
        if self.proxy and not re.fullmatch(r"http://[!-~]+:[0-9]{1,5}/?", self.proxy):
            yield "proxy", "allowed: http://[USER:PASSWORD@]HOST:PORT"
        if self.proxy and self.use_environment_proxy:
            yield "useEnvironmentProxy", "can't be used together with proxy"
        if "\0" in self.ca_file:
            yield "caFile", "holds a NUL"


class Asking(Thread):
    """Asks one endpoint. It may stay behind in the resolver, which no deadline ends."""

    def __init__(
        self, endpoint: Endpoint, options: ConnectivityOptions, context: ssl.SSLContext | None
    ) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.options, self.context = endpoint, options, context
        self.within = endpoint.timeout or options.request_timeout
        self.deadline = time.monotonic() + seconds(self.within)
        self.answer = Answer(reason="Timeout", message=f"no whole answer within {self.within}")
        self.took = 0.0
        self.start()

    def run(self) -> None:
        """Ask once."""
        began = time.monotonic()
        answer = ask(self.endpoint, self.options, self.within, self.context)
        self.took, self.answer = time.monotonic() - began, answer


class ConnectivityMonitor(Monitor[ConnectivityOptions]):
    """Asks endpoints over HTTP (RFC 9110), TLS and TCP, directly or through a proxy."""

    kind, options_type = "connectivity-health-check", ConnectivityOptions
    conditions = (LOST, UNREACHABLE)
    metrics = (UP, LATENCY)

    def __init__(self, name: str, options: ConnectivityOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.asking: dict[str, Asking] = {}

    def check(self) -> Iterator[Observation]:
        """Ask all at once."""
        context = shared_context(self.options)
        for each in self.options.endpoints:
            before = self.asking.get(each.called())
            if before is None or not before.is_alive():
                self.asking[each.called()] = Asking(each, self.options, context)
        failed = 0
        for name, asking in self.asking.items():
            asking.join(max(0.0, asking.deadline - time.monotonic()))
            reason, message = verdict(asking.endpoint, asking.answer)
            failed += bool(reason)
            yield UP(float(not reason), endpoint=name)
            if reason:
                yield UNREACHABLE.when(True, f"{name}: {message}", reason)
                continue
            yield LATENCY(asking.took, endpoint=name)
            limit, expires = self.options.certificate_warning, asking.answer.expires
            soon = expires is not None and expires - time.time() < seconds(limit)
            yield UNREACHABLE.warn_when(soon, f"{name}: its certificate expires in less than {limit}")
        share = self.options.failure_share
        text = f"at least {share:g} % of the endpoints can't be reached"
        yield LOST.when(failed * 100 >= share * len(self.asking), text)


def shared_context(options: ConnectivityOptions) -> ssl.SSLContext | None:
    """TLS settings for all endpoints of one check; None if nobody needs them or each is to fail by itself."""
    if not any(each.url.startswith("https:") for each in options.endpoints):
        return None
    try:
        return ssl.create_default_context(cafile=options.ca_file or None)
    except OSError:
        return None


def ask(
    endpoint: Endpoint, options: ConnectivityOptions, within: str, context: ssl.SSLContext | None
) -> Answer:
    """What becomes of one endpoint."""
    parts = urlsplit(endpoint.url)
    if parts.scheme == "tcp":
        try:
            dial(parts.hostname or "", parts.port or 0, time.monotonic() + seconds(within)).close()
        except (OSError, UnicodeError) as error:
            return failure(error, within)
        return Answer()
    proxy = options.proxy
    if options.use_environment_proxy and not proxy_bypass(parts.netloc):
        proxy = getproxies_environment().get(parts.scheme, "")
        proxy = proxy if "://" in proxy or not proxy else f"http://{proxy}"
    request = Request(
        endpoint.url,
        within,
        endpoint.method,
        endpoint.headers,
        endpoint.ca_file or options.ca_file,
        endpoint.insecure_skip_verify,
        proxy=proxy,
        context=None if endpoint.ca_file or endpoint.insecure_skip_verify else context,
    )
    answer = exchange(request)
    return through_proxy(answer) if proxy else answer


def through_proxy(answer: Answer) -> Answer:
    """What `answer` means where a proxy resolves the name and connects."""
    if answer.reason in {"NameNotResolved", "ConnectionRefused"}:
        text = f"the proxy can't be reached: {answer.message}"
        return msgspec.structs.replace(answer, reason="ProxyUnreachable", message=text)
    if TUNNEL_FAILED in answer.message or answer.status == PROXY_AUTHENTICATION_REQUIRED:
        text = answer.message.rpartition(": ")[2] or "407 Proxy Authentication Required"
        return Answer(reason="ProxyRefused", message=f"the proxy refused: {text}")
    return answer


def verdict(endpoint: Endpoint, answer: Answer) -> tuple[str, str]:
    """What is wrong with `answer`, as reason and message; both empty if nothing is."""
    if answer.reason or endpoint.url.startswith("tcp:"):
        return answer.reason, answer.message
    codes = endpoint.expected_status_codes
    if answer.status in codes or (not codes and 200 <= answer.status < 400):
        return "", ""
    wanted = " or ".join(str(code) for code in codes) or "200 to 399"
    return "UnexpectedStatus", f"answered {answer.status}, expected {wanted}"

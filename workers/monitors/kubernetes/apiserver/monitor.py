"""Whether the API server can be reached from this node, lets it in, and answers well and in time."""

from __future__ import annotations

import math
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation
from nodedoctor.types import Severity
from workers.kubernetes import ACCOUNT, Access, at, found
from workers.monitors.kubernetes.apiserver.exchange import Answer, Failure, ask
from workers.monitors.kubernetes.apiserver.options import APIServerOptions

UNREACHABLE = ConditionType(
    "APIServerUnreachable",
    reason="ConnectionFailed",
    ok_reason="APIServerAnswers",
    reasons=(
        "CertificateExpired",
        "CertificateOfOtherName",
        "CertificateUntrusted",
        "ConnectionClosed",
        "ConnectionFailed",
        "ConnectionRefused",
        "ConnectionReset",
        "NameNotResolved",
        "NoRoute",
        "NotAnAPIServer",
        "TLSFailed",
        "Timeout",
    ),
)
UNAUTHORIZED = ConditionType(
    "APIServerUnauthorized",
    reason="CredentialsRejected",
    ok_reason="APIServerLetsIn",
    severity=Severity.WARNING,
    reasons=("CredentialsRejected", "Forbidden"),
)
UNHEALTHY = ConditionType(
    "APIServerUnhealthy",
    reason="ChecksFailing",
    ok_reason="APIServerReady",
    reasons=("ChecksFailing", "ServerError", "UnexpectedStatus"),
)
OVERLOADED = ConditionType(
    "APIServerOverloaded",
    reason="TooManyRequests",
    ok_reason="APIServerTakesRequests",
    severity=Severity.WARNING,
)
SLOW = ConditionType(
    "APIServerSlow", reason="AnswersTakeLong", ok_reason="AnswersInTime", severity=Severity.WARNING
)
SKEWED = ConditionType(
    "ClockSkewFromAPIServer", reason="ClocksDiffer", ok_reason="ClocksAgree", severity=Severity.WARNING
)
EXPIRING = ConditionType(
    "APIServerCertificateExpiring",
    reason="CertificateExpiresSoon",
    ok_reason="CertificateValid",
    severity=Severity.WARNING,
)
UP = Gauge("apiserver_up", "1 if the API server said that it is ready")
CODE = Gauge("apiserver_status_code", "Status code of the last answer, 0 without one")
LATENCY = Gauge("apiserver_response_seconds", "Time from connecting to the end of the last answer")
QUANTILES = Gauge(
    "apiserver_response_quantile_seconds", "Percentiles of the last answers' times", ("quantile",)
)
SKEW = Gauge(
    "apiserver_clock_skew_seconds", "How far the API server's clock is ahead of this node's, to about 1 s"
)
NOT_AFTER = Gauge(
    "apiserver_certificate_not_after_seconds", "When its certificate expires, in seconds since 1970"
)
PATHS = ("/readyz", "/livez", "/healthz")
FEWEST = 5
LONGEST_PAUSE = 600.0
FAILED_CHECK = re.compile(r"^\[-\]([\w./-]{1,100}) failed", re.MULTILINE)
NOT_FOUND, UNAUTHENTICATED, FORBIDDEN, TOO_MANY, OK = 404, 401, 403, 429, 200


class APIServerMonitor(Monitor[APIServerOptions]):
    """Asks the API server whether it is ready: https://kubernetes.io/docs/reference/using-api/health-checks/.

    One small GET on a connection of its own each time, never kept: so each check proves the whole way, the load
    balancer and the certificate. 5,000 nodes cost all API servers together about 83 TLS handshakes a second at the
    default interval, spread over it, and no connection that stays. After a 429 nothing is asked until Retry-After is over.

    The clocks are compared by the header Date, which has whole seconds; what the answer's way took counts in the
    clock's favour.
    """

    kind, options_type = "apiserver-health-check", APIServerOptions
    conditions = (UNREACHABLE, UNAUTHORIZED, UNHEALTHY, OVERLOADED, SLOW, SKEWED, EXPIRING)
    metrics = (UP, CODE, LATENCY, QUANTILES, SKEW, NOT_AFTER)
    interval = 60.0
    # A name is resolved in it, and a server without /readyz is asked for three paths.
    timeout = 30.0

    def __init__(
        self,
        name: str,
        options: APIServerOptions,
        host: Host | None = None,
        environment: Mapping[str, str] = os.environ,
        account: Path = ACCOUNT,
    ) -> None:
        super().__init__(name, options, host)
        self.environment = environment
        self.account = account
        self.paths: tuple[str, ...] = PATHS
        self.times: deque[float] = deque(maxlen=options.latency_window)
        self.silent_until = 0.0

    def check(self) -> Iterator[Observation]:
        """Ask once."""
        who = self.access()
        if time.monotonic() < self.silent_until:
            yield OVERLOADED.when(True, overload(who.server))
            yield from rest_unknown("it asked for a pause", "NotAsked", OVERLOADED)
            return
        try:
            answer = self.ask(who)
        except PermissionError:
            raise
        except OSError as error:
            text = f"the credentials can't be read: {error.filename or ''} {error.strerror or error}"
            raise Undetermined(text, "CredentialsUnusable") from error
        if isinstance(answer, Failure):
            yield from failed(who.server, answer)
        else:
            yield from self.check_answer(who, answer)

    def access(self) -> Access:
        """What the options say, else what is found on this node."""
        options = self.options
        if options.url:
            return at(options.url, options.ca_file, options.token_file)
        return found(self.host.kubeconfig, self.environment, self.account)

    def ask(self, who: Access) -> Answer | Failure:
        """Ask for readiness; an old server does not know the newer paths."""
        limit = time.monotonic() + seconds(self.options.request_timeout)
        for path in self.paths:
            answer = ask(who, path, max(0.001, limit - time.monotonic()))
            if isinstance(answer, Failure) or answer.status != NOT_FOUND:
                break
        if isinstance(answer, Answer) and answer.status == OK:
            self.paths = self.paths[self.paths.index(path) :]
        return answer

    def check_answer(self, who: Access, answer: Answer) -> Iterator[Observation]:
        """What an answer says, of whatever kind."""
        yield CODE(answer.status)
        yield UP(float(answer.status == OK))
        yield UNREACHABLE.when(False, "")
        if answer.status == TOO_MANY:
            self.silent_until = time.monotonic() + pause(answer.headers.get("retry-after", ""))
        yield from status(who, answer)
        yield from self.check_times(who.server, answer)
        yield from self.check_clock(who.server, answer)
        if answer.expires is None:
            yield EXPIRING.unknown("the API server's certificate is not verified", "NotVerified")
            return
        yield NOT_AFTER(answer.expires)
        soon = answer.expires - answer.began < seconds(self.options.certificate_warning)
        text = f"the certificate of {who.server} expires in less than {self.options.certificate_warning}"
        yield EXPIRING.when(soon, text)

    def check_times(self, url: str, answer: Answer) -> Iterator[Observation]:
        """How long answers take."""
        self.times.append(answer.took)
        yield LATENCY(answer.took)
        for quantile in (0.5, 0.95, 0.99):
            yield QUANTILES(percentile(self.times, quantile), quantile=f"{quantile:g}")
        slow = len(self.times) >= FEWEST and percentile(self.times, 0.5) > seconds(self.options.slow_at)
        yield SLOW.when(slow, f"half of the answers of {url} take longer than {self.options.slow_at}")

    def check_clock(self, url: str, answer: Answer) -> Iterator[Observation]:
        """Whether both clocks agree."""
        if answer.date is None:
            yield SKEWED.unknown(f"{url} does not tell its time", "NoDate")
            return
        yield SKEW(answer.date + 0.5 - answer.began - answer.answered / 2)
        apart = skew(answer.date, answer.began, answer.answered)
        text = f"the clocks of this node and of {url} differ by more than {self.options.skew_threshold}"
        yield SKEWED.when(apart > seconds(self.options.skew_threshold), text)


def failed(url: str, failure: Failure) -> Iterator[Observation]:
    """No answer: it is unreachable, and the rest is not known."""
    yield UP(0)
    yield CODE(0)
    yield UNREACHABLE.when(True, f"the API server {url} {failure.message}", failure.reason)
    yield from rest_unknown("it does not answer", "APIServerUnreachable", UNREACHABLE)


def rest_unknown(why: str, reason: str, *told: ConditionType) -> Iterator[Finding]:
    """All conditions but those `told` are unknown."""
    for condition in APIServerMonitor.conditions:
        if condition not in told:
            yield condition.unknown(f"the API server was not heard: {why}", reason)


def status(who: Access, answer: Answer) -> Iterator[Finding]:
    """What the status of `answer` says: whether it lets us in, has too much to do, and is ready."""
    refused = answer.status in {UNAUTHENTICATED, FORBIDDEN}
    # Who comes without credentials may be refused: anonymous access is off on many clusters.
    yield UNAUTHORIZED.when(refused and who.named, *refusal(who.server, answer.status))
    yield OVERLOADED.when(answer.status == TOO_MANY, overload(who.server))
    if refused or answer.status == TOO_MANY:
        yield UNHEALTHY.unknown(f"{who.server} answers, but not whether it is ready", "NotTold")
    else:
        yield UNHEALTHY.when(answer.status != OK, *illness(who.server, answer))


def refusal(url: str, code: int) -> tuple[str, str]:
    """Message and reason of not being let in."""
    if code == FORBIDDEN:
        return f"{url} knows this agent and forbids it to ask for /readyz; see its ClusterRole", "Forbidden"
    return f"{url} rejects this agent's credentials; see its token", "CredentialsRejected"


def overload(url: str) -> str:
    """The message of a server that has too much to do."""
    return f"{url} turns requests away: it has too many"


def illness(url: str, answer: Answer) -> tuple[str, str]:
    """Message and reason of not being ready."""
    names = sorted(set(FAILED_CHECK.findall(answer.body)))
    if names:
        return f"{url} is not ready: {', '.join(names[:10])} failed", "ChecksFailing"
    reason = "ServerError" if answer.status >= 500 else "UnexpectedStatus"
    return f"{url} answers {answer.status} when asked whether it is ready", reason


def pause(retry_after: str) -> float:
    """Seconds that a Retry-After asks for, 0 if it is not a number; RFC 9110, section 10.2.3."""
    digits = retry_after.strip()
    return min(float(digits), LONGEST_PAUSE) if digits.isascii() and digits.isdigit() else 0.0


def skew(date: float, began: float, took: float) -> float:
    """Seconds by which the clocks differ at least.

    The server's clock was somewhere in the second that began at `date`, at a moment between `began` on our clock and
    `took` seconds later.
    """
    return max(0.0, date - (began + took), began - (date + 1))


def percentile(values: Sequence[float] | deque[float], share: float) -> float:
    """The smallest of `values` that is not below `share` of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

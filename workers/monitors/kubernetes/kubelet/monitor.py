"""Whether the kubelet lives, answers, keeps up with its pods, and stays up."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import yaml

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, counter
from nodedoctor.types import Severity
from workers.growth import Growth
from workers.http import Request, exchange
from workers.kubernetes import ACCOUNT
from workers.monitors.kubernetes.kubelet.options import KubeletOptions
from workers.monitors.kubernetes.kubelet.pleg import Figures, figures, percentile
from workers.systemd import CallError, UnitState, connected

UNHEALTHY = ConditionType(
    "KubeletUnhealthy",
    reason="HealthzFailing",
    ok_reason="KubeletHealthy",
    reasons=("KubeletDown", "KubeletHangs", "HealthzFailing", "ServiceFailed"),
)
SLOW = ConditionType(
    "PLEGSlow",
    reason="RelistSlow",
    ok_reason="RelistInTime",
    severity=Severity.WARNING,
    reasons=("RelistSlow", "RelistStalled"),
)
RESTARTING = ConditionType(
    "KubeletRestarting",
    reason="KubeletRestartsAgainAndAgain",
    ok_reason="KubeletStaysUp",
    severity=Severity.WARNING,
)
HEALTHY = Gauge("kubelet_healthy", "1 if the kubelet's healthz says ok")
HEALTHZ = Gauge("kubelet_healthz_seconds", "Time until the kubelet's healthz had answered, or not")
RELIST = Gauge("kubelet_pleg_relist_p99_seconds", "99 % of relists since the last check took at most so long")
AGE = Gauge("kubelet_pleg_age_seconds", "Time since the kubelet last relisted its pods")
RESTARTS = counter("kubelet_restarts_total", "Restarts of the kubelet that were seen")
LONGEST_METRICS = 16 << 20
"""More than the metrics of a kubelet with hundreds of pods."""
FOLDER = "/var/lib/kubelet"
SERVICES = tuple(
    f"{name}.service"
    for name in (
        "kubelet",
        "k3s",
        "k3s-agent",
        "rke2-server",
        "rke2-agent",
        "snap.microk8s.daemon-kubelite",
    )
)


class Start(msgspec.Struct, frozen=True):
    """One start of the kubelet; another one differs if it was learnt of in the same way."""

    source: str
    identity: str
    restarts: int = 0
    """How often systemd had restarted it by then."""


class KubeletMonitor(Monitor[KubeletOptions]):
    """Asks the kubelet's healthz and metrics over HTTP, and systemd for its unit.

    Sources: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/ (healthzPort), and
    https://kubernetes.io/docs/reference/instrumentation/metrics/. Without systemd, or without permission to read
    metrics (nodes/metrics), the rest is still told. A kubelet whose healthz is ok is healthy, whatever its unit says.
    """

    kind, options_type = "kubelet-health-check", KubeletOptions
    conditions = (UNHEALTHY, SLOW, RESTARTING)
    metrics = (HEALTHY, HEALTHZ, RELIST, AGE, RESTARTS)
    timeout = 20.0

    def __init__(
        self, name: str, options: KubeletOptions, host: Host | None = None, account: Path = ACCOUNT
    ) -> None:
        super().__init__(name, options, host)
        self.account = account
        self.limit = seconds(options.request_timeout)
        self.relists: Figures | None = None
        self.start: Start | None = None
        self.seen = 0
        self.restarts = Growth(0)

    def check(self) -> Iterator[Observation]:
        """Ask healthz, systemd, and for metrics."""
        url = self.options.healthz_url or default_healthz(self.host)
        began = time.monotonic()
        reason, text = probe(url, self.options.request_timeout)
        took = time.monotonic() - began
        unit = self.unit()
        if reason == "KubeletDown" and unit is None and not self.expected():
            raise Undetermined(
                f"no kubelet on this machine: no unit, no {FOLDER}, nobody at {url}", "NoKubelet"
            )
        yield HEALTHY(float(not reason))
        yield HEALTHZ(took)
        yield unhealthy(reason, text, unit)
        started = None
        try:
            now = self.figures()
        except Undetermined as error:
            yield SLOW.unknown(str(error), error.reason)
        else:
            started = now.started
            yield from self.check_relists(now)
        yield from self.check_restarts(start_of(unit, started))

    def expected(self) -> bool:
        """Whether there should be a kubelet, for all that is known beside systemd."""
        return bool(
            self.options.healthz_url or self.options.service or self.host.path(FOLDER).exists() or self.start
        )

    def unit(self) -> UnitState | None:
        """The kubelet's unit, None if there is none, or nobody to ask."""
        names = (self.options.service,) if self.options.service else SERVICES
        try:
            with connected(self.host, self.limit) as systemd:
                found = [systemd.unit(name) for name in names]
        except (Undetermined, CallError, OSError):
            return None
        there = [unit for unit in found if unit.load_state != "not-found"]
        return next((u for u in there if u.active_state == "active"), there[0] if there else None)

    def figures(self) -> Figures:
        """What the kubelet's metrics say.

        Raises:
            Undetermined: they can't be read.
        """
        url = self.options.metrics_url
        if not url:
            raise Undetermined(
                "the kubelet's metrics are not looked at: metricsUrl is empty", "MetricsNotAsked"
            )
        try:
            secure = url.startswith("https:")
            headers = self.authorization() if secure else {}
            context = self.tls() if secure else None
            asked = Request(
                url, self.options.request_timeout, headers=headers, context=context, longest=LONGEST_METRICS
            )
            answer = exchange(asked)
            if answer.status in {401, 403}:
                text = f"the kubelet refuses its metrics at {url}: the account needs get on nodes/metrics"
                raise Undetermined(text, "MetricsForbidden")
            if answer.reason:
                hint = "; caFile says what is trusted" if answer.reason == "TLSUntrusted" else ""
                raise Undetermined(f"{url}: {answer.message}{hint}", "MetricsUnavailable")
            if answer.status != 200:
                raise Undetermined(f"{url} answers {answer.status}", "MetricsUnavailable")
            return figures(answer.body)
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or type(error).__name__
            raise Undetermined(
                f"the kubelet's metrics can't be read: {url}: {what}", "MetricsUnavailable"
            ) from error

    def authorization(self) -> dict[str, str]:
        """The header with the bearer token of this moment; none outside of a pod."""
        path = Path(self.options.token_file) if self.options.token_file else self.account / "token"
        if not self.options.token_file and not path.exists():
            return {}
        return {"Authorization": f"Bearer {path.read_text().strip()}"}

    def tls(self) -> ssl.SSLContext:
        """Settings that keep the token from a stranger at the kubelet's port.

        Its certificate is made for the node's name, and it is asked at the loopback: names are not compared.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.options.ca_file:
            context.load_verify_locations(self.options.ca_file)
            return context
        for path in (self.host.path(f"{FOLDER}/pki/kubelet.crt"), self.account / "ca.crt"):
            # Each kind of cluster has one of them; without any, the kubelet is not trusted.
            with suppress(OSError):
                context.load_verify_locations(path)
        return context

    def check_relists(self, now: Figures) -> Iterator[Observation]:
        """Whether the kubelet lists its pods in time."""
        before, self.relists = self.relists, now
        if now.seen is None and not now.relists:
            yield SLOW.unknown(
                "the kubelet's metrics say nothing of relists (kubelet_pleg_...)", "NoPLEGMetrics"
            )
            return
        yield SLOW.when(False, "")
        if now.seen is not None:
            age = max(0.0, time.time() - now.seen)
            yield AGE(age)
            text = f"the kubelet has not relisted its pods for more than {self.options.pleg_age}"
            yield SLOW.when(age > seconds(self.options.pleg_age), text, "RelistStalled")
        slowest = percentile(before.relists, now.relists, 0.99) if before else None
        if slowest is not None:
            yield RELIST(slowest)
            text = (
                f"the kubelet needs more than {self.options.pleg_slow_at} to relist its pods: see the runtime"
            )
            yield SLOW.when(slowest > seconds(self.options.pleg_slow_at), text)

    def check_restarts(self, start: Start | None) -> Iterator[Observation]:
        """Whether the kubelet starts again and again, now that its last start is `start`; None if that is unknown."""
        if start is None and self.start is None:
            text = "neither systemd nor the kubelet's metrics tell when it started"
            yield RESTARTING.unknown(text, "StartUnknown")
            return
        if start and self.start and start != self.start and start.source == self.start.source:
            self.seen += max(1, start.restarts - self.start.restarts)
        self.start = start or self.start
        count = self.restarts.within(seconds(self.options.restart_within), self.seen, time.monotonic())
        yield RESTARTS(self.seen)
        text = f"the kubelet was started anew at least {self.options.restart_count} times within "
        yield RESTARTING.when(count >= self.options.restart_count, text + self.options.restart_within)


def default_healthz(host: Host) -> str:
    """Where the kubelet's healthz is by its configuration file, else by default.

    Raises:
        Undetermined: it is switched off.
    """
    try:
        settings = yaml.safe_load(host.path(f"{FOLDER}/config.yaml").read_bytes())
        port = settings.get("healthzPort", 10248)
    except (OSError, yaml.YAMLError, AttributeError):
        port = 10248
    if not isinstance(port, int):
        raise Undetermined(f"healthzPort in {FOLDER}/config.yaml is no number", "HealthzOff")
    if port == 0:
        raise Undetermined(
            f"the kubelet's healthz is off: healthzPort is 0 in {FOLDER}/config.yaml", "HealthzOff"
        )
    return f"http://127.0.0.1:{port}/healthz"


def probe(url: str, within: str) -> tuple[str, str]:
    """What is wrong with the kubelet's healthz, as reason and text; both empty if it says ok."""
    answer = exchange(Request(url, within))
    if answer.reason == "ConnectionRefused":
        return "KubeletDown", f"the kubelet is down: nobody listens at {url}"
    if answer.reason == "Timeout":
        return "KubeletHangs", f"the kubelet hangs: no whole answer from {url} in time"
    if answer.reason or answer.status != 200:
        text = answer.message or f"it answers {answer.status}"
        return "HealthzFailing", f"the kubelet's healthz fails: {url}: {text}"
    return "", ""


def unhealthy(reason: str, text: str, unit: UnitState | None) -> Finding:
    """What is to be said of a kubelet whose healthz has the problem `reason`, or none if that is empty."""
    if reason and unit is not None and (unit.active_state == "failed" or unit.sub_state == "auto-restart"):
        text = f"{unit.name} has failed (result {unit.result}): see journalctl -u {unit.name}"
        return UNHEALTHY.when(True, text, "ServiceFailed")
    if reason and unit is not None and unit.active_state == "inactive":
        text = f"{text}; {unit.name} is stopped"
    return UNHEALTHY.when(bool(reason), text, reason)


def start_of(unit: UnitState | None, started: float | None) -> Start | None:
    """The kubelet's last start, as its unit tells, else as `started` does, the time in its metrics."""
    if unit is not None:
        return Start("systemd", unit.invocation, unit.restarts) if unit.invocation else None
    return Start("metrics", str(started)) if started else None

"""What the kubelet's monitor can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options

LONGEST_WAIT = 5.0
"""Seconds that one of the three questions may take at most, so that all of them fit into a check."""


class KubeletOptions(Options, frozen=True):
    """Where the kubelet is, and what of it is good enough."""

    healthz_url: str = ""
    """Empty: http://127.0.0.1:PORT/healthz, with healthzPort of /var/lib/kubelet/config.yaml, else 10248."""
    service: str = ""
    """The kubelet's systemd unit; empty: the first that is active, or else exists, of the usual ones."""
    metrics_url: str = "https://127.0.0.1:10250/metrics"
    """Where its metrics are; empty: they are not looked at."""
    token_file: str = ""
    """A file with the bearer token for https metrics; empty: the pod's service account, if there is one."""
    ca_file: str = ""
    """Certificates to trust for https metrics, whatever name they show; empty: kubelet.crt and the cluster's."""
    request_timeout: Duration = "3s"
    """For a whole request and its answer, and for what systemd is asked."""
    pleg_slow_at: Duration = "5s"
    """One relist of pods in a hundred taking longer, since the last check, is a problem."""
    pleg_age: Duration = "3m"
    """A last relist that is older is a problem, as it is for the kubelet itself."""
    restart_count: Annotated[int, Meta(ge=1)] = 3
    """So many restarts ..."""
    restart_within: Duration = "15m"
    """... in this time are a problem."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Durations that are none, addresses that can't be."""
        for option, value in (
            ("requestTimeout", self.request_timeout),
            ("plegSlowAt", self.pleg_slow_at),
            ("plegAge", self.pleg_age),
            ("restartWithin", self.restart_within),
        ):
            if seconds(value) <= 0:
                yield option, f"found {value!r}, allowed: more than 0"
        if seconds(self.request_timeout) > LONGEST_WAIT:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: {LONGEST_WAIT:g}s at most"
        for option, url in (("healthzUrl", self.healthz_url), ("metricsUrl", self.metrics_url)):
            if url and not usable(url):
                yield option, f"found {url!r}, allowed: http://HOST[:PORT]/PATH or https://..."
        if self.service and not self.service.endswith(".service"):
            yield "service", f"found {self.service!r}, expected a unit's whole name: kubelet.service"


def usable(url: str) -> bool:
    """Whether `url` is an address that can be asked."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False

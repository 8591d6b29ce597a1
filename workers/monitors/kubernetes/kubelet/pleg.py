"""What the kubelet's metrics tell of its relists of pods (PLEG) and of its start.

Source: https://kubernetes.io/docs/reference/instrumentation/metrics/.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

RELIST, SEEN, STARTED = (
    "kubelet_pleg_relist_duration_seconds_bucket",
    "kubelet_pleg_last_seen_seconds",
    "process_start_time_seconds",
)
WANTED = (RELIST.encode(), SEEN.encode(), STARTED.encode())


class Figures(msgspec.Struct, frozen=True):
    """The figures of one moment; None for what the kubelet does not tell."""

    relists: Mapping[float, float]
    """How many relists took at most so many seconds."""
    seen: float | None
    """When pods were last relisted, in seconds of the wall clock."""
    started: float | None
    """When the kubelet started, likewise."""


def figures(text: bytes) -> Figures:
    """Those in the kubelet's metrics.

    Raises:
        ValueError: it is no text in the format of Prometheus.
    """
    # Only a few of thousands of lines are wanted, and reading one takes long.
    lines = b"\n".join(line for line in text.splitlines() if line.startswith(WANTED)) + b"\n"
    samples = [s for family in text_string_to_metric_families(lines.decode()) for s in family.samples]
    single = {sample.name: sample.value for sample in samples if not sample.labels}
    relists = {float(s.labels["le"]): s.value for s in samples if s.name == RELIST and "le" in s.labels}
    # Before its first relist the kubelet tells 0: none is late yet.
    return Figures(relists, single.get(SEEN) or single.get(STARTED), single.get(STARTED))


def percentile(before: Mapping[float, float], now: Mapping[float, float], share: float) -> float | None:
    """The upper bound, in seconds, below which `share` of what came between two states of a histogram lies.

    None if nothing came. What lies above the last bound counts as that bound. A counter that was set back has grown
    from 0.
    """
    bounds = sorted(now)
    if not bounds or now[bounds[-1]] < before.get(bounds[-1], 0.0):
        before = {}
    grown = {bound: now[bound] - before.get(bound, 0.0) for bound in bounds}
    if not bounds or grown[bounds[-1]] <= 0:
        return None
    finite = [bound for bound in bounds if bound != float("inf")]
    wanted = share * grown[bounds[-1]]
    return next((bound for bound in finite if grown[bound] >= wanted), finite[-1] if finite else None)

"""What the broker counts, and how it is laid out for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

from nodedoctor.bus.messages import Family, Sample

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a check's duration, in seconds."""

Labels = tuple[str, ...]


class Histogram:
    """Durations by bucket."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one duration of `value` seconds."""
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.sum += value

    def sample(self, labels: dict[str, str]) -> Sample:
        """The histogram as a sample with cumulative buckets."""
        buckets = tuple(zip(BOUNDS, accumulate(self.counts), strict=False))
        return Sample(labels, value=sum(self.counts), buckets=buckets, sum=self.sum)


class Counters:
    """Everything that only grows, by the values of its labels."""

    def __init__(self) -> None:
        self.checks: Counter[Labels] = Counter()
        self.problems: Counter[Labels] = Counter()
        self.events: Counter[Labels] = Counter()
        self.reported: Counter[Labels] = Counter()
        """By reason: what Node Problem Detector counts as a problem: an event of a log or a plugin, a condition that
        became True."""
        self.lost: Counter[Labels] = Counter()
        self.fenced: Counter[Labels] = Counter()
        self.durations: dict[str, Histogram] = {}

    def families(self) -> list[Family]:
        """All of them, each with its help."""
        return [
            family("monitor_checks_total", "Checks by how they ended", ("monitor", "result"), self.checks),
            Family(
                "monitor_duration_seconds",
                "How long the checks took",
                "histogram",
                tuple(
                    histogram.sample({"monitor": name}) for name, histogram in sorted(self.durations.items())
                ),
            ),
            family(
                "problems_detected_total", "Conditions that became True", ("type", "reason"), self.problems
            ),
            family("events_total", "Events by monitor", ("monitor", "severity", "reason"), self.events),
            family("status_lost_total", "Statuses lost on the way to the broker", ("source",), self.lost),
            family(
                "status_fenced_total",
                "Statuses refused: their process was replaced",
                ("source",),
                self.fenced,
            ),
        ]


def family(
    name: str, help_text: str, labels: Labels, values: Mapping[Labels, float], kind: str = "counter"
) -> Family:
    """A family with one sample for each key of `values`."""
    samples = (Sample(dict(zip(labels, key, strict=True)), value) for key, value in sorted(values.items()))
    return Family(name, help_text, kind, tuple(samples))


def gauge(name: str, help_text: str, samples: Iterable[Sample]) -> Family:
    """A gauge with these samples."""
    return Family(name, help_text, "gauge", tuple(samples))

"""The broker's state in Prometheus' text format, built anew at each scrape: a series whose subject is gone is gone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodedoctor.bus.messages import Family, Snapshot
from nodedoctor.types import ConditionStatus

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")


def exposition(
    snapshot: Snapshot, age: float, namespace: str, *, npd_compatible: bool, accept: str = ""
) -> tuple[bytes, str]:
    """What a scrape gets, and its content type.

    Args:
        snapshot: What to show.
        age: Seconds since the broker last answered.
        namespace: Prefix of every name.
        npd_compatible: Add problem_counter and problem_gauge as Node Problem Detector names them.
        accept: The request's Accept header: OpenMetrics is given to those who ask for it.
    """
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, age, namespace, npd_compatible=npd_compatible))
    return encode(registry), content_type


class SnapshotCollector(Collector):
    """Gives a snapshot's families as metrics."""

    def __init__(self, snapshot: Snapshot, age: float, namespace: str, *, npd_compatible: bool) -> None:
        self.snapshot = snapshot
        self.age = age
        self.namespace = namespace
        self.npd_compatible = npd_compatible

    def collect(self) -> Iterator[Metric]:
        """Yield every family. One that a plug-in named badly is left out and counted: it must not end the scrape."""
        refused = 0
        for family in self.snapshot.families:
            if sound(family):
                yield metric_of(family, self.namespace)
            else:
                refused += 1
        yield single(
            f"{self.namespace}_snapshot_age_seconds", "Time since the broker last answered", self.age
        )
        yield single(
            f"{self.namespace}_exposition_refused_families", "Metrics with names that can't be shown", refused
        )
        if self.npd_compatible:
            yield problem_counter(self.snapshot)
            yield problem_gauge(self.snapshot)


def sound(family: Family) -> bool:
    """Whether Prometheus takes `family`: its names, and each series once."""
    series = Counter(tuple(sorted(sample.labels.items())) for sample in family.samples)
    labels = {name for sample in family.samples for name in sample.labels}
    return (
        bool(NAME.match(family.name))
        and all(map(LABEL.match, labels))
        and max(series.values(), default=1) == 1
    )


def single(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    gauge = GaugeMetricFamily(name, help_text)
    gauge.add_metric([], value)
    return gauge


def metric_of(family: Family, namespace: str) -> Metric:
    """`family` as prometheus_client has it."""
    name = f"{namespace}_{family.name}"
    if family.kind == "histogram":
        return histogram_of(name, family)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: Metric = kind(name, family.help)
    shown = f"{name.removesuffix('_total')}_total" if family.kind == "counter" else name
    for sample in family.samples:
        metric.add_sample(shown, sample.labels, sample.value)
    return metric


def histogram_of(name: str, family: Family) -> Metric:
    """A histogram."""
    labels = sorted({label for sample in family.samples for label in sample.labels})
    histogram = HistogramMetricFamily(name, family.help, labels=labels)
    for sample in family.samples:
        buckets = [(str(bound), float(count)) for bound, count in sample.buckets]
        values = [sample.labels.get(label, "") for label in labels]
        histogram.add_metric(values, [*buckets, ("+Inf", sample.value)], sum_value=sample.sum)
    return histogram


def problem_counter(snapshot: Snapshot) -> Metric:
    """Node Problem Detector's counter: how often each reason was seen, as an event or as a condition."""
    counts: Counter[str] = Counter()
    for family in snapshot.families:
        if family.name in {"problems_detected_total", "events_total"}:
            for sample in family.samples:
                if family.name == "problems_detected_total" or sample.labels["severity"] != "info":
                    counts[sample.labels["reason"]] += int(sample.value)
    metric = Metric("problem_counter", "Number of times a specific type of problem have occurred.", "unknown")
    metric.type = "counter"
    for reason, count in sorted(counts.items()):
        metric.add_sample("problem_counter", {"reason": reason}, count)
    return metric


def problem_gauge(snapshot: Snapshot) -> Metric:
    """Node Problem Detector's gauge: 1 while a condition is True by this reason."""
    gauge = GaugeMetricFamily(
        "problem_gauge", "Whether a specific type of problem is affecting the node or not."
    )
    for condition in snapshot.conditions:
        active = condition.status is ConditionStatus.TRUE
        gauge.add_sample("problem_gauge", {"type": condition.type, "reason": condition.reason}, float(active))
    return gauge

"""The broker's state in Prometheus' text format, built anew at each scrape: a series whose subject is gone is gone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodedoctor.bus.messages import ConditionView, Family, Snapshot
from nodedoctor.types import ConditionStatus, Severity

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
SUFFIXES = {
    "gauge": ("",),
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
"""By kind, what a family's names end in; the OpenMetrics text is refused whole when two families share one."""
NPD_COUNTER, NPD_GAUGE = "problem_counter", "problem_gauge"
REFUSED = "exposition_refused_families"


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
    # Node Problem Detector's counter does not end in _total: the library has no counters of that kind. The text
    # format allows them, OpenMetrics (which says "unknown" there) does not.
    untyped, counter = (f"\n# TYPE {NPD_COUNTER} {kind}\n".encode() for kind in ("untyped", "counter"))
    return encode(registry).replace(untyped, counter), content_type


class SnapshotCollector(Collector):
    """Gives a snapshot's families as metrics."""

    def __init__(self, snapshot: Snapshot, age: float, namespace: str, *, npd_compatible: bool) -> None:
        self.snapshot = snapshot
        self.age = age
        self.namespace = namespace
        self.npd_compatible = npd_compatible

    def collect(self) -> Iterator[Metric]:
        """Yield every family. One that a plug-in named badly is left out and counted: it must not end the scrape."""
        age, refused = (f"{self.namespace}_{name}" for name in ("snapshot_age_seconds", REFUSED))
        shown = self.shown({age, refused, NPD_COUNTER, NPD_GAUGE})
        for family in shown:
            yield metric_of(family, self.namespace)
        yield single(age, "Time since the broker last answered", self.age)
        lost = len(self.snapshot.families) - len(shown)
        yield single(refused, "Metrics that can't be shown: their names, labels or values are faulty", lost)
        if self.npd_compatible:
            yield problem_counter(shown)
            yield problem_gauge(shown, self.snapshot.conditions)

    def shown(self, taken: set[str]) -> list[Family]:
        """The families that Prometheus takes; of two that share a name the first one, the broker's own before others."""
        shown = []
        for family in self.snapshot.families:
            names = names_of(family, self.namespace)
            if sound(family) and taken.isdisjoint(names):
                shown.append(family)
                taken |= names
        return shown


def names_of(family: Family, namespace: str) -> set[str]:
    """Every name that `family` or one of its series has in one of the formats."""
    base = f"{namespace}_{family.name}"
    if family.kind == "counter":
        base = base.removesuffix("_total")
    return {base + suffix for suffix in SUFFIXES.get(family.kind, ())}


def sound(family: Family) -> bool:
    """Whether Prometheus takes `family`: its kind, its names, numbers for values, and each series once."""
    series = Counter(tuple(sorted(sample.labels.items())) for sample in family.samples)
    labels = {name for sample in family.samples for name in sample.labels}
    numbers = (number for sample in family.samples for number in (sample.value, sample.sum))
    return (
        family.kind in SUFFIXES
        and bool(NAME.match(family.name))
        and all(map(LABEL.match, labels))
        and not (family.kind == "histogram" and "le" in labels)
        and not any(map(math.isnan, numbers))
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


def problem_counter(families: Iterable[Family]) -> Metric:
    """Node Problem Detector's counter: how often each reason was seen, as an event or as a condition."""
    counts: dict[str, float] = {}
    for family in families:
        for sample in family.samples:
            event = family.name == "events_total" and sample.labels.get("severity") != Severity.INFO
            if event or family.name == "problems_detected_total":
                reason = sample.labels.get("reason", "")
                counts[reason] = counts.get(reason, 0.0) + sample.value
    metric = Metric(NPD_COUNTER, "Number of times a specific type of problem have occurred.", "unknown")
    for reason, count in sorted(counts.items()):
        metric.add_sample(NPD_COUNTER, {"reason": reason}, count)
    return metric


def problem_gauge(families: Iterable[Family], conditions: Iterable[ConditionView]) -> Metric:
    """Node Problem Detector's gauge: 1 while a condition is True by this reason, 0 for its earlier reasons."""
    held = {condition.type: condition for condition in conditions}
    active = ((c.type, c.reason) for c in held.values() if c.status is ConditionStatus.TRUE)
    values = dict.fromkeys(active, 1.0)
    for family in families:
        if family.name == "problems_detected_total":
            for sample in family.samples:
                pair = (sample.labels.get("type", ""), sample.labels.get("reason", ""))
                if pair[0] in held:
                    values.setdefault(pair, 0.0)
    gauge = GaugeMetricFamily(NPD_GAUGE, "Whether a specific type of problem is affecting the node or not.")
    for (kind, reason), value in sorted(values.items()):
        gauge.add_sample(NPD_GAUGE, {"type": kind, "reason": reason}, value)
    return gauge

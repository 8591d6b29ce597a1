"""The broker's state in Prometheus' text format, built anew at each scrape: a series whose subject is gone is gone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodedoctor.bus.messages import Family, Snapshot

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
SUFFIXES = {
    "gauge": ("",),
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
"""By kind, what a family's names end in; the OpenMetrics text is refused whole when two families share one."""
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
    collector = SnapshotCollector(snapshot, age, namespace, npd_compatible=npd_compatible)
    registry.register(collector)
    text = encode(registry)
    # The library has no counters whose names do not end in _total, as Node Problem Detector's do not. The text
    # format allows them, OpenMetrics (which says "unknown" there) does not.
    for name in collector.odd_counters:
        untyped, counter = (f"\n# TYPE {name} {kind}\n".encode() for kind in ("untyped", "counter"))
        text = text.replace(untyped, counter)
    return text, content_type


class SnapshotCollector(Collector):
    """Gives a snapshot's families as metrics."""

    def __init__(self, snapshot: Snapshot, age: float, namespace: str, *, npd_compatible: bool) -> None:
        self.families = (*(snapshot.npd_families if npd_compatible else ()), *snapshot.families)
        self.age = age
        self.namespace = namespace
        self.odd_counters: list[str] = []

    def collect(self) -> Iterator[Metric]:
        """Yield every family. One that a plug-in named badly is left out and counted: it must not end the scrape."""
        age, refused = (f"{self.namespace}_{name}" for name in ("snapshot_age_seconds", REFUSED))
        shown = self.shown({age, refused})
        self.odd_counters = [full_name(family, self.namespace) for family in shown if is_odd(family)]
        for family in shown:
            yield metric_of(family, self.namespace)
        yield single(age, "Time since the broker last answered", self.age)
        lost = len(self.families) - len(shown)
        yield single(refused, "Metrics that can't be shown: their names, labels or values are faulty", lost)

    def shown(self, taken: set[str]) -> list[Family]:
        """The families that Prometheus takes; of two that share a name the first one, the broker's own before others."""
        shown = []
        for family in self.families:
            names = names_of(family, self.namespace)
            if sound(family) and taken.isdisjoint(names):
                shown.append(family)
                taken |= names
        return shown


def full_name(family: Family, namespace: str) -> str:
    """The name under which `family` is exported."""
    return family.name if family.bare else f"{namespace}_{family.name}"


def is_odd(family: Family) -> bool:
    """Whether `family` is a counter whose name does not end as a counter's should."""
    return family.kind == "counter" and family.bare and not family.name.endswith("_total")


def names_of(family: Family, namespace: str) -> set[str]:
    """Every name that `family` or one of its series has in one of the formats."""
    base = full_name(family, namespace)
    if is_odd(family):
        return {base}
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
    name = full_name(family, namespace)
    if family.kind == "histogram":
        return histogram_of(name, family)
    odd = is_odd(family)
    kind = "unknown" if odd else family.kind
    metric = Metric(name.removesuffix("_total") if kind == "counter" else name, family.help, kind)
    shown = f"{metric.name}_total" if kind == "counter" else name
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

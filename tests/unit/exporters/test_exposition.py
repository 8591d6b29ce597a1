"""Snapshot to Prometheus text, and health in one word."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from nodedoctor.bus.messages import ConditionView, Family, MonitorView, RemediationView, Sample, Snapshot
from nodedoctor.health import health
from nodedoctor.types import ConditionStatus, MonitorState, Severity
from workers.exporters.exposition import exposition

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = Snapshot(
    "n", "1", 1, 1, WHEN, WHEN, WHEN, (), (), (), (), (), RemediationView(active=False, reason=""), {}, (), ()
)


def condition(status: str, severity: Severity, monitor: str = "m") -> ConditionView:
    """One condition."""
    kind = ConditionStatus(status)
    return ConditionView(f"{status}{severity}{monitor}", kind, "Because", "", monitor, severity, WHEN, WHEN)


def series(snapshot: Snapshot, *, npd: bool = False) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper reads."""
    body, _ = exposition(snapshot, 1.5, "node_doctor", npd_compatible=npd)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def with_families(*families: Family) -> Snapshot:
    """A snapshot with these metrics."""
    return msgspec.structs.replace(EMPTY, families=families)


def test_each_kind_of_metric_is_read_as_it_was_meant() -> None:
    read = series(
        with_families(
            Family("disk_used_ratio", "h", "gauge", (Sample({"path": '/a"\\\n'}, 0.5),)),
            Family("checks_total", "h", "counter", (Sample({"monitor": "m"}, 3),)),
            Family("seconds", "h", "histogram", (Sample({}, 4, ((0.1, 1), (1.0, 3)), 2.5),)),
        )
    )
    assert read["node_doctor_disk_used_ratio", (("path", '/a"\\\n'),)] == 0.5
    assert read["node_doctor_checks_total", (("monitor", "m"),)] == 3
    assert read["node_doctor_seconds_bucket", (("le", "1.0"),)] == 3
    assert read["node_doctor_seconds_bucket", (("le", "+Inf"),)] == 4
    assert (read["node_doctor_seconds_count", ()], read["node_doctor_seconds_sum", ()]) == (4, 2.5)
    assert read["node_doctor_snapshot_age_seconds", ()] == 1.5


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Family("bad name", "", "gauge", (Sample({}, 1),)), id="name"),
        pytest.param(Family("x", "", "gauge", (Sample({"a-b": "1"}, 1),)), id="label"),
        pytest.param(Family("x", "", "gauge", (Sample({}, 1), Sample({}, 2))), id="one series twice"),
        pytest.param(Family("x", "", "gauge", (Sample({}, math.nan),)), id="no number"),
        pytest.param(Family("x", "", "summary", (Sample({}, 1),)), id="kind"),
        pytest.param(Family("x", "", "histogram", (Sample({"le": "1"}, 1),)), id="the buckets' label"),
    ],
)
def test_a_badly_named_metric_is_left_out_and_the_scrape_lives(bad: Family) -> None:
    read = series(with_families(bad, Family("good", "", "gauge", (Sample({}, 1),))))
    assert read["node_doctor_good", ()] == 1
    assert read["node_doctor_exposition_refused_families", ()] == 1


def test_openmetrics_is_given_to_who_asks() -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    snapshot = with_families(Family("checks_total", "h", "counter", (Sample({}, 3),)))
    body, content_type = exposition(snapshot, 0.0, "nd", npd_compatible=False, accept=accept)
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(body.decode())} >= {"nd_checks"}


def test_node_problem_detectors_names_are_there_when_asked_for() -> None:
    counter = Family("problem_counter", "h", "counter", (Sample({"reason": "OOM"}, 5),), bare=True)
    gauge = Family("problem_gauge", "h", "gauge", (Sample({"type": "T", "reason": "R"}, 1),), bare=True)
    snapshot = msgspec.structs.replace(EMPTY, npd_families=(counter, gauge))
    body, _ = exposition(snapshot, 0.0, "nd", npd_compatible=True)
    lines = body.decode().splitlines()
    assert "# TYPE problem_counter counter" in lines
    assert 'problem_counter{reason="OOM"} 5.0' in lines
    assert 'problem_gauge{reason="R",type="T"} 1.0' in lines
    assert not any(name.startswith("problem_") for name, _ in series(snapshot))


def test_a_bare_metric_has_no_prefix_in_either_format() -> None:
    snapshot = with_families(
        Family("net_rx_bytes", "h", "counter", (Sample({"interface_name": "lo"}, 7),), bare=True),
        Family("cpu_load_1m", "h", "gauge", (Sample({}, 0.5),), bare=True),
    )
    lines = exposition(snapshot, 0.0, "nd", npd_compatible=False)[0].decode().splitlines()
    assert {"# TYPE net_rx_bytes counter", 'net_rx_bytes{interface_name="lo"} 7.0'} <= set(lines)
    assert "cpu_load_1m 0.5" in lines
    accept = "application/openmetrics-text; version=1.0.0"
    body, _ = exposition(snapshot, 0.0, "nd", npd_compatible=False, accept=accept)
    assert {family.name for family in parse_openmetrics(body.decode())} >= {"net_rx_bytes", "cpu_load_1m"}


@pytest.mark.parametrize(
    "clash",
    [
        pytest.param([("x", "gauge"), ("x", "gauge")], id="two of one name"),
        pytest.param([("x_total", "counter"), ("x", "gauge")], id="a counter's name in OpenMetrics"),
        pytest.param([("x", "histogram"), ("x_sum", "gauge")], id="a histogram's series"),
        pytest.param([("y", "gauge"), ("snapshot_age_seconds", "gauge")], id="the scrape's own"),
    ],
)
def test_of_two_metrics_that_share_a_name_the_first_one_is_shown(clash: list[tuple[str, str]]) -> None:
    snapshot = with_families(*(Family(name, "", kind, (Sample({}, 1),)) for name, kind in clash))
    assert series(snapshot)["node_doctor_exposition_refused_families", ()] == 1
    accept = "application/openmetrics-text; version=1.0.0"
    body, _ = exposition(snapshot, 0.0, "nd", npd_compatible=False, accept=accept)
    names = [family.name for family in parse_openmetrics(body.decode())]
    assert len(names) == len(set(names))
    assert f"nd_{clash[0][0].removesuffix('_total')}" in names


MONITOR = MonitorView("m", "noop", MonitorState.OK, 1.0, 1.0, WHEN, 0.0, 1, 0, 1, ())


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        pytest.param([], "healthy", id="a monitor without conditions"),
        pytest.param([("False", Severity.INFO)], "healthy", id="fine"),
        pytest.param([("True", Severity.ERROR), ("False", Severity.INFO)], "unhealthy", id="a problem"),
        pytest.param([("True", Severity.WARNING)], "degraded", id="a lesser problem"),
        pytest.param([("False", Severity.WARNING)], "degraded", id="a first threshold"),
        pytest.param([("Unknown", Severity.INFO)], "unknown", id="nothing known"),
        pytest.param(
            [("Unknown", Severity.INFO), ("False", Severity.INFO)], "healthy", id="not everything known"
        ),
    ],
)
def test_health_in_one_word(conditions: list[tuple[str, Severity]], word: str) -> None:
    views = tuple(condition(status, severity) for status, severity in conditions)
    assert health(msgspec.structs.replace(EMPTY, conditions=views, monitors=(MONITOR,))) == word

"""Folding of subjects, thresholds in a row, and what a check may do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from nodedoctor.errors import Undetermined
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.roster import MonitorSpec
from nodedoctor.types import ConditionStatus, Result, Severity, Status
from workers.observer import Observer
from workers.verdicts import Confirmed, fold

SPACE = ConditionType("DiskSpaceLow", "DiskFull", "DiskHasSpace", warning_reason="DiskFilling")
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("findings", "status", "reason", "message"),
    [
        pytest.param([], "Unknown", "NotChecked", "the check said nothing about it", id="nothing said"),
        pytest.param([SPACE.when(False, "x")], "False", "DiskHasSpace", "", id="fine"),
        pytest.param(
            [SPACE.when(False, ""), SPACE.when(True, "/b"), SPACE.when(True, "/a"), SPACE.when(False, "")],
            "True",
            "DiskFull",
            "/a; /b",
            id="one bad subject is enough, the last one masks nothing",
        ),
        pytest.param(
            [SPACE.unknown("no"), SPACE.when(False, "")], "Unknown", "CheckUndetermined", "no", id="unknown"
        ),
        pytest.param(
            [SPACE.unknown("no"), SPACE.when(True, "/a")], "True", "DiskFull", "/a", id="bad beats unknown"
        ),
        pytest.param(
            [SPACE.warn_when(True, "/a fills")], "False", "DiskFilling", "/a fills", id="first threshold"
        ),
        pytest.param(
            [SPACE.warn_when(False, "/a fills")], "False", "DiskHasSpace", "", id="below the first threshold"
        ),
    ],
)
def test_all_subjects_fold_into_one_condition(
    findings: list[Finding], status: str, reason: str, message: str
) -> None:
    verdict = fold(SPACE, findings)
    assert (verdict.status, verdict.reason, verdict.message) == (status, reason, message)


def test_a_message_fits_into_what_the_kubernetes_api_takes() -> None:
    verdict = fold(SPACE, [SPACE.when(True, f"/mount/{n:04} ist voll: ä") for n in range(500)])
    assert len(verdict.message.encode()) <= 1024


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        pytest.param("TTT", "U U T", id="the third in a row"),
        pytest.param("FTTFTTT", "F F F F F F T", id="a good one breaks the row"),
        pytest.param("TTTF", "U U T T", id="one good one does not clear"),
        pytest.param("TTTFF", "U U T T F", id="two do"),
        pytest.param("TTTFTF", "U U T T T T", id="a bad one breaks the row of good ones"),
        pytest.param("F", "F", id="the first all-clear needs no repetition"),
        pytest.param("TTUT", "U U U T", id="one that can't tell breaks no row"),
    ],
)
def test_one_check_is_not_believed_at_once(seen: str, told: str) -> None:
    confirmed = Confirmed(SPACE, failures=3, successes=2, now=WHEN)
    verdicts = {
        "T": fold(SPACE, [SPACE.when(True, "bad")]),
        "F": fold(SPACE, [SPACE.when(False, "")]),
        "U": fold(SPACE, [SPACE.unknown("?")]),
    }
    assert " ".join(confirmed.step(verdicts[letter], WHEN).status[0] for letter in seen) == told


class Free(Options, frozen=True):
    """What the check is to do."""

    do: str = "fine"


class Moody(Monitor[Free]):
    """Does what its attribute says."""

    kind, options_type, conditions = "moody", Free, (SPACE,)
    metrics = (Gauge("mood", ""),)
    do = "fine"

    def check(self) -> Iterator[Observation]:
        match self.do:
            case "raise":
                msg = "boom"
                raise ValueError(msg)
            case "forbidden":
                raise PermissionError(13, "Permission denied", "/dev/kmsg")
            case "undetermined":
                msg = "no DNS server is configured"
                raise Undetermined(msg, "NoServer")
            case "nan":
                yield Gauge("mood", "")(float("nan"))
            case "rubbish":
                yield "text"  # type: ignore[misc] # that is the point
            case "warn":
                yield SPACE.warn_when(True, "/ fills")
                return
        yield SPACE.when(False, "")


def observer() -> Observer:
    """One for a moody monitor."""
    spec = MonitorSpec("moody", Moody, Free(), interval=10, timeout=1)
    return Observer(spec, Moody("moody", Free()))


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {c.type: (c.status, c.reason) for c in status.conditions}


@pytest.mark.parametrize("way", ["raise", "nan", "rubbish"])
def test_a_check_that_raises_is_a_status_with_monitor_failing_and_then_recovers(way: str) -> None:
    one = observer()
    Moody.do = way
    status = one.observe()
    assert status.result is Result.UNKNOWN
    assert conditions(status) == {"MonitorFailing": ("True", "CheckRaised")}
    Moody.do = "fine"
    assert conditions(one.observe())["MonitorFailing"] == ("False", "ChecksRun")


@pytest.mark.parametrize(("way", "reason"), [("forbidden", "PermissionDenied"), ("undetermined", "NoServer")])
def test_what_may_not_be_looked_at_is_unknown_with_the_reason(way: str, reason: str) -> None:
    Moody.do = way
    found = conditions(observer().observe())
    assert found == {"DiskSpaceLow": ("Unknown", reason), "MonitorFailing": ("False", "ChecksRun")}


def test_crossing_the_first_threshold_is_one_event() -> None:
    one = observer()
    Moody.do = "warn"
    first, second = one.observe(), one.observe()
    assert [(e.reason, e.severity) for e in first.events] == [("DiskFilling", Severity.WARNING)]
    assert second.events == ()
    assert conditions(second)["DiskSpaceLow"] == (ConditionStatus.FALSE, "DiskFilling")
    Moody.do = "fine"
    one.observe()
    Moody.do = "warn"
    assert len(one.observe().events) == 1

"""Runs one monitor's checks and makes a status of each, whatever the check does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from nodedoctor.errors import Undetermined
from nodedoctor.monitor import ConditionType, Finding, Monitor
from nodedoctor.roster import MonitorSpec
from nodedoctor.types import Condition, ConditionStatus, Event, Metric, Result, Severity, Status, utc_now
from workers.verdicts import NOT_CHECKED, Confirmed, Verdict, fold

FAILING = ConditionType(
    "MonitorFailing", reason="CheckRaised", ok_reason="ChecksRun", severity=Severity.WARNING, latched=True
)
"""Each worker reports it for its own check; the broker makes one condition of all of them."""

logger = logging.getLogger(__name__)


class Observations(msgspec.Struct):
    """What a check has yielded."""

    findings: list[Finding] = []
    events: list[Event] = []
    metrics: list[Metric] = []
    undetermined: Verdict = NOT_CHECKED
    """Why the check said nothing of a condition: it ended before, or left it out."""


class Observer:
    """Turns each check of a monitor into the status to publish.

    A check that raises is a status with MonitorFailing, without the conditions that it did not determine: what was
    known of them is held by the broker.
    """

    def __init__(
        self,
        spec: MonitorSpec,
        monitor: Monitor[Any],
        generation: int = 1,
        wall: Callable[[], datetime] = utc_now,
        *,
        alone: bool = False,
    ) -> None:
        self.spec = spec
        self.monitor = monitor
        self.generation = generation
        self.wall = wall
        self.look_once = monitor.check_alone if alone else monitor.check
        self.checks = 0
        self.failure = ""
        self.exhausted = False
        self.warned: dict[str, str] = {}
        thresholds = (spec.failure_threshold, spec.success_threshold)
        self.confirmed = {c.type: Confirmed(c, *thresholds, wall()) for c in spec.conditions}
        self.failing = Confirmed(FAILING, 1, 1, wall())

    def poll(self) -> bool:
        """Let the monitor take its input; whether it is to be checked. What it raises it raises in its check again."""
        try:
            return self.monitor.poll()
        except Exception:  # noqa: BLE001 - a plug-in's monitor may raise anything
            return True

    def observe(self) -> Status:
        """Check once."""
        self.checks += 1
        began = time.monotonic()
        try:
            seen = self.look()
        except Exception as error:  # noqa: BLE001 - a plug-in's check may raise anything; it must not end the worker
            self.exhausted = isinstance(error, MemoryError)
            return self.failed(error, time.monotonic() - began)
        return self.status(seen, time.monotonic() - began)

    def look(self) -> Observations:
        """What the check yields, up to where it could look."""
        seen = Observations()
        kinds: dict[type, list[Any]] = {Finding: seen.findings, Event: seen.events, Metric: seen.metrics}
        try:
            for observation in self.look_once():
                if type(observation) not in kinds:
                    msg = f"check() yielded {observation!r}: expected a Finding, a Metric or an Event"
                    raise TypeError(msg)
                if isinstance(observation, Metric) and not math.isfinite(observation.value):
                    msg = f"check() yielded the metric {observation.name} with the value {observation.value}"
                    raise ValueError(msg)
                kinds[type(observation)].append(observation)
        except PermissionError as error:
            where = f"{error.filename}: " if error.filename else ""
            seen.undetermined = Verdict(
                ConditionStatus.UNKNOWN, "PermissionDenied", f"{where}{error.strerror or error}"
            )
        except Undetermined as error:
            seen.undetermined = Verdict(ConditionStatus.UNKNOWN, error.reason, str(error))
        return seen

    def status(self, seen: Observations, duration: float) -> Status:
        """The status for a check that ended."""
        now = self.wall()
        conditions, warnings = [], []
        for kind in self.spec.conditions:
            verdict = fold(kind, seen.findings, seen.undetermined)
            condition = self.confirmed[kind.type].step(verdict, now)
            conditions.append(condition)
            warnings += self.warnings(condition, now)
        self.failure = ""
        failing = self.failing.step(Verdict(ConditionStatus.FALSE, FAILING.ok_reason, ""), now)
        return msgspec.structs.replace(
            self.bare_status(now, result_of(conditions), duration),
            conditions=(*conditions, failing),
            events=(*seen.events, *warnings),
            metrics=tuple(seen.metrics),
        )

    def bare_status(self, now: datetime, result: Result, duration: float) -> Status:
        """A status of this check that says nothing yet."""
        return Status(self.spec.name, self.generation, self.checks, now, result, duration)

    def warnings(self, condition: Condition, now: datetime) -> list[Event]:
        """One event when a first threshold was crossed; none while it stays so."""
        text = condition.message if condition.severity is Severity.WARNING else ""
        if condition.status is not ConditionStatus.FALSE or text == self.warned.get(condition.type, ""):
            return []
        self.warned[condition.type] = text
        return [Event(Severity.WARNING, condition.reason, text, now)] if text else []

    def failed(self, error: Exception, duration: float) -> Status:
        """The status for a check that raised; its traceback is logged when it is another one than last time."""
        now = self.wall()
        text = f"{self.spec.name}: {type(error).__name__}: {error}"
        if text != self.failure:
            logger.error("the check raised %s", text, exc_info=error, extra={"monitor": self.spec.name})
        self.failure = text
        failing = self.failing.step(
            Verdict(ConditionStatus.TRUE, FAILING.reason, text, Severity.WARNING), now
        )
        return msgspec.structs.replace(self.bare_status(now, Result.UNKNOWN, duration), conditions=(failing,))


def result_of(conditions: list[Condition]) -> Result:
    """How the check ended: a problem if there is one, unknown if all it looks for is, else fine."""
    statuses = {condition.status for condition in conditions}
    if ConditionStatus.TRUE in statuses:
        return Result.PROBLEM
    if ConditionStatus.UNKNOWN in statuses and ConditionStatus.FALSE not in statuses:
        return Result.UNKNOWN
    return Result.OK

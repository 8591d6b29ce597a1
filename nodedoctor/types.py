"""The vocabulary that crosses processes: what a check found, and what the node's state is.

All of it is immutable and goes over the bus as JSON, so that any tap can read it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

import msgspec


class ConditionStatus(StrEnum):
    """True means that there is a problem; Unknown that it could not be determined."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Severity(StrEnum):
    """How much an event, or a condition in its present state, matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Result(StrEnum):
    """How one check ended, as `_monitor_checks_total` counts it."""

    OK = "ok"
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    CRASH = "crash"


class MonitorState(StrEnum):
    """What a monitor is doing, as `/status` shows it."""

    OK = "ok"
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    HUNG = "hung"
    CRASHED = "crashed"
    STUCK = "stuck"
    PAUSED = "paused"


class Metric(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measured value. `name` ends in its unit and has no prefix; `kind` is gauge or counter.

    A `bare` one is exported under its name alone, without prefix and without the label of its monitor: other
    people's dashboards know it so.
    """

    name: str
    value: float
    labels: dict[str, str] = {}
    kind: str = "gauge"
    bare: bool = False


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened; never a state. `reason` is CamelCase, `timestamp` is when it happened.

    One event may stand for several of its reason: `count` says for how many.
    """

    severity: Severity
    reason: str
    message: str
    timestamp: datetime
    count: int = 1


class Condition(msgspec.Struct, frozen=True):
    """One lasting state of the node as its monitor sees it.

    `since` is when the monitor's verdict last changed. `severity` tells what the state means for the node's
    health: a False condition may carry a warning (a first threshold was crossed), a True one is an error
    unless its monitor says that it is a warning.
    """

    type: str
    status: ConditionStatus
    reason: str
    message: str
    since: datetime
    severity: Severity = Severity.INFO


class Status(msgspec.Struct, frozen=True):
    """What one check of one monitor found: the full set of its conditions, so that the next one heals a loss.

    `generation` counts the processes that this monitor has had; the broker drops a message of an earlier one.
    `check` counts this process's checks from 1. `duration` is in seconds. `memory` (bytes, PSS) and `cpu`
    (seconds) are the worker's own and are absent when they were not measured this time.
    """

    source: str
    generation: int
    check: int
    timestamp: datetime
    result: Result
    duration: float
    conditions: tuple[Condition, ...] = ()
    events: tuple[Event, ...] = ()
    metrics: tuple[Metric, ...] = ()
    memory: int | None = None
    cpu: float | None = None
    repeated: bool = False
    """A repetition for a broker that is new; it counts as no check and its events were told before."""


class Problem(msgspec.Struct, frozen=True):
    """A condition that is True, as the broker tracks it: since when, how often its monitor has seen it."""

    type: str
    reason: str
    message: str
    severity: Severity
    monitor: str
    first_seen: datetime
    last_seen: datetime
    count: int
    resolved: bool = False


def utc_now() -> datetime:
    """The wall clock, in UTC: for people to read, never to measure with."""
    return datetime.now(UTC)


AGENT_CONDITIONS = ("MonitorFailing", "MonitorCrashLooping", "MonitorHung", "ExporterUnavailable")
"""Conditions of the agent itself, which the broker writes."""

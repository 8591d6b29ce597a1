"""The problem detector: what all monitors say, made into one state of the node. No sockets, no clock of its own."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import msgspec

from nodedoctor.bus.messages import (
    ConditionView,
    EventRecord,
    ExporterReport,
    ExporterState,
    WorkerRecord,
    WorkerState,
)
from nodedoctor.duration import seconds
from nodedoctor.roster import MonitorSpec, Roster
from nodedoctor.types import (
    Condition,
    ConditionStatus,
    Event,
    Metric,
    MonitorState,
    Problem,
    Result,
    Severity,
    Status,
)
from supervisor.broker.conditions import NOT_YET_OBSERVED, UNKNOWN, Held, Shown
from supervisor.broker.counters import Counters, Histogram

AGENT = "node-doctor"
"""The monitor to which conditions of the agent itself belong."""
KEPT_EVENTS = 256
HELD_INTERVALS = 3

Message = tuple[str, msgspec.Struct]
"""A topic and what is published under it."""


class MonitorData:
    """What the broker knows of one monitor besides its conditions."""

    def __init__(self, spec: MonitorSpec) -> None:
        self.spec = spec
        self.hold = spec.interval * max(HELD_INTERVALS, spec.failure_threshold) + spec.timeout
        self.generation = 0
        self.checks = 0
        self.last_check: datetime | None = None
        self.last_duration: float | None = None
        self.failing: Condition | None = None
        self.trouble: MonitorState | None = None
        self.metrics: tuple[Metric, ...] = ()
        self.memory: int | None = None
        self.cpu: float | None = None


class ExporterData:
    """What the broker knows of one exporter."""

    def __init__(self, now: float) -> None:
        self.report: ExporterReport | None = None
        self.reported: datetime | None = None
        self.heard_at = now


class BrokerState:
    """Takes statuses, worker records and reports; gives the messages that follow from them.

    Each method takes `now` (CLOCK_MONOTONIC, seconds) and `wall` (UTC) and returns what is to be published, in order.
    """

    def __init__(self, roster: Roster, version: str, epoch: int, now: float, wall: datetime) -> None:
        self.roster = roster
        self.version = version
        self.epoch = epoch
        self.started = wall
        self.supervised = wall
        self.counters = Counters()
        self.monitors = {spec.name: MonitorData(spec) for spec in roster.monitors}
        self.exporters = {spec.name: ExporterData(now) for spec in roster.exporters}
        self.workers: dict[str, WorkerRecord] = {}
        self.kinds = {spec.name: tuple(kind.type for kind in spec.conditions) for spec in roster.monitors}
        self.held = {
            kind.type: Held(
                kind.type,
                spec.name,
                self.monitors[spec.name].hold,
                wall,
                unknown_is_found=kind.unknown_is_found,
            )
            for spec in roster.monitors
            for kind in spec.conditions
        }
        self.agents_own: dict[str, Callable[[float], Shown]] = {
            "MonitorFailing": self.monitor_failing,
            "MonitorCrashLooping": self.monitor_crash_looping,
            "MonitorHung": self.monitor_hung,
            "ExporterUnavailable": self.exporter_unavailable,
        }
        for name in self.agents_own:
            self.held[name] = Held(name, AGENT, 0.0, wall)
        self.own = {kind: held.unobserved for kind, held in self.held.items() if held.monitor != AGENT}
        self.agent_changed = True
        self.has_dependencies = any(spec.depends_on for spec in roster.monitors)
        self.silent = {spec.name for spec in roster.monitors if not spec.metrics_reporting}
        self.start_at_zero()
        self.problems: dict[str, Problem] = {}
        self.events: deque[EventRecord] = deque(maxlen=KEPT_EVENTS)
        self.exporter_patience = 3 * seconds(roster.config.settings.update_interval) + 10

    def start_at_zero(self) -> None:
        """Let what may be counted be seen before it happens: an increase from nothing at all is not noticed."""
        for spec in self.roster.monitors:
            for reason in spec.events:
                self.counters.events[spec.name, reason.severity, reason.reason] = 0
            changes = [
                (kind.type, reason) for kind in spec.conditions for reason in kind.reasons or (kind.reason,)
            ]
            self.counters.problems.update(dict.fromkeys(changes, 0))
            if spec.name not in self.silent:
                found = [e.reason for e in spec.events if e.severity is not Severity.INFO]
                self.counters.reported.update({(reason,): 0 for reason in (*found, *(r for _, r in changes))})

    def on_status(self, status: Status, now: float, wall: datetime) -> list[Message]:
        """A monitor has checked, or repeats its newest status to a broker that it takes for a new one."""
        data = self.monitors.get(status.source)
        if data is None:
            return []
        if status.generation < data.generation:
            self.counters.fenced[status.source,] += 1
            return []
        data.generation = status.generation
        data.last_check, data.last_duration = status.timestamp, status.duration
        self.agent_changed |= data.trouble is not None
        data.trouble = None
        data.metrics = status.metrics or data.metrics
        data.memory, data.cpu = status.memory or data.memory, status.cpu or data.cpu
        if not status.repeated:
            self.count(data, status)
        messages = [message for event in status.events for message in self.on_found(data.spec.name, event)]
        for condition in status.conditions:
            if condition.type == "MonitorFailing":
                self.agent_changed |= data.failing is None or data.failing.message != condition.message
                data.failing = condition
            elif (held := self.held.get(condition.type)) and held.monitor == status.source:
                held.on_report(condition, now, wall)
                self.recount(condition, wall)
        return [*messages, *self.refresh(now, wall, [status.source])]

    def count(self, data: MonitorData, status: Status) -> None:
        """One more check."""
        data.checks += 1
        self.counters.checks[status.source, status.result] += 1
        self.counters.durations.setdefault(status.source, Histogram()).observe(status.duration)

    def recount(self, condition: Condition, wall: datetime) -> None:
        """A problem that is still there was seen once more."""
        problem = self.problems.get(condition.type)
        if problem and condition.status is ConditionStatus.TRUE:
            self.problems[condition.type] = msgspec.structs.replace(
                problem, last_seen=wall, count=problem.count + 1
            )

    def on_found(self, monitor: str, event: Event) -> Iterator[Message]:
        """A monitor found that something happened; what is told again by a restarted worker is known."""
        if EventRecord.of(monitor, event) in self.events:
            return
        if event.severity is not Severity.INFO and monitor not in self.silent:
            self.counters.reported[event.reason,] += event.count
        yield from self.on_event(monitor, event)

    def on_event(self, monitor: str, event: Event) -> Iterator[Message]:
        """Something happened: count it, keep it, tell it."""
        record = EventRecord.of(monitor, event)
        self.counters.events[monitor, event.severity, event.reason] += event.count
        self.events.append(record)
        yield f"event.{monitor}", record

    def on_worker(self, record: WorkerRecord, now: float, wall: datetime) -> list[Message]:
        """The supervisor tells of a worker; the whole record each time."""
        self.supervised = wall
        before = self.workers.get(record.name)
        self.workers[record.name] = record
        if record == before:
            return []
        self.agent_changed = True
        role, _, name = record.name.partition(" ")
        if role == "monitor" and name in self.monitors:
            self.on_monitor_process(self.monitors[name], before, record)
        return [(f"worker.{name or role}", record), *self.refresh(now, wall, [])]

    def on_monitor_process(
        self, data: MonitorData, before: WorkerRecord | None, record: WorkerRecord
    ) -> None:
        """What a change of its process means for a monitor: checks that never ended, statuses to refuse."""
        data.generation = max(data.generation, record.generation)
        for reason, result, trouble in (
            ("hang", Result.TIMEOUT, MonitorState.HUNG),
            ("crash", Result.CRASH, MonitorState.CRASHED),
        ):
            more = record.restarts.get(reason, 0) - (before.restarts.get(reason, 0) if before else 0)
            if before and more > 0:
                self.counters.checks[data.spec.name, result] += more
                data.trouble = trouble
        if record.state is WorkerState.HUNG:
            data.trouble = MonitorState.HUNG

    def on_exporter(self, report: ExporterReport, now: float, wall: datetime) -> list[Message]:
        """An exporter tells how it fares."""
        data = self.exporters.get(report.name)
        if data is None or (data.report and report.generation < data.report.generation):
            return []
        changed = data.report is None or (data.report.state, data.report.message) != (
            report.state,
            report.message,
        )
        data.report, data.reported, data.heard_at = report, wall, now
        self.agent_changed |= changed
        messages: list[Message] = [(f"exporter.{report.name}", report)] if changed else []
        return [*messages, *self.refresh(now, wall, [])]

    def on_beat(self, wall: datetime) -> None:
        """The supervisor is alive."""
        self.supervised = wall

    def on_tick(self, now: float, wall: datetime) -> list[Message]:
        """Time has passed: what is stale by now?"""
        self.agent_changed = True
        return self.refresh(now, wall, self.monitors)

    def refresh(self, now: float, wall: datetime, reported: Iterable[str]) -> list[Message]:
        """Bring the conditions of the monitors that `reported` up to date, those that depend on them, and the agent's."""
        for name in reported:
            for kind in self.kinds[name]:
                self.own[kind] = self.held[kind].effective(now)
        sick = self.sick() if self.has_dependencies else set()
        messages: list[Message] = []
        for name in self.monitors if self.has_dependencies else reported:
            for kind in self.kinds[name]:
                shown = self.with_dependencies(name, self.own[kind], sick)
                messages += self.apply(self.held[kind], shown, wall)
        if self.agent_changed:
            self.agent_changed = False
            for kind, look in self.agents_own.items():
                self.held[kind].updated = wall
                messages += self.apply(self.held[kind], look(now), wall)
        return messages

    def sick(self) -> set[str]:
        """Monitors with a problem, and those that can't tell because of one of them."""
        sick = {
            self.held[kind].monitor
            for kind, shown in self.own.items()
            if shown.status is ConditionStatus.TRUE
        }
        grown = True
        while grown:
            more = {name for name, data in self.monitors.items() if sick & set(data.spec.depends_on)} - sick
            sick |= more
            grown = bool(more)
        return sick

    def with_dependencies(self, monitor: str, shown: Shown, sick: set[str]) -> Shown:
        """`shown`, or Unknown while a monitor that this one depends on has a problem."""
        blocking = [name for name in self.monitors[monitor].spec.depends_on if name in sick]
        if not blocking:
            return shown
        return Shown(UNKNOWN, "DependencyUnhealthy", f"can't tell while {', '.join(blocking)} has a problem")

    def apply(self, held: Held, shown: Shown, wall: datetime) -> list[Message]:
        """Show `shown`; the messages if that is a change."""
        before = held.view
        view = held.show(shown, wall)
        if (before.status, before.reason, before.message, before.severity) == (
            view.status,
            view.reason,
            view.message,
            view.severity,
        ):
            return []
        messages: list[Message] = []
        if before.status is not view.status:
            messages.append((f"condition.{view.type}", view))
        known = shown.since is not None and shown.since < self.started
        return [*messages, *self.on_problem(before, view, known=known)]

    def on_problem(self, before: ConditionView, view: ConditionView, *, known: bool) -> Iterator[Message]:
        """A problem appeared, changed or went away. One that an earlier broker knew already is not news."""
        bad, was_bad = view.status is ConditionStatus.TRUE, before.status is ConditionStatus.TRUE
        if bad:
            first = self.problems.get(view.type)
            self.problems[view.type] = Problem(
                type=view.type,
                reason=view.reason,
                message=view.message,
                severity=view.severity,
                monitor=view.monitor,
                first_seen=view.last_transition_time,
                last_seen=view.last_update_time,
                count=first.count if first else 1,
            )
            yield f"problem.{view.type}", self.problems[view.type]
            if not was_bad or before.reason != view.reason:
                if known and not was_bad:
                    return
                self.counters.problems[view.type, view.reason] += 1
                if view.monitor not in self.silent:
                    self.counters.reported[view.reason,] += 1
                yield from self.transition_event(view)
        elif was_bad:
            gone = self.problems.pop(view.type)
            yield f"problem.{view.type}", msgspec.structs.replace(gone, resolved=True)
            yield from self.transition_event(view)
        elif before.status is not view.status and before.reason != NOT_YET_OBSERVED:
            yield from self.transition_event(view)

    def transition_event(self, view: ConditionView) -> Iterator[Message]:
        """The event that tells of a transition, in the words of Node Problem Detector."""
        severity = view.severity if view.status is ConditionStatus.TRUE else Severity.INFO
        what = f"Node condition {view.type} is now: {view.status}, reason: {view.reason}"
        text = f"{what}, message: {json.dumps(view.message, ensure_ascii=False)}"
        return self.on_event(view.monitor, Event(severity, view.reason, text, view.last_update_time))

    def monitor_failing(self, _now: float) -> Shown:
        """Monitors whose check raised."""
        bad = [
            d.failing.message
            for d in self.monitors.values()
            if d.failing and d.failing.status is ConditionStatus.TRUE
        ]
        return shown(bad, "CheckRaised", "ChecksRun")

    def monitor_crash_looping(self, _now: float) -> Shown:
        """Workers that keep dying soon after their start."""
        bad = [f"{r.name}: {r.last_exit}" for r in self.workers.values() if r.crash_looping]
        return shown(bad, "WorkerKeepsDying", "WorkersStable")

    def monitor_hung(self, _now: float) -> Shown:
        """Monitors whose check does not come back."""
        bad = []
        for name, data in self.monitors.items():
            state = self.monitor_state(data)
            if state in {MonitorState.HUNG, MonitorState.STUCK, MonitorState.PAUSED}:
                bad.append(f"{name} is {state}")
        return shown(bad, "CheckDoesNotReturn", "ChecksReturn")

    def exporter_unavailable(self, now: float) -> Shown:
        """Exporters that can't do their work, or say nothing any more."""
        bad = []
        for name, data in self.exporters.items():
            if now - data.heard_at > self.exporter_patience:
                bad.append(f"{name}: has not reported for longer than it may")
            elif data.report and data.report.state is ExporterState.UNAVAILABLE:
                bad.append(f"{name}: {data.report.message}")
        return shown(bad, "ExporterUnavailable", "ExportersRun")

    def monitor_state(self, data: MonitorData) -> MonitorState:
        """What a monitor is doing: first whether its process is sound, then what it found."""
        record = self.workers.get(f"monitor {data.spec.name}")
        if record and record.state is WorkerState.PAUSED:
            return MonitorState.PAUSED
        if record and record.stuck:
            return MonitorState.STUCK
        if data.trouble:
            return data.trouble
        statuses = {self.held[kind].view.status for kind in self.kinds[data.spec.name]}
        if ConditionStatus.TRUE in statuses:
            return MonitorState.PROBLEM
        failing = data.failing is not None and data.failing.status is ConditionStatus.TRUE
        if failing or data.last_check is None or statuses == {UNKNOWN}:
            return MonitorState.UNKNOWN
        return MonitorState.OK


def shown(bad: Iterable[str], reason: str, ok_reason: str) -> Shown:
    """A condition of the agent itself: True with all that is `bad`, else False."""
    text = "; ".join(sorted(bad))
    if text:
        return Shown(ConditionStatus.TRUE, reason, text, Severity.WARNING)
    return Shown(ConditionStatus.FALSE, ok_reason, "")

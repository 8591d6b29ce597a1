"""The problem detector without sockets: numbers for time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nodedoctor.bus.messages import ConditionView, ExporterReport, ExporterState, WorkerRecord, WorkerState
from nodedoctor.config.model import Config, MonitorEntry
from nodedoctor.roster import roster_of
from nodedoctor.types import (
    Condition,
    ConditionStatus,
    Event,
    MonitorState,
    Problem,
    Result,
    Severity,
    Status,
)
from supervisor.broker.conditions import Held
from supervisor.broker.snapshot import snapshot_of
from supervisor.broker.state import BrokerState, Message
from workers.resources import Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


def wall(now: float) -> datetime:
    """The wall clock at the monotonic time `now`."""
    return START + timedelta(seconds=now)


class Node:
    """A broker's state with two monitors, `a` and `b`, each every 10 s; b may depend on a."""

    def __init__(self, b_depends_on: tuple[str, ...] = ()) -> None:
        entries = (
            MonitorEntry(name="a", type="noop", interval="10s", timeout="1s"),
            MonitorEntry(name="b", type="noop", interval="10s", timeout="1s", depends_on=b_depends_on),
        )
        config = Config(api_version="node-doctor.io/v1alpha1", kind="NodeDoctorConfig", monitors=entries)
        self.state = BrokerState(roster_of(config, "n1"), "1.0", 1, 0.0, wall(0))
        self.checks = 0

    def says(
        self,
        status: ConditionStatus,
        now: float,
        *,
        monitor: str = "a",
        reason: str = "Because",
        generation: int = 1,
        since: float | None = None,
        events: tuple[Event, ...] = (),
        repeated: bool = False,
    ) -> list[Message]:
        """The monitor reports its condition."""
        self.checks += 1
        kind = f"{monitor.upper()}Unhealthy"
        severity = Severity.ERROR if status is TRUE else Severity.INFO
        condition = Condition(kind, status, reason, "text", wall(now if since is None else since), severity)
        result = Result.PROBLEM if status is TRUE else Result.OK
        return self.state.on_status(
            Status(
                monitor,
                generation,
                self.checks,
                wall(now),
                result,
                0.01,
                (condition,),
                events,
                repeated=repeated,
            ),
            now,
            wall(now),
        )

    def shown(self, kind: str = "AUnhealthy") -> tuple[ConditionStatus, str]:
        """Status and reason of a condition as everybody sees it."""
        view = self.state.held[kind].view
        return view.status, view.reason

    def record(self, now: float, state: WorkerState = WorkerState.RUNNING, **fields: object) -> list[Message]:
        """The supervisor tells of monitor a's process."""
        values = {"generation": 1, "pid": 7, "since": wall(now), **fields}
        return self.state.on_worker(WorkerRecord(name="monitor a", state=state, **values), now, wall(now))  # type: ignore[arg-type]


def topics(messages: list[Message]) -> list[str]:
    """What was published."""
    return [topic for topic, _ in messages]


def test_a_condition_is_unknown_until_it_was_first_observed() -> None:
    assert Node().shown() == (UNKNOWN, "NotYetObserved")


def test_a_problem_is_published_as_condition_problem_and_event() -> None:
    node = Node()
    node.says(FALSE, 0)
    messages = node.says(TRUE, 10)
    assert topics(messages) == ["condition.AUnhealthy", "problem.AUnhealthy", "event.a"]
    assert node.state.counters.problems["AUnhealthy", "Because"] == 1


def test_a_problem_that_stays_is_told_once_and_counted_each_time() -> None:
    node = Node()
    node.says(TRUE, 0)
    assert node.says(TRUE, 10) == []
    assert node.state.problems["AUnhealthy"].count == 2
    assert node.state.counters.problems["AUnhealthy", "Because"] == 1


def test_a_resolved_problem_is_told_as_resolved() -> None:
    node = Node()
    node.says(TRUE, 0)
    messages = dict(node.says(FALSE, 10))
    problem = messages["problem.AUnhealthy"]
    assert isinstance(problem, Problem)
    assert problem.resolved
    assert not node.state.problems


def test_the_transition_time_moves_with_the_status_alone() -> None:
    node = Node()
    node.says(TRUE, 10)
    node.says(TRUE, 20, reason="OtherReason", since=10)
    assert node.state.held["AUnhealthy"].view.last_transition_time == wall(10)
    assert node.state.held["AUnhealthy"].view.last_update_time == wall(20)


def test_a_silent_monitor_keeps_its_last_verdict_for_three_intervals_then_turns_unknown() -> None:
    node = Node()
    node.says(TRUE, 0)
    node.state.on_tick(30, wall(30))
    assert node.shown() == (TRUE, "Because")
    node.state.on_tick(32, wall(32))
    assert node.shown() == (UNKNOWN, "MonitorStale")


def test_a_check_that_can_not_tell_neither_sets_nor_clears_a_problem() -> None:
    node = Node()
    node.says(TRUE, 0)
    node.says(UNKNOWN, 10, reason="PermissionDenied")
    assert node.shown() == (TRUE, "Because")
    node.says(UNKNOWN, 35, reason="PermissionDenied")
    assert node.shown() == (UNKNOWN, "PermissionDenied")


def test_an_unknown_from_the_start_is_shown_with_its_reason() -> None:
    node = Node()
    node.says(UNKNOWN, 0, reason="PermissionDenied")
    assert node.shown() == (UNKNOWN, "PermissionDenied")


def test_a_monitor_that_depends_on_a_sick_one_is_unknown_and_comes_back() -> None:
    node = Node(b_depends_on=("a",))
    node.says(FALSE, 0, monitor="b")
    assert node.shown("BUnhealthy") == (FALSE, "Because")
    node.says(TRUE, 1, monitor="a")
    assert node.shown("BUnhealthy") == (UNKNOWN, "DependencyUnhealthy")
    node.says(TRUE, 2, monitor="b")
    assert node.shown("BUnhealthy") == (UNKNOWN, "DependencyUnhealthy")
    node.says(FALSE, 3, monitor="a")
    assert node.shown("BUnhealthy") == (TRUE, "Because")


def test_a_status_of_a_replaced_process_is_fenced_off() -> None:
    node = Node()
    node.says(FALSE, 0, generation=2)
    assert node.says(TRUE, 1, generation=1) == []
    assert node.shown() == (FALSE, "Because")
    assert node.state.counters.fenced["a",] == 1


def test_the_supervisors_word_of_a_new_process_fences_the_old_one_before_the_new_one_speaks() -> None:
    node = Node()
    node.says(FALSE, 0)
    node.record(1, generation=2)
    node.says(TRUE, 2, generation=1)
    assert node.shown() == (FALSE, "Because")


def test_nobody_but_its_owner_writes_a_condition() -> None:
    node = Node()
    node.says(FALSE, 0)
    forged = Condition("AUnhealthy", TRUE, "Forged", "", wall(1), Severity.ERROR)
    node.state.on_status(Status("b", 1, 1, wall(1), Result.OK, 0.0, (forged,)), 1, wall(1))
    assert node.shown() == (FALSE, "Because")


def test_a_problem_that_an_earlier_broker_knew_is_no_news_and_keeps_its_time() -> None:
    node = Node()
    messages = node.says(TRUE, 10, since=-100, repeated=True)
    assert "event.a" not in topics(messages)
    assert node.state.counters.problems.total() == 0
    assert node.state.held["AUnhealthy"].view.last_transition_time == wall(-100)
    assert node.state.problems["AUnhealthy"].first_seen == wall(-100)


def test_events_that_are_told_again_are_taken_once() -> None:
    node = Node()
    event = Event(Severity.WARNING, "OOMKilling", "killed", wall(1))
    assert topics(node.says(FALSE, 1, events=(event,)))[0] == "event.a"
    assert "event.a" not in topics(node.says(FALSE, 2, events=(event,), repeated=True))
    assert node.state.counters.events["a", "warning", "OOMKilling"] == 1


def test_a_hang_counts_as_a_timeout_and_shows_until_the_next_status() -> None:
    node = Node()
    node.record(0)
    node.says(FALSE, 1)
    node.record(2, WorkerState.HUNG)
    assert node.state.monitor_state(node.state.monitors["a"]) is MonitorState.HUNG
    assert node.state.held["MonitorHung"].view.status is TRUE
    node.record(3, generation=2, restarts={"hang": 1})
    assert node.state.counters.checks["a", "timeout"] == 1
    assert node.state.monitor_state(node.state.monitors["a"]) is MonitorState.HUNG
    node.says(FALSE, 4, generation=2)
    assert node.state.monitor_state(node.state.monitors["a"]) is MonitorState.OK
    assert node.state.held["MonitorHung"].view.status is FALSE


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        pytest.param({"state": WorkerState.PAUSED}, MonitorState.PAUSED, id="paused"),
        pytest.param({"stuck": 1}, MonitorState.STUCK, id="stuck"),
        pytest.param({"restarts": {"crash": 1}}, MonitorState.CRASHED, id="crashed"),
    ],
)
def test_a_monitor_shows_what_happened_to_its_process(fields: dict[str, object], state: MonitorState) -> None:
    node = Node()
    node.record(0)
    node.record(1, **fields)  # type: ignore[arg-type] # one table for all fields
    assert node.state.monitor_state(node.state.monitors["a"]) is state


def test_a_crash_loop_is_a_condition_of_the_agent() -> None:
    node = Node()
    node.record(0, crash_looping=True, last_exit="was killed by signal 11")
    view = node.state.held["MonitorCrashLooping"].view
    assert (view.status, view.monitor) == (TRUE, "node-doctor")
    assert "monitor a: was killed by signal 11" in view.message
    node.record(100)
    assert node.state.held["MonitorCrashLooping"].view.status is FALSE


def test_one_failing_monitor_is_enough_and_the_message_names_it() -> None:
    node = Node()
    for monitor, status in (("a", TRUE), ("b", FALSE)):
        failing = Condition(
            "MonitorFailing", status, "CheckRaised", f"{monitor}: boom", wall(0), Severity.WARNING
        )
        node.state.on_status(Status(monitor, 1, 1, wall(0), Result.UNKNOWN, 0.0, (failing,)), 0, wall(0))
    view = node.state.held["MonitorFailing"].view
    assert (view.status, view.message) == (TRUE, "a: boom")


def test_an_exporter_without_its_port_is_a_condition_of_the_agent() -> None:
    node = Node()
    node.state.on_exporter(
        ExporterReport("http", 1, ExporterState.UNAVAILABLE, "port 1 is taken"), 0, wall(0)
    )
    assert node.shown("ExporterUnavailable") == (TRUE, "ExporterUnavailable")
    node.state.on_exporter(ExporterReport("http", 1, ExporterState.RUNNING), 1, wall(1))
    assert node.shown("ExporterUnavailable")[0] is FALSE


def test_a_silent_exporter_is_unavailable() -> None:
    node = Node()
    node.state.on_exporter(ExporterReport("http", 1, ExporterState.RUNNING), 0, wall(0))
    node.state.on_tick(1000, wall(1000))
    assert node.shown("ExporterUnavailable")[0] is TRUE


def test_the_snapshot_holds_every_condition_once_and_three_series_of_it() -> None:
    node = Node()
    node.says(TRUE, 0)
    snapshot = snapshot_of(node.state, 5, wall(1), Usage(1, 1, 1.0), 0)
    kinds = [condition.type for condition in snapshot.conditions]
    assert len(kinds) == len(set(kinds))
    (family,) = [family for family in snapshot.families if family.name == "condition"]
    mine = {s.labels["status"]: s.value for s in family.samples if s.labels["type"] == "AUnhealthy"}
    assert mine == {"True": 1.0, "False": 0.0, "Unknown": 0.0}


def test_a_transition_message_holds_the_whole_condition() -> None:
    node = Node()
    ((_, view), *_) = node.says(FALSE, 3)
    assert isinstance(view, ConditionView)
    assert (view.type, view.status, view.monitor) == ("AUnhealthy", FALSE, "a")


def test_an_unknown_that_was_found_is_told_at_once_and_one_before_the_first_look_is_not() -> None:
    held = Held("X", "a", 30.0, wall(0), unknown_is_found=True)
    for now, status, reason, shown in (
        (0.0, TRUE, "Bad", TRUE),
        (1.0, UNKNOWN, "NotYetObserved", TRUE),
        (2.0, UNKNOWN, "Timeout", UNKNOWN),
        (3.0, FALSE, "Fine", FALSE),
    ):
        held.on_report(Condition("X", status, reason, "", wall(now)), now, wall(now))
        assert held.effective(now).status is shown


def test_every_change_of_a_status_is_an_event_but_the_first_all_clear() -> None:
    node = Node()
    steps = [(FALSE, 0), (TRUE, 10), (FALSE, 20), (UNKNOWN, 30), (FALSE, 70)]
    told = [
        (event.severity, event.message)
        for status, now in steps
        for topic, event in [*node.says(status, now), *node.state.on_tick(now + 0.5, wall(now + 0.5))]
        if topic == "event.a"
    ]
    assert told == [
        (Severity.ERROR, 'Node condition AUnhealthy is now: True, reason: Because, message: "text"'),
        (Severity.INFO, 'Node condition AUnhealthy is now: False, reason: Because, message: "text"'),
    ]
    late = [event for topic, event in node.state.on_tick(200, wall(200)) if topic == "event.a"]
    assert [event.severity for event in late] == [Severity.INFO]
    assert late[0].message.startswith("Node condition AUnhealthy is now: Unknown, reason: MonitorStale")


LOG = {
    "rules": [
        {"name": "oom", "pattern": "x", "reason": "OOMKilling"},
        {
            "name": "hung",
            "pattern": "x",
            "type": "permanent",
            "condition": "KernelDeadlock",
            "reason": "DockerHung",
        },
        {
            "name": "aufs",
            "pattern": "x",
            "type": "permanent",
            "condition": "KernelDeadlock",
            "reason": "AufsHung",
        },
    ]
}


def log_node(**options: bool) -> BrokerState:
    """A broker's state with one monitor of a log."""
    entry = MonitorEntry(
        name="log", type="log-pattern", interval="10s", timeout="1s", config={**LOG, **options}
    )
    config = Config(api_version="node-doctor.io/v1alpha1", kind="NodeDoctorConfig", monitors=(entry,))
    return BrokerState(roster_of(config, "n1"), "1.0", 1, 0.0, wall(0))


def npd(state: BrokerState) -> dict[str, float]:
    """Node Problem Detector's series by the values of their labels."""
    families = snapshot_of(state, 1, wall(1), Usage(0, 0, 0.0), 0).npd_families
    return {
        " ".join(sample.labels.values()): sample.value for family in families for sample in family.samples
    }


def log_says(state: BrokerState, now: float, reason: str, *events: Event) -> None:
    """The condition holds for `reason`, or does not if there is none; and these events."""
    status = TRUE if reason else FALSE
    condition = Condition("KernelDeadlock", status, reason or "NotInLog", "", wall(now), Severity.ERROR)
    state.on_status(Status("log", 1, 1, wall(now), Result.OK, 0.0, (condition,), events), now, wall(now))


def test_node_problem_detectors_metrics_are_there_from_the_start_and_count_as_it_does() -> None:
    state = log_node()
    held = {"KernelDeadlock DockerHung": 0, "KernelDeadlock AufsHung": 0}
    zero = {"OOMKilling": 0, "DockerHung": 0, "AufsHung": 0, "LogLinesLost": 0}
    own = {kind: value for kind, value in npd(state).items() if kind in {**held, **zero}}
    assert own == {**held, **zero}
    events = [Event(Severity.WARNING, "OOMKilling", "x", wall(1), count) for count in (1, 4)]
    log_says(state, 1, "DockerHung", *events)
    log_says(state, 2, "DockerHung")
    counted = npd(state)
    assert (counted["OOMKilling"], counted["DockerHung"], counted["KernelDeadlock DockerHung"]) == (5, 1, 1)
    log_says(state, 3, "AufsHung")
    counted = npd(state)
    assert [counted[k] for k in (*held, "DockerHung", "AufsHung")] == [0, 1, 1, 1]
    log_says(state, 4, "")
    counted = npd(state)
    assert [counted[k] for k in (*held, "DockerHung", "AufsHung")] == [0, 0, 1, 1]


def test_who_reports_no_metrics_is_not_counted_as_node_problem_detector_does() -> None:
    state = log_node(metricsReporting=False)
    log_says(state, 1, "DockerHung", Event(Severity.WARNING, "OOMKilling", "x", wall(1)))
    assert not {"OOMKilling", "DockerHung", "KernelDeadlock DockerHung"} & npd(state).keys()
    assert state.counters.problems["KernelDeadlock", "DockerHung"] == 1

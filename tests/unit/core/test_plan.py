"""The supervisor's plan: numbers for time, no process."""

from __future__ import annotations

from nodedoctor.bus.messages import WorkerState
from supervisor.plan import (
    Exited,
    Kill,
    Overdue,
    Plan,
    Policy,
    Ready,
    Role,
    Start,
    Stop,
    Tell,
    Terminate,
    Tick,
)
from workers.process import RECYCLED


def running_plan(**policy: float) -> Plan:
    """A plan whose broker and one monitor run since time 0, without jitter."""
    plan = Plan(
        [("broker", Role.BROKER), ("exporter http", Role.EXPORTER), ("monitor disk", Role.MONITOR)],
        Policy(**policy),  # type: ignore[arg-type] # mypy can't match numbers with the fields
        uniform=lambda _low, high: high,
    )
    plan.begin(0)
    plan.on(Ready(), 0)
    return plan


def test_nothing_but_the_broker_starts_before_the_broker_listens() -> None:
    plan = Plan([("broker", Role.BROKER), ("monitor disk", Role.MONITOR)])
    assert plan.begin(0) == [Start("broker", 1), Tell("broker")]
    assert plan.on(Tick(), 100) == []
    assert Start("monitor disk", 1) in plan.on(Ready(), 100)


def test_a_later_broker_finds_the_others_running() -> None:
    plan = running_plan()
    plan.on(Exited("broker", 1, -9), 10)
    assert Start("broker", 2) in plan.on(Tick(), 11)
    assert plan.on(Ready(), 11) == []


def test_a_worker_that_keeps_crashing_comes_back_more_and_more_slowly() -> None:
    plan = running_plan(longest=1.0)
    waits, now = [], 0.0
    for generation in range(1, 8):
        plan.on(Exited("monitor disk", generation, -11), now)
        due = plan.workers["monitor disk"].due
        assert due is not None
        waits.append(round(due - now, 3))
        now = due
        assert Start("monitor disk", generation + 1) in plan.on(Tick(), now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_healthy_hour_makes_earlier_deaths_forgotten() -> None:
    plan = running_plan()
    for generation in range(1, 6):
        plan.on(Exited("monitor disk", generation, 1), 10 * generation)
        plan.on(Tick(), 10 * generation + 5)
    assert plan.workers["monitor disk"].deaths == 5
    plan.on(Tick(), 3600)
    assert plan.workers["monitor disk"].deaths == 0
    plan.on(Exited("monitor disk", 6, 1), 3601)
    assert plan.workers["monitor disk"].due == 3601.1


def test_a_hanging_worker_is_asked_then_killed_then_replaced_at_once() -> None:
    plan = running_plan()
    assert plan.on(Overdue("monitor disk", 1), 10) == [Terminate("monitor disk", 1), Tell("monitor disk")]
    assert plan.workers["monitor disk"].state is WorkerState.HUNG
    assert plan.on(Tick(), 10.4) == []
    assert plan.on(Tick(), 10.5) == [Kill("monitor disk", 1)]
    assert Start("monitor disk", 2) in plan.on(Exited("monitor disk", 1, -9), 10.51)
    assert plan.workers["monitor disk"].restarts == {"hang": 1}


def test_a_worker_that_hangs_is_terminated_once() -> None:
    plan = running_plan()
    plan.on(Overdue("monitor disk", 1), 10)
    assert plan.on(Overdue("monitor disk", 1), 10.1) == []


def test_what_survives_sigkill_is_set_aside_and_replaced() -> None:
    plan = running_plan()
    plan.on(Overdue("monitor disk", 1), 10)
    plan.on(Tick(), 10.5)
    assert Start("monitor disk", 2) in plan.on(Tick(), 11.5)
    assert plan.workers["monitor disk"].stuck == {1}


def test_three_stuck_processes_pause_a_worker_until_one_of_them_dies() -> None:
    plan = running_plan(first=0.0)
    now = 10.0
    for generation in (1, 2, 3):
        plan.on(Overdue("monitor disk", generation), now)
        plan.on(Tick(), now + 1)
        plan.on(Tick(), now + 3)
        plan.on(Tick(), now + 4)
        now += 10
    worker = plan.workers["monitor disk"]
    assert (worker.state, worker.stuck) == (WorkerState.PAUSED, {1, 2, 3})
    assert plan.on(Tick(), 10_000) == []
    assert Start("monitor disk", 4) in plan.on(Exited("monitor disk", 2, -9), 10_001)
    assert worker.stuck == {1, 3}


def test_the_exit_of_a_process_that_was_set_aside_leaves_its_replacement_alone() -> None:
    plan = running_plan()
    plan.on(Overdue("monitor disk", 1), 10)
    plan.on(Tick(), 10.5)
    plan.on(Tick(), 11.5)
    assert plan.on(Exited("monitor disk", 1, -9), 20) == [Tell("monitor disk")]
    assert plan.workers["monitor disk"].generation == 2


def test_a_worker_that_has_grown_is_replaced_at_once_and_counts_no_death() -> None:
    plan = running_plan()
    assert Start("monitor disk", 2) in plan.on(Exited("monitor disk", 1, RECYCLED), 10)
    assert plan.workers["monitor disk"].deaths == 0
    assert plan.workers["monitor disk"].restarts == {"memory": 1}


def test_a_stop_ends_monitors_then_exporters_then_the_broker() -> None:
    plan = running_plan()
    assert plan.on(Stop(), 10) == [Terminate("monitor disk", 1)]
    assert plan.on(Exited("monitor disk", 1, 0), 11) == [Tell("monitor disk"), Terminate("exporter http", 1)]
    assert plan.on(Exited("exporter http", 1, 0), 12) == [Tell("exporter http"), Terminate("broker", 1)]
    assert not plan.done
    plan.on(Exited("broker", 1, 0), 13)
    assert plan.done


def test_an_orderly_stop_takes_less_than_ten_seconds_when_nothing_reacts() -> None:
    plan = running_plan()
    plan.on(Stop(), 0)
    now = 0.0
    while not plan.done:
        assert plan.due is not None
        now = plan.due
        plan.on(Tick(), now)
    assert now < 10


def test_a_second_stop_kills_everything() -> None:
    plan = running_plan()
    plan.on(Stop(), 10)
    assert set(plan.on(Stop(), 10.1)) == {
        Kill("monitor disk", 1),
        Kill("exporter http", 1),
        Kill("broker", 1),
    }


def test_a_worker_that_waits_for_its_restart_is_not_started_during_a_stop() -> None:
    plan = running_plan()
    plan.on(Exited("monitor disk", 1, -11), 10)
    plan.on(Stop(), 10.01)
    assert plan.workers["monitor disk"].state is WorkerState.STOPPED
    assert all(not isinstance(action, Start) for action in plan.on(Tick(), 100))

"""The pace of checks."""

from __future__ import annotations

from workers.cadence import Cadence


def test_the_pace_does_not_drift_however_long_each_check_takes() -> None:
    cadence = Cadence(10.0, 100.0, restarted=True)
    times = []
    for _ in range(1000):
        times.append(cadence.due)
        cadence.advance(cadence.due + 3.0)
    average = (times[-1] - times[1]) / (len(times) - 2)
    assert abs(average - 10.0) < 0.01


def test_each_check_stays_near_its_tick() -> None:
    cadence = Cadence(10.0, 0.0)
    cadence.advance(cadence.due)
    before = cadence.due
    for _ in range(100):
        cadence.advance(cadence.due)
        assert 9.0 <= cadence.due - before <= 11.0
        before = cadence.due


def test_missed_ticks_are_left_out() -> None:
    cadence = Cadence(10.0, 0.0, restarted=True)
    cadence.advance(0.0)
    cadence.advance(1000.0)
    assert 995.0 < cadence.due < 1015.0


def test_a_restarted_worker_checks_at_once_and_a_new_one_within_a_second() -> None:
    assert Cadence(60.0, 5.0, restarted=True).due == 5.0
    assert all(5.0 <= Cadence(60.0, 5.0).due <= 6.0 for _ in range(100))


def test_two_agents_that_start_together_do_not_check_together() -> None:
    phases = set()
    for _ in range(50):
        cadence = Cadence(60.0, 0.0)
        cadence.advance(cadence.due)
        phases.add(round(cadence.due))
    assert len(phases) > 10

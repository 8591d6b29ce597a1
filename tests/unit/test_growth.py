"""How much a counter has grown of late."""

from __future__ import annotations

from workers.growth import Growth


def test_growth_forgets_what_is_old_and_bears_a_reset() -> None:
    growth = Growth()
    counts = ((5, 0), (8, 1), (2, 5), (2, 12), (2, 20))
    assert [growth.within(10, count, now) for count, now in counts] == [0, 3, 5, 2, 0]


def test_a_counter_that_was_set_back_has_grown_from_nothing() -> None:
    restarts = Growth(5)
    assert restarts.within(60, 7, now=10) == 2
    assert restarts.within(60, 1, now=20) == 3
    assert restarts.within(60, 1, now=75) == 1


def test_a_counter_that_leaps_keeps_no_list_of_each_step() -> None:
    growth = Growth(0)
    assert growth.within(60, 10**6, now=1) == 10**6
    assert len(growth.steps) == 1

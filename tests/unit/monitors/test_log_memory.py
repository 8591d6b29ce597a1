"""What rules remember from one line to the next: conditions per device, counts in a time, events told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nodedoctor.types import Event, Severity
from workers.monitors.logs.matching import Hit, Kind, Matcher
from workers.monitors.logs.memory import MOST_SUBJECTS, Count, Latched, Latches
from workers.monitors.logs.pattern import subject_groups
from workers.monitors.logs.rules import Rule
from workers.monitors.logs.source import Line
from workers.monitors.logs.telling import Teller

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Lines:
    """Feeds lines to rules as the monitor does, and keeps what they set."""

    def __init__(self, *rules: Rule) -> None:
        self.matcher = Matcher(rules)
        self.latches = Latches(
            {rule.name: rule for rule in rules}, {rule.name: subject_groups(rule) for rule in rules}
        )

    def say(self, text: str, at: float = 0.0) -> None:
        """One line."""
        for hit in self.matcher.hits(Line(text.encode(), 0)):
            if hit.kind is Kind.CLEAR:
                self.latches.clear(hit)
            else:
                self.latches.set(hit, text, at)

    @property
    def held(self) -> list[tuple[str, str]]:
        """Reason and message of what holds."""
        return [(held.rule, held.message) for held in self.latches.saved()]


def permanent(name: str, pattern: str, **more: Any) -> Rule:
    """A rule that sets the condition Bad."""
    return Rule(name, pattern, type="permanent", condition="Bad", **more)


def test_a_repetition_changes_nothing_and_another_reason_takes_over() -> None:
    lines = Lines(permanent("a", "a"), permanent("b", "b"), permanent("c", "c", reason="B"))
    for text, held in (
        ("a 1", ("a", "a 1")),
        ("a 2", ("a", "a 1")),
        ("b 1", ("b", "b 1")),
        ("c 1", ("b", "b 1")),
    ):
        lines.say(text)
        assert lines.held == [held]


def test_a_condition_is_held_for_each_device_that_the_clearing_pattern_can_tell() -> None:
    lines = Lines(
        permanent("ro", r"\((?P<dev>\w+)\): read-only (?P<n>\d)", clear_pattern=r"\((?P<dev>\w+)\): r/w")
    )
    for text in ("(sda): read-only 1", "(sdb): read-only 2", "(sda): read-only 3"):
        lines.say(text)
    assert lines.held == [("ro", "(sda): read-only 1"), ("ro", "(sdb): read-only 2")]
    lines.say("(sdc): r/w")
    lines.say("(sda): r/w")
    assert lines.held == [("ro", "(sdb): read-only 2")]


def test_a_clearing_pattern_without_a_device_clears_all_of_its_condition() -> None:
    lines = Lines(
        permanent("ro", r"\((?P<dev>\w+)\) ro", clear_pattern=r"\((?P<dev>\w+)\) rw"),
        permanent("other", "broken", clear_pattern="all is well"),
    )
    for text in ("(sda) ro", "(sdb) ro", "broken"):
        lines.say(text)
    assert len(lines.held) == 3
    lines.say("all is well")
    assert lines.held == []


def test_however_many_devices_there_are_few_are_held() -> None:
    lines = Lines(permanent("ro", r"\((?P<dev>\w+)\) ro", clear_pattern=r"\((?P<dev>\w+)\) rw"))
    for number in range(10 * MOST_SUBJECTS):
        lines.say(f"(sd{number}) ro")
    assert len(lines.held) == MOST_SUBJECTS
    assert lines.held[-1] == ("ro", f"(sd{10 * MOST_SUBJECTS - 1}) ro")


def test_a_time_clears_what_has_not_matched_since() -> None:
    lines = Lines(permanent("a", "a", clear_after="60s"))
    lines.say("a", 100.0)
    lines.say("a", 130.0)
    assert lines.latches.next_end(140.0) == 50.0
    lines.latches.clear_by_time(189.9)
    assert lines.held
    lines.latches.clear_by_time(190.0)
    assert (lines.held, lines.latches.next_end(190.0)) == ([], None)


def test_what_an_earlier_process_held_comes_back_if_its_rule_is_there() -> None:
    lines = Lines(permanent("a", "a"))
    known = (
        Latched("Bad", (), "a", "x", 0.0),
        Latched("Bad", (), "gone", "y", 0.0),
        Latched("Other", (), "a", "z", 0.0),
    )
    lines.latches.restore(known)
    assert lines.held == [("a", "x")]
    assert list(lines.latches.of("Bad")) == [known[0]]


def test_a_count_is_reached_within_its_time_alone() -> None:
    count = Count(Rule("r", "x", count=3, within="60s"))
    count.add(1, 0.0)
    count.add(1, 30.0)
    assert not count.reached(30.0)
    count.add(1, 61.0)
    assert not count.reached(61.0)
    count.add(1, 61.5)
    assert count.reached(61.5)
    assert not count.reached(95.0)


def test_a_match_is_taken_off_the_count() -> None:
    count = Count(Rule("r", "x", count=2, within="60s"))
    for change, reached in ((1, False), (1, True), (-1, False), (1, True), (-1, False), (-1, False)):
        count.add(change, 1.0)
        assert count.reached(1.0) is reached


def test_a_flood_of_matches_takes_no_memory() -> None:
    count = Count(Rule("r", "x", count=2, within="20m"))
    for number in range(100_000):
        count.add(1, number / 100)
    assert count.reached(1000.0)
    assert (count.total, len(count.by_second)) == (100_000, 1000)


def told(teller: Teller, text: str, now: float) -> list[str]:
    """The messages of the events that are told when a line says `text`."""
    return [event.message for event in teller.tell(Event(Severity.WARNING, "R", text, WHEN), now)]


def test_a_message_is_told_once_in_its_time() -> None:
    teller = Teller(Rule("r", "x"))
    assert [told(teller, "a", now) for now in (0.0, 1.0, 59.0)] == [["a"], [], []]
    assert told(teller, "b", 59.5) == ["b"]
    assert list(teller.summary(59.9)) == []
    (rest,) = teller.summary(60.0)
    assert (rest.message, rest.count, rest.timestamp) == ("2 more of rule r, the last: a", 2, WHEN)
    assert list(teller.summary(200.0)) == []
    assert told(teller, "a", 200.0) == ["a"]


def test_each_is_told_where_that_is_asked_for() -> None:
    teller = Teller(Rule("r", "x", deduplicate_within="0s"))
    assert [told(teller, "a", 0.0) for _ in range(11)] == [["a"]] * 10 + [[]]


def test_so_many_events_are_told_a_minute() -> None:
    teller = Teller(Rule("r", "x", events_per_minute=3))
    assert sum(len(told(teller, str(number), 0.0)) for number in range(1000)) == 3
    (rest,) = teller.summary(61.0)
    assert rest.count == 997
    assert sum(len(told(teller, str(number), 61.0)) for number in range(1000)) == 2


@pytest.mark.parametrize("seconds", [1, 10, 100])
def test_no_event_is_lost_to_those_who_count(seconds: int) -> None:
    teller, seen, said = Teller(Rule("r", "x", events_per_minute=2)), 0, 0
    for number in range(500):
        now = float(number * seconds)
        for event in (
            *teller.tell(Event(Severity.WARNING, "R", str(number % 7), WHEN), now),
            *teller.summary(now),
        ):
            seen += event.count
        said += 1
    assert seen + teller.rest == said
    assert len(teller.told_at) <= 7


def test_a_hit_tells_what_a_message_may_name() -> None:
    hit = Hit(Rule("r", "x"), Kind.MATCH, (Line(b"a", 0), Line(b"b" * 2000, 1, {"unit": "u"})), {"g": "1"})
    known = hit.known()
    assert (known["unit"], known["g"]) == ("u", "1")
    assert known["line"].startswith("a\nbbb")
    assert len(known["line"].encode()) <= 1024

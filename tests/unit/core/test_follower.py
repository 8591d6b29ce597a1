"""Snapshot, then stream: the rules without sockets."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from nodedoctor.bus.messages import Envelope, RemediationView, Snapshot
from nodedoctor.bus.mirror import Follower

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def message(seq: int, epoch: int = 1, topic: str = "condition.X") -> Envelope:
    """One message of the broker."""
    return Envelope(topic, seq, epoch, WHEN, "n", msgspec.Raw(b"{}"))


def heartbeat(last: int, epoch: int = 1) -> Envelope:
    """The broker's sign of life."""
    return Envelope("heartbeat", last, epoch, WHEN, "n", msgspec.Raw(b'{"last":%d}' % last))


def snapshot(seq: int, epoch: int = 1) -> Snapshot:
    """The whole state at the number `seq`."""
    return Snapshot(
        "n",
        "1",
        epoch,
        seq,
        WHEN,
        WHEN,
        WHEN,
        (),
        (),
        (),
        (),
        (),
        RemediationView(active=False, reason=""),
        {},
        (),
        (),
    )


def following(seq: int = 5) -> Follower:
    """One that is in step at the number `seq`."""
    follower = Follower(0.0)
    assert follower.should_ask(0.0)
    follower.on_snapshot(snapshot(seq), 0.0)
    return follower


def numbers(messages: list[Envelope]) -> list[int]:
    """Their numbers."""
    return [m.seq for m in messages]


def test_messages_from_before_the_snapshot_are_held_and_only_newer_ones_delivered() -> None:
    follower = Follower(0.0)
    follower.should_ask(0.0)
    for seq in (4, 5, 6, 7):
        assert follower.on_message(message(seq), 0.0) == []
    assert numbers(follower.on_snapshot(snapshot(5), 0.1)) == [6, 7]


def test_a_message_in_step_is_delivered_once() -> None:
    follower = following()
    assert numbers(follower.on_message(message(6), 1.0)) == [6]
    assert follower.on_message(message(6), 1.0) == []


def test_a_gap_asks_for_the_snapshot_and_loses_nothing_after_it() -> None:
    follower = following()
    assert follower.on_message(message(8), 1.0) == []
    assert follower.should_ask(1.0)
    assert numbers(follower.on_snapshot(snapshot(7), 1.1)) == [8]


def test_a_heartbeat_that_is_ahead_shows_a_lost_tail() -> None:
    follower = following()
    follower.on_message(heartbeat(9), 1.0)
    assert follower.should_ask(1.0)


def test_a_heartbeat_in_step_asks_for_nothing() -> None:
    follower = following()
    follower.on_message(heartbeat(5), 1.0)
    assert not follower.should_ask(1.1)


def test_a_new_broker_is_asked_for_its_state() -> None:
    follower = following()
    assert follower.on_message(message(1, epoch=2), 1.0) == []
    assert follower.should_ask(1.0)
    assert numbers(follower.on_snapshot(snapshot(1, epoch=2), 1.1)) == []
    assert numbers(follower.on_message(message(2, epoch=2), 1.2)) == [2]


def test_silence_of_more_than_three_seconds_asks_again_and_again() -> None:
    follower = following()
    assert not follower.should_ask(2.9)
    assert follower.should_ask(3.1)
    assert not follower.should_ask(3.5)
    assert follower.should_ask(4.2)


def test_what_is_held_without_an_answer_is_bounded() -> None:
    follower = Follower(0.0)
    for seq in range(30_000):
        follower.on_message(message(seq), 0.0)
    assert len(follower.held) < 20_000

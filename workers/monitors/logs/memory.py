"""What a log's rules remember: the conditions that lines have set, and how often a rule has matched of late."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nodedoctor.duration import seconds
from workers.monitors.logs.matching import Hit
from workers.monitors.logs.rules import Rule

MOST_SUBJECTS = 32
"""Devices (or whatever the groups name) for which one condition is held; the oldest one is let go for another."""


class Latched(msgspec.Struct, frozen=True):
    """A condition that a line has set.

    Attributes:
        condition: Its type.
        subject: For which device or the like: what the groups hold that the clearing pattern has, too.
        rule: The rule that has set it.
        message: What the first match said; a repetition changes nothing.
        at: When it last matched, in seconds of CLOCK_BOOTTIME.
    """

    condition: str
    subject: tuple[str, ...]
    rule: str
    message: str
    at: float


class Latches:
    """The conditions that are set; a rule, a time or a reboot clears them."""

    def __init__(self, rules: dict[str, Rule], subjects: dict[str, tuple[str, ...]]) -> None:
        """Begin with nothing set.

        Args:
            rules: The rules by name.
            subjects: For each rule the groups that tell its subjects apart.
        """
        self.rules = rules
        self.subjects = subjects
        self.held: dict[tuple[str, tuple[str, ...]], Latched] = {}

    def restore(self, known: tuple[Latched, ...]) -> None:
        """Take over what an earlier process held, as far as its rules still exist and set the same condition."""
        for latched in known:
            rule = self.rules.get(latched.rule)
            if rule and rule.condition == latched.condition:
                self.held[latched.condition, latched.subject] = latched

    def set(self, hit: Hit, message: str, at: float) -> None:
        """A permanent rule has matched: its condition holds, by the newest reason and since the first match of it."""
        condition = hit.rule.condition or ""
        key = (condition, self.subject(hit))
        before = self.held.get(key)
        if before and self.rules[before.rule].told_reason == hit.rule.told_reason:
            self.held[key] = msgspec.structs.replace(before, at=max(before.at, at))
            return
        self.held[key] = Latched(condition, key[1], hit.rule.name, message, at)
        mine = [other for other in self.held if other[0] == condition]
        if len(mine) > MOST_SUBJECTS:
            del self.held[mine[0]]

    def clear(self, hit: Hit) -> None:
        """The clearing pattern of a rule has matched, for one subject or, without groups in common, for all."""
        condition, subject = hit.rule.condition or "", self.subject(hit)
        for key in list(self.held):
            if key[0] == condition and subject in (key[1], ()):
                del self.held[key]

    def clear_rule(self, rule: str) -> None:
        """What the rule of this name has set does not hold any more."""
        self.held = {key: latched for key, latched in self.held.items() if latched.rule != rule}

    def clear_by_time(self, now: float) -> None:
        """Clear what has not matched for as long as its rule says."""
        for key, latched in list(self.held.items()):
            after = self.rules[latched.rule].clear_after
            if after and now - latched.at >= seconds(after):
                del self.held[key]

    def next_end(self, now: float) -> float | None:
        """Seconds until the first of those that a time clears is over, or None."""
        ends = [
            latched.at + seconds(after) - now
            for latched in self.held.values()
            if (after := self.rules[latched.rule].clear_after)
        ]
        return max(0.0, min(ends)) if ends else None

    def holds(self, rule: str) -> bool:
        """Whether something holds that the rule of this name has set."""
        return any(latched.rule == rule for latched in self.held.values())

    def subject(self, hit: Hit) -> tuple[str, ...]:
        """What tells this match from one of another device."""
        return tuple(hit.groups.get(name, "") for name in self.subjects[hit.rule.name])

    def of(self, condition: str) -> Iterator[Latched]:
        """Yield what holds of `condition`."""
        return (latched for latched in self.held.values() if latched.condition == condition)

    def saved(self) -> tuple[Latched, ...]:
        """What is to be restored."""
        return tuple(self.held.values())


class Count:
    """How often a rule has matched within its time, less how often that was taken back: `total`. Kept by the second."""

    def __init__(self, rule: Rule) -> None:
        self.within = seconds(rule.within or "0s")
        self.needed = rule.count
        self.by_second: dict[int, int] = {}
        self.total = 0

    def add(self, change: int, at: float) -> None:
        """One match more (or `change` of -1: one less) at `at` seconds of CLOCK_BOOTTIME."""
        self.by_second[int(at)] = self.by_second.get(int(at), 0) + change
        self.total += change

    def reached(self, now: float) -> bool:
        """Whether there are enough of them in the time up to `now`."""
        while self.by_second and now - (oldest := next(iter(self.by_second))) >= self.within:
            self.total -= self.by_second.pop(oldest)
        return self.total >= self.needed

    def restore(self, known: dict[int, int]) -> None:
        """Take over what an earlier process has counted."""
        self.by_second = dict(known)
        self.total = sum(known.values())

"""How many events a rule may cause: a storm of lines must not become a storm of events."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nodedoctor.duration import seconds
from nodedoctor.types import Event
from workers.monitors.logs.rules import Rule

MINUTE = 60.0


class Teller:
    """Tells the events of one rule: each message once in a while, so many a minute, and of the rest how many there were.

    No event is lost to those who count: the one for the rest carries its number.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.once_in = seconds(rule.deduplicate_within)
        self.told_at: dict[str, float] = {}
        self.minute_began = -MINUTE
        self.told = 0
        self.rest = 0
        self.last: Event | None = None

    def tell(self, event: Event, now: float) -> Iterator[Event]:
        """Yield `event` if it may be told at `now` (seconds, monotonic)."""
        if now - self.minute_began >= MINUTE:
            self.minute_began, self.told = now, 0
            self.told_at = {text: at for text, at in self.told_at.items() if now - at < self.once_in}
        if self.told < self.rule.events_per_minute and not self.known(event, now):
            self.told += 1
            self.told_at[event.message] = now
            yield event
        else:
            self.rest += 1
            self.last = event

    def known(self, event: Event, now: float) -> bool:
        """Whether the same was told a short while ago."""
        at = self.told_at.get(event.message)
        return at is not None and now - at < self.once_in

    def summary(self, now: float) -> Iterator[Event]:
        """Yield one event for those that were not told, once the minute is over in which the last one was."""
        if self.last and now - self.minute_began >= MINUTE:
            text = f"{self.rest} more of rule {self.rule.name}, the last: {self.last.message}"
            yield msgspec.structs.replace(self.last, message=text, count=self.rest)
            self.rest, self.last = 0, None
            self.minute_began = now
            self.told = 1

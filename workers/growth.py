"""How much a counter has grown of late."""

from __future__ import annotations

import msgspec


class Growth(msgspec.Struct):
    """The growth of one counter; what it had counted before the first look is history."""

    last: int | None = None
    steps: list[tuple[float, int]] = []

    def within(self, span: float, count: int, now: float) -> int:
        """Take the `count` of `now` and give the growth of the last `span` seconds; a reset begins at 0."""
        before, self.last = self.last, count
        grown = 0 if before is None else count - before if count >= before else count
        self.steps = [(at, step) for at, step in (*self.steps, (now, grown)) if step and now - at < span]
        return sum(step for _, step in self.steps)

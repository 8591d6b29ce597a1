"""When to check: at an even pace that does not drift, and never in step with the rest of the fleet."""

from __future__ import annotations

import random
from collections.abc import Callable

JITTER = 0.05
"""Share of the interval by which a check may come early or late."""


class Cadence:
    """The times of a monitor's checks, on the clock that `now` is of.

    The first one comes within a second of the first start and at once after a restart; the others are an interval
    apart, at a random phase, each moved by at most JITTER of the interval. Ticks that were missed (the machine
    slept, the check took too long) are left out, not made up for.
    """

    def __init__(
        self,
        interval: float,
        now: float,
        *,
        restarted: bool = False,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.interval = interval
        self.uniform = uniform
        self.due = now if restarted else now + uniform(0.0, min(1.0, interval / 2))
        self.tick = self.due + uniform(0.5, 1.0) * interval

    def advance(self, now: float) -> None:
        """A check was made; set the time of the next one."""
        while self.tick <= now - self.interval * (0.5 - JITTER):
            self.tick += self.interval
        self.due = self.tick + self.uniform(-JITTER, JITTER) * self.interval
        self.tick += self.interval

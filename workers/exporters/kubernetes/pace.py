"""How often the API server is asked: a budget for good days, growing pauses for bad ones."""

from __future__ import annotations

import math
import random
from datetime import datetime

from workers.kubernetes import APIError, ForbiddenError, NotFoundError, TooManyRequestsError

FIRST, LONGEST = 0.5, 120.0
"""Seconds of the first pause after a failure and of the longest; each is doubled and then cut at random."""
WITHOUT_RIGHTS = 300.0
"""Seconds between two tries of what the role does not allow: somebody has to change it first."""
WITHOUT_NODE = 15.0
"""Seconds of the longest pause while the node is not there: it is about to join."""


class Bucket:
    """At most `capacity` requests at once and `rate` a second in the long run."""

    def __init__(self, capacity: float, rate: float) -> None:
        self.capacity, self.rate = capacity, rate
        self.tokens = capacity
        self.at = -math.inf

    def due(self, now: float) -> float:
        """When the next request may go out; `now` or earlier if it may at once."""
        self.fill(now)
        return now if self.tokens >= 1 else now + (1 - self.tokens) / self.rate

    def take(self, now: float) -> bool:
        """Spend one, if there is one."""
        self.fill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def fill(self, now: float) -> None:
        """What has come in since the last look."""
        if now > self.at:
            # A hair more: what is due in a while must not be missing by a rounding error then.
            self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate + 1e-9)
            self.at = now


class Lane:
    """The failures in a row of one kind of request, and when the next try is due."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.failures = 0
        self.free_at = -math.inf
        self.error: APIError | None = None
        self.since: datetime | None = None

    def failed(self, error: APIError, now: float, wall: datetime) -> None:
        """One more failure."""
        self.since = self.since or wall
        self.error = error
        longest = WITHOUT_NODE if isinstance(error, NotFoundError) else LONGEST
        pause = min(longest, FIRST * 2 ** min(self.failures, 16))
        self.failures += 1
        if isinstance(error, ForbiddenError):
            pause = WITHOUT_RIGHTS
        pause *= self.dice.uniform(0.5, 1.0)
        if isinstance(error, TooManyRequestsError):
            pause = max(pause, error.retry_after * self.dice.uniform(1.0, 1.5))
        self.free_at = now + pause

    def succeeded(self) -> None:
        """It works again."""
        self.failures, self.free_at, self.error, self.since = 0, -math.inf, None, None

"""How often something was restarted of late."""

from __future__ import annotations

from collections import deque


class Restarts:
    """The growth of one counter of restarts; what it held at first is history."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.times: deque[float] = deque()

    def counted(self, count: int, now: float, within: float) -> int:
        """How many there were in the last `within` seconds, now that the counter shows `count`.

        A counter that shows less was set back in between, and then it has grown from 0.
        """
        grown = count - self.count if count >= self.count else count
        self.count = count
        self.times.extend([now] * min(grown, 1000))
        while self.times and self.times[0] < now - within:
            self.times.popleft()
        return len(self.times)

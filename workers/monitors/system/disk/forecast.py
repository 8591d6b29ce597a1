"""When a file system will be full, from the pace at which it fills."""

from __future__ import annotations

import itertools
import statistics
from collections import deque

import msgspec

FEWEST, MOST = 8, 120
"""Samples that a forecast needs, and that are kept of one file system."""
STAYS = 1.25
"""A warning stays until there is so much more time than the limit: it does not come and go at it."""


class Sample(msgspec.Struct, frozen=True):
    """What was in use at one moment; seconds and bytes."""

    at: float
    used: float


class History:
    """What was in use of one file system in the last `window` seconds."""

    def __init__(self, window: float) -> None:
        self.window = window
        self.samples: deque[Sample] = deque(maxlen=MOST)
        self.size = 0.0
        self.warned = False

    def add(self, sample: Sample, size: float) -> None:
        """Remember `sample`. Another size is another file system, or one that was resized: it begins anew."""
        if size != self.size:
            self.samples.clear()
            self.size = size
        while self.samples and self.samples[0].at < sample.at - self.window:
            self.samples.popleft()
        if not self.samples or sample.at - self.samples[-1].at >= self.window / MOST:
            self.samples.append(sample)

    def full_in(self, free: float) -> float | None:
        """Seconds until `free` bytes are used up at the present pace; None if it does not fill, or not known yet."""
        if len(self.samples) < FEWEST or self.samples[-1].at - self.samples[0].at < self.window / 4:
            return None
        growth = pace(list(self.samples))
        return free / growth if growth > 0 else None

    def soon(self, left: float | None, limit: float) -> bool:
        """Whether to warn that it is full in `left` seconds."""
        self.warned = left is not None and left <= limit * (STAYS if self.warned else 1)
        return self.warned


def pace(samples: list[Sample]) -> float:
    """Bytes a second by which usage grows, 0 if it does not; the median of all pairs' slopes (Theil and Sen).

    A log that is written and rotated goes up and down: usage grows only if the last third lies above all of the first.
    """
    third = len(samples) // 3
    before = max(sample.used for sample in samples[:third])
    if statistics.median(sample.used for sample in samples[-third:]) <= before:
        return 0.0
    slopes = [(b.used - a.used) / (b.at - a.at) for a, b in itertools.combinations(samples, 2) if b.at > a.at]
    return max(0.0, statistics.median(slopes))

"""Durations as people write them: `250ms`, `30s`, `5m`, `1h30m`."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

PATTERN = r"^([0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h|d)){1,5}$(?!\n)"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Duration = Annotated[str, Meta(pattern=PATTERN, description="a duration such as 250ms, 30s, 5m, 1h30m")]
"""A duration in options and configuration; `seconds` gives its value."""


def seconds(duration: str) -> float:
    """The value of `duration` in seconds.

    Raises:
        ValueError: `duration` is not made of numbers that are each followed by ms, s, m, h or d.
    """
    if not re.match(PATTERN, duration):
        msg = f"{duration!r} is not a duration: expected numbers with ms, s, m, h or d, such as 30s or 1h30m"
        raise ValueError(msg)
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", duration)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def human(value: float) -> str:
    """`value` seconds in the form that `seconds` reads, rounded to what a person wants to see."""
    if value < 1:
        return f"{value * 1000:.0f}ms"
    whole = round(value)
    if whole < 60:
        return f"{value:.1f}s" if value != whole else f"{whole}s"
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (secs, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number)

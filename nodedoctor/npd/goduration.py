"""Durations as Go writes them: `300ms`, `1.5h`, `2h45m`, `-5s`; https://pkg.go.dev/time#ParseDuration."""

from __future__ import annotations

import re

from nodedoctor.config.schema import shown

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = r"([0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(ns|us|µs|μs|ms|s|m|h)"
DURATION = re.compile(rf"[-+]?(?:0|(?:{PART})+)")
LONGEST = 2**63 / 1e9
"""Go counts nanoseconds in 64 bits: 292 years."""
SIZES = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def parse_go_duration(text: str) -> float:
    """The value of `text` in seconds.

    Raises:
        ValueError: Go would not take `text`; it has no unit for a day.
    """
    parts = re.findall(PART, text) if DURATION.fullmatch(text) else None
    value = sum(float(number) * UNITS[unit] for number, unit in parts or ())
    if parts is None or value >= LONGEST:
        raise ValueError(f"found {shown(text)}, expected a duration of Go, such as 300ms, 30s, 5m or 1.5h")
    return -value if text.startswith("-") else value


def ours(value: float) -> str:
    """`value` seconds in the form that nodedoctor.duration reads, exact to a nanosecond.

    Raises:
        ValueError: `value` is below 0, which no duration of ours can be.
    """
    if value < 0:
        raise ValueError(f"{value:g} s is below 0")
    rest = round(value * 1e9)
    parts = []
    for unit, size in SIZES:
        number, rest = divmod(rest, size * 10**9)
        if number:
            parts.append(f"{number}{unit}")
    if rest:
        parts.append(f"{rest / 1e6:.6f}".rstrip("0").rstrip(".") + "ms")
    return "".join(parts) or "0s"

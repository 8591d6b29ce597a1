"""What the fields of Node Problem Detector's files may hold, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from nodedoctor.config.schema import shown
from nodedoctor.npd.goduration import parse_go_duration
from nodedoctor.npd.gojson import Read
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import did_you_mean

RULE_TYPES = ("temporary", "permanent")
T = TypeVar("T")


def named(group: str, names: str) -> set[str]:
    """The metrics of `group` with these names."""
    return {f"{group}/{name}" for name in names.split()}


PLUGIN_CONFIG: dict[str, tuple[str, ...]] = {
    "kmsg": (),
    "journald": ("source",),
    "filelog": ("timestamp", "message", "timestampFormat"),
}
"""The log plugins, and what the pluginConfig of each must hold."""
METRICS = {
    "cpu": named("cpu", "load_1m load_5m load_15m runnable_task_count usage_time")
    | named("system", "cpu_stat interrupts_total processes_total procs_blocked procs_running"),
    "disk": named("disk", "avg_queue_len bytes_used io_time merged_operation_count operation_bytes_count")
    | named("disk", "operation_count operation_time percent_used weighted_io"),
    "host": named("host", "uptime"),
    "memory": named("memory", "anonymous_used bytes_used dirty_used page_cache_used percent_used")
    | named("memory", "unevictable_used"),
    "net": named(
        "net", "rx_bytes rx_packets rx_errors rx_dropped rx_fifo rx_frame rx_compressed rx_multicast"
    )
    | named("net", "tx_bytes tx_packets tx_errors tx_dropped tx_fifo tx_collisions tx_carrier tx_compressed"),
    "osFeature": named("system", "os_feature"),
}
"""What each part of a stats file can export."""


def above_zero(text: str) -> float:
    """A duration that takes time."""
    value = parse_go_duration(text)
    if value <= 0:
        raise ValueError(f"found {shown(text)}, expected more than 0")
    return value


def zero_or_more(text: str) -> float:
    """A duration that does not go back."""
    value = parse_go_duration(text)
    if value < 0:
        raise ValueError(f"found {shown(text)}, expected 0 or more")
    return value


def unless_empty(by: Callable[[str], T]) -> Callable[[str], T | None]:
    """Reads with `by`; in fields that are no pointers of Go an empty text is no value."""
    return lambda text: by(text) if text else None


def at_least(least: int) -> Callable[[int], int]:
    """Takes integers from `least` on."""

    def checked(value: int) -> int:
        if value < least:
            raise ValueError(f"found {value}, expected at least {least}")
        return value

    return checked


def lines(value: int) -> int | None:
    """A number of lines; 0 is no value."""
    return at_least(0)(value) or None


def not_empty(text: str) -> str:
    """A text that says something."""
    if not text:
        raise ValueError("is empty")
    return text


def rule_type(text: str) -> str:
    """Temporary or permanent."""
    if text not in RULE_TYPES:
        near = did_you_mean(text, RULE_TYPES)
        raise ValueError(
            f"found {shown(text)}, which NPD takes for permanent; expected {' or '.join(RULE_TYPES)}{near}"
        )
    return text


def expression(text: str) -> str:
    """A regular expression."""
    compile_pattern(text)
    return text


def line_pattern(text: str) -> str:
    r"""A regular expression for lines, which NPD puts `\z` after."""
    if not text:
        raise ValueError("is empty, which matches every line; expected a regular expression")
    compile_pattern(expression(text) + r"\z")
    return text


Span = Annotated[float, Read(str, above_zero)]
"""Seconds, more than 0."""
SpanOrDefault = Annotated[float, Read(str, unless_empty(above_zero))]
"""Seconds, more than 0; an empty text is no value."""
TimeOrDefault = Annotated[float, Read(str, unless_empty(zero_or_more))]
"""Seconds, 0 or more; an empty text is no value."""
TextOrDefault = Annotated[str, Read(str, unless_empty(str))]
Filled = Annotated[str, Read(str, not_empty)]
Expression = Annotated[str, Read(str, expression)]
LinePattern = Annotated[str, Read(str, line_pattern)]
RuleType = Annotated[Literal["temporary", "permanent"], Read(str, rule_type)]
Lines = Annotated[int, Read(int, lines)]
Length = Annotated[int, Read(int, at_least(0))]
Positive = Annotated[int, Read(int, at_least(1))]

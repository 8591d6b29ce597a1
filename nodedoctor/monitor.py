"""What a monitor is made of: one small class that declares what it may report, and looks.

Everything that is the same for all monitors (interval, timeout, thresholds in a row, privileges, publishing,
folding several subjects into one condition) is done by the worker that runs it, not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Meta

from nodedoctor.host import Host
from nodedoctor.types import Event, Metric, Severity, utc_now

Percent = Annotated[float, Meta(ge=0, le=100)]
"""A share in percent, 0 to 100."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base of a monitor's options: the class is their JSON Schema, their defaults and their documentation.

    Repeat `frozen=True` on each subclass, for type checkers. Names are written camelCase in configuration.
    """

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield what a schema can't say, as (path of the option, what is wrong and what is allowed)."""
        return iter(())


def order_faults(option: str, warning: float, limit: str, critical: float) -> Iterator[tuple[str, str]]:
    """Yield a fault if the threshold `option` is not below the one that is called `limit`."""
    if warning >= critical:
        yield option, f"found {warning:g}, must be below {limit} ({critical:g})"


class Finding(msgspec.Struct, frozen=True):
    """One subject's part in one condition. `bad` is None when it could not be determined.

    `warning` marks a subject that is fine and has passed a first threshold.
    """

    type: str
    bad: bool | None
    message: str
    reason: str
    severity: Severity = Severity.ERROR
    warning: bool = False


class ConditionType(msgspec.Struct, frozen=True):
    """A condition that a monitor may report, named for the problem: True is bad.

    Attributes:
        type: CamelCase name, as it appears on the node.
        reason: The condition's reason while it is True, unless a finding brings its own.
        ok_reason: Its reason while it is False.
        ok_message: Its message while it is False.
        severity: What True means for the node's health: error (unhealthy) or warning (degraded).
        warning_reason: Its reason while it is False and a first threshold was crossed.
        latched: The monitor holds this state itself, from what happened once: the thresholds in a row, which ask
            for the same finding several times, do not apply.
        reasons: All the reasons that it may have while it is True, where `reason` is not the only one.
        unknown_is_found: Unknown is what the monitor has found and is told at once, not a failure to look, while which
            the last verdict is held.
    """

    type: str
    reason: str
    ok_reason: str
    ok_message: str = ""
    severity: Severity = Severity.ERROR
    warning_reason: str = ""
    latched: bool = False
    reasons: tuple[str, ...] = ()
    unknown_is_found: bool = False

    def when(self, bad: bool, message: str, reason: str = "") -> Finding:  # noqa: FBT001 - it reads as a sentence
        """One subject is bad, as `message` says, or is fine (then the message is not used)."""
        return Finding(self.type, bad, message if bad else "", reason or self.reason, self.severity)

    def warn_when(self, passed: bool, message: str) -> Finding:  # noqa: FBT001 - it reads as a sentence
        """One subject is not bad, and has passed a first threshold, as `message` says."""
        return Finding(self.type, False, message, self.warning_reason or self.reason, warning=passed)

    def graded(
        self, value: float, warning: float, critical: float, message: Callable[[float], str]
    ) -> Finding:
        """One subject is bad at `critical` and warned of at `warning`; `message` tells of the threshold it is given."""
        if value >= critical:
            return self.when(True, message(critical))
        return self.warn_when(value >= warning, message(warning))

    def unknown(self, message: str, reason: str = "CheckUndetermined") -> Finding:
        """One subject's state can't be determined, as `message` says."""
        return Finding(self.type, None, message, reason)


class Gauge(msgspec.Struct, frozen=True):
    """A metric that a monitor exports; calling it makes one sample. `name` ends in its unit."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: str = "gauge"
    bare: bool = False
    """Exported under its name alone, without prefix and without the label of its monitor."""

    def __call__(self, value: float, /, **labels: str) -> Metric:
        """One sample of this metric."""
        return Metric(self.name, value, labels, self.kind, self.bare)


def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:  # noqa: A002 - Prometheus calls it so
    """A metric that only grows; `name` ends in `_total`."""
    return Gauge(name, help, labels, "counter")


class EventReason(msgspec.Struct, frozen=True):
    """A kind of event that a monitor may report. Calling it makes one event, that happened now."""

    reason: str
    severity: Severity = Severity.WARNING

    def __call__(self, message: str) -> Event:
        """One event."""
        return Event(self.severity, self.reason, message, utc_now())


O = TypeVar("O", bound=Options)  # noqa: E741 - options
Observation = Finding | Metric | Event


class Monitor(ABC, Generic[O]):
    """Looks at one aspect of the node.

    A subclass declares `kind` (the `type` in configuration), `options_type`, the `conditions`, `metrics` and
    `events` that it may report, the Linux `capabilities` (capabilities(7)) that its process keeps as root,
    and its default `interval` and `timeout` in seconds.

    A monitor with a `fileno` streams: its worker also calls `poll`, and if that says so `check`, whenever that
    descriptor is readable; both take what is there without waiting.
    """

    kind: ClassVar[str]
    options_type: ClassVar[type[Options]]
    conditions: ClassVar[tuple[ConditionType, ...]] = ()
    metrics: ClassVar[tuple[Gauge, ...]] = ()
    events: ClassVar[tuple[EventReason, ...]] = ()
    capabilities: ClassVar[tuple[str, ...]] = ()
    busy: bool = False
    """Set by a streaming monitor while its input comes so fast that it is better taken less often."""
    interval: ClassVar[float] = 30.0
    timeout: ClassVar[float] = 10.0

    def __init__(self, name: str, options: O, host: Host | None = None) -> None:
        self.name = name
        self.options = options
        self.host = host or Host()

    @classmethod
    def conditions_of(cls, name: str, options: O) -> tuple[ConditionType, ...]:  # noqa: ARG003 - for subclasses
        """The conditions that a monitor called `name` with `options` reports; overridden where they depend on it."""
        return cls.conditions

    @classmethod
    def events_of(cls, name: str, options: O) -> tuple[EventReason, ...]:  # noqa: ARG003 - for subclasses
        """The events that a monitor called `name` with `options` may report; overridden where they depend on it."""
        return cls.events

    @classmethod
    def capabilities_of(cls, options: O) -> tuple[str, ...]:  # noqa: ARG003 - for subclasses
        """What its process keeps as root with `options`; overridden where they need less than `capabilities`."""
        return cls.capabilities

    @classmethod
    def metrics_of(cls, name: str, options: O) -> tuple[Gauge, ...]:  # noqa: ARG003 - for subclasses
        """The metrics that a monitor called `name` with `options` may export; overridden where they depend on it."""
        return cls.metrics

    @abstractmethod
    def check(self) -> Iterator[Observation]:
        """Look once. Each condition gets at least one finding, whether it is bad or not.

        Raises:
            PermissionError: the conditions that were not reached become Unknown, reason PermissionDenied.
            Undetermined: likewise, with the reason that it carries.
        """

    def fileno(self) -> int | None:
        """The descriptor whose input wakes a streaming monitor, or None: it is polled at its interval alone."""
        return None

    def poll(self) -> bool:
        """Take the input that is there; whether `check` has anything to tell of it. A streaming monitor's hot path."""
        return True

    def wake_after(self) -> float | None:
        """Seconds until `check` is to be called even without input and before its interval is over, or None."""
        return None

    def check_alone(self) -> Iterator[Observation]:
        """Look once, when nobody will look again: waits for what `check` would only have started."""
        return self.check()

    def close(self) -> None:
        """Let go of what the monitor holds; called once, at an orderly end."""

"""Whether systemd answers, and whether its units run as they should."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options, counter
from nodedoctor.types import Severity
from workers.growth import Growth
from workers.systemd import CallError, Silent, Systemd, Unit, UnitState, connected

FAILED = ConditionType(
    "SystemdUnitFailed", reason="UnitFailed", ok_reason="NoUnitFailed", severity=Severity.WARNING
)
INACTIVE = ConditionType(
    "SystemdUnitInactive",
    reason="UnitInactive",
    ok_reason="UnitsActive",
    reasons=(
        "UnitInactive",
        "UnitNotStarting",
        "UnitHasFailed",
        "UnitMasked",
        "UnitNotFound",
        "UnitNotLoaded",
        "UnitConditionNotMet",
    ),
)
FLAPPING = ConditionType(
    "SystemdUnitFlapping",
    reason="UnitRestartsAgainAndAgain",
    ok_reason="NoUnitFlapping",
    severity=Severity.WARNING,
)
UNRESPONSIVE = ConditionType(
    "SystemdUnresponsive",
    reason="SystemdDoesNotAnswer",
    ok_reason="SystemdAnswers",
    severity=Severity.WARNING,
)
UNITS = Gauge("systemd_units", "Loaded units in this state", ("state",))
ACTIVE = Gauge("systemd_unit_active", "1 if this unit, which must be active, is", ("unit",))
RESTARTS = counter(
    "systemd_unit_restarts_total", "How often systemd has restarted this unit by itself", ("unit",)
)
STATES = ("active", "reloading", "inactive", "failed", "activating", "deactivating")
NOT_LOADED = {
    "masked": ("UnitMasked", "is masked: systemctl unmask allows it to start again"),
    "not-found": ("UnitNotFound", "does not exist"),
}
"""Reason and text for a LoadState."""
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.[a-z]+\Z")


class SystemdOptions(Options, frozen=True):
    """Which units count, and how."""

    ignore: tuple[str, ...] = ()
    """Units that may fail and restart, as shell patterns."""
    must_be_active: tuple[str, ...] = ()
    """Units that have to be active, with their suffix: sshd.service. A oneshot service may also have ended well."""
    starting_within: Duration = "5m"
    """A unit that must be active may take so long to start."""
    flap_count: Annotated[int, Meta(ge=1)] = 3
    """So many restarts by systemd itself ..."""
    flap_within: Duration = "10m"
    """... in this time are a problem."""
    answer_within: Duration = "3s"
    """For all that systemd is asked in one check; it is unresponsive if it takes longer."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Names of units that can't be, and durations that are none."""
        for index, unit in enumerate(self.must_be_active):
            if not UNIT_NAME.match(unit):
                yield f"mustBeActive[{index}]", f"found {unit!r}, expected a unit's whole name: sshd.service"
        for option, value in (("flapWithin", self.flap_within), ("answerWithin", self.answer_within)):
            if seconds(value) <= 0:
                yield option, f"found {value!r}, allowed: more than 0"
        if seconds(self.answer_within) > SystemdMonitor.timeout / 2:
            yield (
                "answerWithin",
                f"found {self.answer_within!r}, allowed: {SystemdMonitor.timeout / 2:g}s at most",
            )


class SystemdMonitor(Monitor[SystemdOptions]):
    """Asks systemd for its units over D-Bus, and without the D-Bus daemon, as root, over systemd's own socket.

    Restarts are those that systemd counts in NRestarts: by Restart= alone, none by hand; org.freedesktop.systemd1(5).
    """

    kind, options_type = "systemd-health-check", SystemdOptions
    conditions = (FAILED, INACTIVE, FLAPPING, UNRESPONSIVE)
    metrics = (UNITS, ACTIVE, RESTARTS)

    def __init__(self, name: str, options: SystemdOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.restarts: dict[str, Growth] = {}

    @classmethod
    def conditions_of(cls, name: str, options: SystemdOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """Where no unit must be active, none can be inactive."""
        return tuple(c for c in cls.conditions if options.must_be_active or c is not INACTIVE)

    def check(self) -> Iterator[Observation]:
        """Ask systemd."""
        try:
            with connected(self.host, seconds(self.options.answer_within)) as systemd:
                observations = list(self.look(systemd))
        except Silent as error:
            yield UNRESPONSIVE.when(True, f"{error}: units can be neither started nor stopped")
            for condition in self.conditions_of(self.name, self.options):
                if condition is not UNRESPONSIVE:
                    yield condition.unknown(str(error), error.reason)
            return
        yield UNRESPONSIVE.when(False, "")
        yield from observations

    def look(self, systemd: Systemd) -> Iterator[Observation]:
        """What an answering systemd tells."""
        units = systemd.units()
        states = Counter(unit.active_state for unit in units)
        yield from (UNITS(states[state], state=state) for state in STATES)
        yield from failed(self.heeded(units))
        for name in dict.fromkeys(self.options.must_be_active):
            yield from self.look_at(systemd, name)
        yield from self.look_for_flapping(systemd, units)

    def heeded(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Those that are not ignored."""
        return (u for u in units if not any(fnmatchcase(u.name, pattern) for pattern in self.options.ignore))

    def look_at(self, systemd: Systemd, name: str) -> Iterator[Observation]:
        """Whether the unit `name` is active."""
        try:
            state = systemd.unit(name)
        except CallError as error:
            yield INACTIVE.unknown(f"{name}: systemd does not tell its state: {error}")
            return
        reason, text = inactive(state, time.monotonic(), seconds(self.options.starting_within))
        yield ACTIVE(float(state.active_state in {"active", "reloading"}), unit=name)
        yield INACTIVE.when(bool(reason), f"{name} {text}", reason)

    def look_for_flapping(self, systemd: Systemd, units: Iterable[Unit]) -> Iterator[Observation]:
        """Which services systemd restarts again and again."""
        now, within = time.monotonic(), seconds(self.options.flap_within)
        counts = {u.name: systemd.restarts(u.path) for u in self.heeded(units) if is_service(u)}
        self.restarts = {name: self.restarts.get(name) or Growth() for name in counts}
        yield FLAPPING.when(False, "")
        for name, count in counts.items():
            flaps = self.restarts[name].within(within, count, now) >= self.options.flap_count
            if flaps or name in self.options.must_be_active:
                yield RESTARTS(count, unit=name)
            yield FLAPPING.when(flaps, self.flap_message(name))

    def flap_message(self, name: str) -> str:
        """What to say of the flapping unit `name`."""
        return (
            f"{name} was restarted by systemd at least {self.options.flap_count} times "
            f"within {self.options.flap_within}; see: journalctl -u {name}"
        )


def is_service(unit: Unit) -> bool:
    """Whether `unit` is one that systemd restarts."""
    return unit.name.endswith(".service") and unit.load_state == "loaded"


def failed(units: Iterable[Unit]) -> Iterator[Finding]:
    """Which of `units` have failed."""
    yield FAILED.when(False, "")
    for unit in units:
        if unit.active_state == "failed":
            yield FAILED.when(True, f"{unit.name} has failed; see: systemctl status {unit.name}")


def inactive(unit: UnitState, now: float, starting_within: float) -> tuple[str, str]:
    """Why `unit` is not active, as reason and text; both empty if it is, or on its way.

    Args:
        unit: What systemd says of it.
        now: Seconds of CLOCK_MONOTONIC.
        starting_within: Seconds in which it must have started.
    """
    if unit.active_state in {"active", "reloading"}:
        return "", ""
    if unit.load_state != "loaded":
        return NOT_LOADED.get(unit.load_state, ("UnitNotLoaded", "has settings that systemd can't use"))
    if unit.active_state == "activating":
        return not_starting(unit, now, starting_within)
    return not_running(unit)


def not_running(unit: UnitState) -> tuple[str, str]:
    """Why a `unit` that neither runs nor starts is not active; both empty for a oneshot that has ended well."""
    if unit.active_state == "failed":
        return "UnitHasFailed", f"has failed (result {unit.result or 'unknown'})"
    if unit.condition_failed:
        return "UnitConditionNotMet", "was not started since a condition in its settings was not met"
    if unit.kind == "oneshot" and not unit.remain_after_exit and unit.result == "success":
        return "", ""
    return "UnitInactive", "is not active: it was stopped, or not started"


def not_starting(unit: UnitState, now: float, within: float) -> tuple[str, str]:
    """Why a `unit` that starts does not count as starting; a oneshot is at its work meanwhile, however long."""
    if unit.sub_state == "auto-restart":
        return "UnitHasFailed", f"has ended (result {unit.result}) and waits for systemd to restart it"
    if now - unit.left_inactive <= within or (unit.kind == "oneshot" and not unit.remain_after_exit):
        return "", ""
    return "UnitNotStarting", "is starting for longer than it may"

"""One condition as the broker holds it: what its monitor last said, what was last certain, what is shown."""

from __future__ import annotations

from datetime import datetime

import msgspec

from nodedoctor.bus.messages import ConditionView
from nodedoctor.types import Condition, ConditionStatus, Severity

UNKNOWN = ConditionStatus.UNKNOWN
NOT_YET_OBSERVED = "NotYetObserved"
NO_FINDING = (NOT_YET_OBSERVED, "NotChecked")


class Shown(msgspec.Struct, frozen=True):
    """What everybody is told of a condition. `since` is None when it is not known from when on it holds."""

    status: ConditionStatus
    reason: str
    message: str
    severity: Severity = Severity.INFO
    since: datetime | None = None


class Held:
    """The state of one condition, which one monitor writes.

    Lost observability neither sets nor clears a problem: the last certain verdict is shown for `hold` seconds after
    it was last confirmed, whether its monitor is silent or can't tell; then the condition is Unknown. With
    `unknown_is_found` an Unknown of the monitor is a verdict like others, unless it has not looked yet.
    """

    def __init__(
        self, kind: str, monitor: str, hold: float, wall: datetime, *, unknown_is_found: bool = False
    ) -> None:
        self.kind = kind
        self.unknown_is_found = unknown_is_found
        self.monitor = monitor
        self.hold = hold
        self.certain: Shown | None = None
        self.certain_at = 0.0
        self.uncertain: Shown | None = None
        self.heard_at = 0.0
        self.updated = wall
        self.unobserved = Shown(UNKNOWN, NOT_YET_OBSERVED, f"waiting for the first check of {monitor}")
        self.view = self.viewed(self.unobserved, transition=wall)

    def on_report(self, condition: Condition, now: float, wall: datetime) -> None:
        """The monitor said `condition` at the monotonic time `now`."""
        said = Shown(
            condition.status, condition.reason, condition.message, condition.severity, condition.since
        )
        self.heard_at, self.updated = now, wall
        found = self.unknown_is_found and condition.reason not in NO_FINDING
        if condition.status is UNKNOWN and not found:
            self.uncertain = said
        else:
            self.certain, self.certain_at, self.uncertain = said, now, None

    def effective(self, now: float) -> Shown:
        """What holds at `now`, as far as this condition's own monitor tells."""
        if self.certain is not None and now - self.certain_at <= self.hold:
            return self.certain
        if self.uncertain is not None and now - self.heard_at <= self.hold:
            return self.uncertain
        if self.certain is None and self.uncertain is None:
            return self.unobserved
        return Shown(UNKNOWN, "MonitorStale", f"{self.monitor} has not reported for longer than it may")

    def show(self, shown: Shown, wall: datetime) -> ConditionView:
        """Make `shown` the view; its transition time moves with the status alone."""
        self.view = self.viewed(shown, self.transition(shown, wall))
        return self.view

    def transition(self, shown: Shown, wall: datetime) -> datetime:
        """Since when the status of `shown` holds.

        A monitor knows better than a broker that has just started; a status that comes back after an Unknown holds
        since now, whatever its monitor remembers.
        """
        last = self.view.last_transition_time
        if shown.status is self.view.status:
            return last
        if shown.since and (self.view.reason == NOT_YET_OBSERVED or shown.since > last):
            return shown.since
        return wall

    def viewed(self, shown: Shown, transition: datetime) -> ConditionView:
        """`shown` as everybody sees it."""
        return ConditionView(
            type=self.kind,
            status=shown.status,
            reason=shown.reason,
            message=shown.message,
            monitor=self.monitor,
            severity=shown.severity,
            last_transition_time=transition,
            last_update_time=self.updated,
        )

"""The node's health in one word."""

from __future__ import annotations

from enum import StrEnum

from nodedoctor.bus.messages import Snapshot
from nodedoctor.types import ConditionStatus, Severity


class Health(StrEnum):
    """As `GET /health` and `node-doctor status` tell it."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


def health(snapshot: Snapshot) -> Health:
    """The health that follows from the conditions.

    A problem makes the node unhealthy, one that is only a warning, or a first threshold that was crossed, makes it
    degraded. What can't be determined (an agent without privileges can't tell everything) changes nothing as long as
    something is known; before the first check, nothing is.
    """
    if any(c.status is ConditionStatus.TRUE and c.severity is Severity.ERROR for c in snapshot.conditions):
        return Health.UNHEALTHY
    if any(
        c.status is not ConditionStatus.UNKNOWN and c.severity is Severity.WARNING
        for c in snapshot.conditions
    ):
        return Health.DEGRADED
    monitors = {monitor.name for monitor in snapshot.monitors}
    nodes_own = [c.status for c in snapshot.conditions if c.monitor in monitors]
    if nodes_own and set(nodes_own) == {ConditionStatus.UNKNOWN}:
        return Health.UNKNOWN
    return Health.HEALTHY

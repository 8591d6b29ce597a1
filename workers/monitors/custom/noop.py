"""The smallest monitor: finds nothing, always."""

from __future__ import annotations

from collections.abc import Iterator

from nodedoctor.monitor import ConditionType, Monitor, Observation, Options
from nodedoctor.words import condition_name


class NoopOptions(Options, frozen=True):
    """It has none."""


class NoopMonitor(Monitor[NoopOptions]):
    """Checks nothing and is always fine: shows that the agent itself works."""

    kind, options_type = "noop", NoopOptions

    @classmethod
    def conditions_of(cls, name: str, options: NoopOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """One condition, named for the monitor."""
        return (ConditionType(condition_name(name), reason="NeverHappens", ok_reason="NothingChecked"),)

    def check(self) -> Iterator[Observation]:
        """Find nothing."""
        for declared in self.conditions_of(self.name, self.options):
            yield declared.when(False, "")

"""From findings to conditions: several subjects fold into one, and one check is not believed at once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from nodedoctor.monitor import ConditionType, Finding
from nodedoctor.types import Condition, ConditionStatus, Severity

LONGEST_MESSAGE = 1024
"""Bytes: what the Kubernetes API takes in an event's note; a condition's message is kept to the same."""
TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class Verdict(msgspec.Struct, frozen=True):
    """What one check says of one condition, all its subjects taken together."""

    status: ConditionStatus
    reason: str
    message: str
    severity: Severity = Severity.INFO


NOT_CHECKED = Verdict(UNKNOWN, "NotChecked", "the check said nothing about it")


def fold(declared: ConditionType, findings: Iterable[Finding], without: Verdict = NOT_CHECKED) -> Verdict:
    """One verdict for `declared`: one bad subject is enough, and the message names all the bad ones.

    `without` is the verdict when there is no finding for it.
    """
    mine = [finding for finding in findings if finding.type == declared.type]
    bad = [finding for finding in mine if finding.bad]
    if bad:
        severity = Severity.ERROR if any(f.severity is Severity.ERROR for f in bad) else Severity.WARNING
        if declared.severity is not Severity.ERROR:
            severity = declared.severity
        return Verdict(TRUE, bad[0].reason, joined(bad), severity)
    unknown = [finding for finding in mine if finding.bad is None]
    if unknown:
        return Verdict(UNKNOWN, unknown[0].reason, joined(unknown))
    if not mine:
        return without
    warnings = [finding for finding in mine if finding.warning]
    if warnings:
        return Verdict(FALSE, warnings[0].reason, joined(warnings), Severity.WARNING)
    return Verdict(FALSE, declared.ok_reason, declared.ok_message)


def joined(findings: Iterable[Finding]) -> str:
    """Their messages, each once and in a stable order, cut to what the Kubernetes API takes."""
    text = "; ".join(sorted({finding.message for finding in findings if finding.message}))
    encoded = text.encode(errors="replace")
    if len(encoded) <= LONGEST_MESSAGE:
        return text
    return encoded[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


class Confirmed:
    """One condition's state over several checks.

    True needs `failures` checks in a row that find the problem, False after True needs `successes` that don't. A
    check that can't tell breaks neither row; what it leaves undetermined, the broker holds for a while.
    """

    def __init__(self, declared: ConditionType, failures: int, successes: int, now: datetime) -> None:
        self.declared = declared
        self.needed = {TRUE: 1 if declared.latched else failures, FALSE: 1 if declared.latched else successes}
        self.streak = {TRUE: 0, FALSE: 0}
        self.state = Verdict(UNKNOWN, "NotYetObserved", "no check has ended yet")
        self.since = now

    def step(self, verdict: Verdict, now: datetime) -> Condition:
        """Take the verdict of one more check and give the condition to publish."""
        if verdict.status is UNKNOWN:
            return self.published(verdict, now)
        other = FALSE if verdict.status is TRUE else TRUE
        self.streak[verdict.status] += 1
        self.streak[other] = 0
        if self.believes(verdict):
            if verdict.status is not self.state.status:
                self.since = now
            self.state = verdict
        elif self.state.status is UNKNOWN:
            return self.published(self.unconfirmed(verdict), now)
        return self.published(self.state, now)

    def believes(self, verdict: Verdict) -> bool:
        """Whether `verdict` was found often enough in a row. The first all-clear needs no repetition."""
        if verdict.status is self.state.status:
            return True
        if verdict.status is FALSE and self.state.status is UNKNOWN:
            return True
        return self.streak[verdict.status] >= self.needed[verdict.status]

    def unconfirmed(self, verdict: Verdict) -> Verdict:
        """What to say while the first problem ever is not believed yet."""
        message = f"found, not yet in {self.needed[TRUE]} checks in a row: {verdict.message}"
        return Verdict(UNKNOWN, "Unconfirmed", message)

    def published(self, verdict: Verdict, now: datetime) -> Condition:
        """`verdict` as a condition; an Unknown is as old as now, the rest as old as the state."""
        since = now if verdict.status is UNKNOWN else self.since
        return Condition(
            self.declared.type, verdict.status, verdict.reason, verdict.message, since, verdict.severity
        )

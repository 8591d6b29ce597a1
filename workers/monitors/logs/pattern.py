"""What the kernel's log says about the node."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import (
    ConditionType,
    EventReason,
    Finding,
    Host,
    Monitor,
    Observation,
    Options,
    counter,
)
from nodedoctor.types import Event, Severity, utc_now
from nodedoctor.words import did_you_mean
from workers.monitors.logs.kmsg import KernelLog, Line, numbers
from workers.monitors.logs.position import Latched, Position, boot_id, load, save
from workers.monitors.logs.rules import Hit, Matcher, Rule, rule_faults, rule_set, rule_sets

LINES = counter("log_lines_total", "Lines that were read")
LOST = counter("log_lines_lost_total", "Lines that were overwritten before they were read")
MATCHES = counter("log_matches_total", "Lines that matched, by rule", ("rule",))
OVERRUN = EventReason("LogLinesLost")
SUPPRESSED = EventReason("LogEventsSuppressed")
LINES_AT_ONCE = 5000
"""Lines that one check takes before it lets what it found be published."""
EVENTS_AT_ONCE = 20
SAVE_EVERY = 1.0

logger = logging.getLogger(__name__)


class LogPatternOptions(Options, frozen=True):
    """Where to look, and for what."""

    source: Literal["kmsg"] = "kmsg"
    """The kernel's log."""
    path: str = "/dev/kmsg"
    lookback: Duration = "0s"
    """How far back to read when this log was never read before; after a restart it goes on where it was."""
    rule_sets: tuple[str, ...] = ()
    """Built-in rules, by the names of the files in etc/rules: kernel."""
    rules: tuple[Rule, ...] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong with each rule, and names that stand twice or for nothing."""
        known = rule_sets()
        for index, name in enumerate(self.rule_sets):
            if name not in known:
                found = f"found {name!r}, allowed: {', '.join(known)}{did_you_mean(name, known)}"
                yield f"ruleSets[{index}]", found
        seen = [
            rule.name for name in dict.fromkeys(self.rule_sets) if name in known for rule in rule_set(name)
        ]
        if len(set(self.rule_sets)) < len(self.rule_sets):
            yield "ruleSets", "names a set twice"
        for index, rule in enumerate(self.rules):
            for option, fault in rule_faults(rule):
                yield f"rules[{index}].{option}", fault
            if rule.name in seen:
                yield f"rules[{index}].name", f"there is a rule {rule.name!r} already, here or in ruleSets"
            seen.append(rule.name)
        if not self.rule_sets and not self.rules:
            yield "rules", "there is nothing to look for: name rules or ruleSets"

    def all_rules(self) -> tuple[Rule, ...]:
        """The built-in ones, then those of the configuration."""
        known = set(rule_sets())
        return (*(rule for name in self.rule_sets if name in known for rule in rule_set(name)), *self.rules)


class LogPatternMonitor(Monitor[LogPatternOptions]):
    """Follows /dev/kmsg and matches every line with all rules in one pass (RE2: linear time, whatever the line).

    A match of a temporary rule is an event; one of a permanent rule sets a condition, which a line, a time or a
    reboot clears. With the sysctl kernel.dmesg_restrict=1 reading needs CAP_SYSLOG.
    """

    kind, options_type = "log-pattern", LogPatternOptions
    metrics = (LINES, LOST, MATCHES)
    events = (OVERRUN, SUPPRESSED)
    capabilities = ("CAP_SYSLOG",)

    def __init__(self, name: str, options: LogPatternOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        rules = options.all_rules()
        self.matcher = Matcher(rules)
        self.by_name = {rule.name: rule for rule in rules}
        self.declared = self.conditions_of(name, options)
        self.matches: Counter[str] = Counter(dict.fromkeys(self.by_name, 0))
        self.lines = 0
        self.told_lost = 0
        self.log: KernelLog | None = None
        self.latched: dict[str, Latched] = {}
        self.found = False
        self.saved_at = 0.0
        self.saved: Position | None = None

    @classmethod
    def conditions_of(cls, name: str, options: LogPatternOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """The conditions of the permanent rules; a line that was read once is believed at once."""
        found = {}
        for rule in options.all_rules():
            if rule.type == "permanent" and rule.condition and rule.condition not in found:
                found[rule.condition] = ConditionType(
                    rule.condition,
                    reason=rule.told_reason,
                    ok_reason="NotInLog",
                    severity=rule.told_severity,
                    latched=True,
                )
        return tuple(found.values())

    def fileno(self) -> int | None:
        """The device, once it is open."""
        return self.log.descriptor if self.log else None

    def check(self) -> Iterator[Observation]:
        """Take the lines that are there, and say what holds now."""
        log = self.log or self.open()
        # What the last check has found is published by now: from here on a restart need not repeat it.
        self.keep(at_once=self.found)
        self.found = False
        events: list[Event] = []
        for line in log.read(LINES_AT_ONCE):
            self.lines += 1
            for hit in self.matcher.hits(line.text):
                self.found = True
                events += self.on_hit(hit, line)
        yield from bounded(events)
        if log.lost > self.told_lost:
            yield OVERRUN(f"{self.options.path} was written faster than it was read: lines are missing")
            self.told_lost = log.lost
        self.clear_by_time(utc_now())
        yield from self.findings()
        yield LINES(self.lines)
        yield LOST(log.lost)
        for name, count in self.matches.items():
            yield MATCHES(count, rule=name)

    def on_hit(self, hit: Hit, line: Line) -> Iterator[Event]:
        """What one match means: an event, or a condition set or cleared."""
        rule, when = hit.rule, self.boot + timedelta(microseconds=line.usec)
        if hit.clears:
            self.latched.pop(rule.condition or "", None)
            return
        self.matches[rule.name] += 1
        if rule.condition:
            self.latched[rule.condition] = Latched(rule.name, hit.message, when)
        else:
            yield Event(rule.told_severity, rule.told_reason, hit.message, when)

    def clear_by_time(self, now: datetime) -> None:
        """Clear the conditions whose rules say how long they last."""
        for condition, latched in list(self.latched.items()):
            rule = self.by_name.get(latched.rule)
            if rule is None or (
                rule.clear_after and now - latched.at >= timedelta(seconds=seconds(rule.clear_after))
            ):
                del self.latched[condition]

    def findings(self) -> Iterator[Finding]:
        """Both sides of every condition."""
        for condition in self.declared:
            latched = self.latched.get(condition.type)
            if latched is None:
                yield condition.when(False, "")
            else:
                yield condition.when(True, latched.message, self.by_name[latched.rule].told_reason)

    @cached_property
    def boot(self) -> datetime:
        """When the machine booted, to the second: the same for every process that reads it; proc_stat(5)."""
        lines = (self.host.proc / "stat").read_text().splitlines()
        return datetime.fromtimestamp(
            next(int(line.split()[1]) for line in lines if line.startswith("btime")), UTC
        )

    @cached_property
    def this_boot(self) -> str:
        """The running boot's own id."""
        return boot_id(self.host.proc)

    @property
    def file(self) -> Path | None:
        """Where the position is kept, if anywhere."""
        return self.host.state / f"log-{self.name}.json" if self.host.state else None

    def open(self) -> KernelLog:
        """Open the log where it is to be read from.

        Raises:
            PermissionError: the device may not be read.
        """
        known = load(self.file) if self.file else None
        path = Path(self.options.path)
        try:
            lookback = seconds(self.options.lookback)
            start, newest = numbers(path, (time.clock_gettime(time.CLOCK_MONOTONIC) - lookback) * 1e6)
            if known and known.boot != self.this_boot:
                # Everything in the ring is of this boot, and nobody has read it.
                start = -1
            elif known and known.seq <= newest:
                start, self.latched = known.seq, dict(known.latched)
            elif known:
                logger.warning("%s is ahead of %s, so it is not of this log; it is not used", self.file, path)
            self.log = KernelLog(path, start if known or lookback else newest)
        except PermissionError as error:
            error.strerror = f"{error.strerror}: reading it needs CAP_SYSLOG (run the agent as root)"
            raise
        return self.log

    def keep(self, *, at_once: bool = False) -> None:
        """Write the position, at most once a second."""
        if self.file is None or self.log is None:
            return
        position = Position(self.this_boot, self.log.after, dict(self.latched))
        if position != self.saved and (at_once or time.monotonic() - self.saved_at >= SAVE_EVERY):
            try:
                save(self.file, position)
            except OSError as error:
                # A full or read-only disk is what this agent must report, not what ends it.
                logger.warning(
                    "%s can't be written (%s): a restart may repeat lines", self.file, error.strerror
                )
            self.saved, self.saved_at = position, time.monotonic()

    def close(self) -> None:
        """Keep the position and let go of the device."""
        if self.log:
            self.keep(at_once=True)
            self.log.close()


def bounded(events: list[Event]) -> Iterator[Event]:
    """The first of `events`, each once, and one that tells of the rest: a storm must not flood anybody."""
    first: dict[tuple[str, str, str], Event] = {}
    for event in events:
        first.setdefault((event.severity, event.reason, event.message), event)
    distinct = list(first.values())
    yield from distinct[:EVENTS_AT_ONCE]
    rest = distinct[EVENTS_AT_ONCE:]
    if rest:
        reasons = ", ".join(sorted({event.reason for event in rest}))
        yield Event(
            Severity.WARNING,
            SUPPRESSED.reason,
            f"more events at once than are told one by one: {reasons}",
            utc_now(),
        )

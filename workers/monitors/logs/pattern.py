"""What logs say about the node."""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, EventReason, Finding, Monitor, Observation, counter
from nodedoctor.patterns import group_names
from nodedoctor.types import Event, Severity
from workers.monitors.logs.matching import Hit, Kind, Matcher
from workers.monitors.logs.memory import Count, Latches
from workers.monitors.logs.opening import Clock, open_source
from workers.monitors.logs.options import DefaultCondition, LogPatternOptions
from workers.monitors.logs.position import Position, boot_id, boot_usec, load, save
from workers.monitors.logs.rules import Rule, rendered
from workers.monitors.logs.source import Line, Source
from workers.monitors.logs.telling import Teller

LINES = counter("log_lines_total", "Lines that were read")
LOST = counter("log_lines_lost_total", "Lines that were gone before they were read")
SKIPPED = counter("log_lines_skipped_total", "Lines in which no time or no message was found")
MATCHES = counter("log_matches_total", "Matches by rule", ("rule",))
OVERRUN = EventReason("LogLinesLost")
LINES_AT_ONCE = 5000
"""Lines that one check takes before it lets what it found be published."""
BUSY_LINES = 20
MOST_SERIES = 100
"""Combinations of a rule's labels that are counted each by itself; the rest is counted without them."""
SAVE_EVERY = 1.0
CLOCK_EVERY = 10.0
BACKLOG_WAITS = 0.5
"""Seconds for which a log that another process reads for us must be silent to have told all that it has."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

logger = logging.getLogger(__name__)


class LogPatternMonitor(Monitor[LogPatternOptions]):
    """Follows a log and matches every line with all rules in one pass (RE2: linear time, whatever the line).

    A match of a temporary rule is an event; one of a permanent rule sets a condition, which a line, a time or a
    reboot clears. The kernel's log needs CAP_SYSLOG where the sysctl kernel.dmesg_restrict is 1; the journal and
    files need the right to read them: CAP_DAC_READ_SEARCH as root.
    """

    kind, options_type = "log-pattern", LogPatternOptions
    metrics = (LINES, LOST, SKIPPED, MATCHES)
    events = (OVERRUN,)
    capabilities = ("CAP_SYSLOG", "CAP_DAC_READ_SEARCH")

    def __init__(self, name: str, options: LogPatternOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        rules = options.all_rules()
        self.rules = {rule.name: rule for rule in rules}
        self.matcher = Matcher(rules, options.buffer_size)
        self.declared = self.conditions_of(name, options)
        self.latches = Latches(self.rules, {rule.name: subject_groups(rule) for rule in rules})
        self.counts = {rule.name: Count(rule) for rule in rules if rule.within}
        self.tellers = {rule.name: Teller(rule) for rule in rules}
        self.matches: Counter[tuple[tuple[str, str], ...]] = Counter()
        self.lines = 0
        self.told_lost = 0
        self.source: Source | None = None
        self.clock = Clock(0, "")
        self.clock_read_at = 0.0
        self.told_usec: dict[tuple[str, str], int] = {}
        self.found = False
        self.events_found: list[Event] = []
        self.trouble: PermissionError | Undetermined | None = None
        self.saved_at = 0.0
        self.saved: Position | None = None

    @classmethod
    def conditions_of(cls, name: str, options: LogPatternOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """The conditions that the options name and those of the permanent rules; a line is believed at once."""
        named = {condition.type: condition for condition in options.conditions}
        setters: dict[str, list[Rule]] = {kind: [] for kind in named}
        for rule in options.all_rules():
            if rule.type == "permanent" and rule.condition:
                setters.setdefault(rule.condition, []).append(rule)
        return tuple(
            condition_type(named.get(kind, DefaultCondition(kind)), rules) for kind, rules in setters.items()
        )

    @classmethod
    def events_of(cls, name: str, options: LogPatternOptions) -> tuple[EventReason, ...]:  # noqa: ARG003
        """The events of the temporary rules, and that of lost lines."""
        own = [EventReason(r.told_reason, r.told_severity) for r in options.all_rules() if not r.condition]
        return (*cls.events, *dict.fromkeys(own))

    @classmethod
    def capabilities_of(cls, options: LogPatternOptions) -> tuple[str, ...]:
        """The one that the log needs."""
        return ("CAP_SYSLOG",) if options.source == "kmsg" else ("CAP_DAC_READ_SEARCH",)

    def fileno(self) -> int | None:
        """What the log wakes us by, once it is open."""
        return self.source.fileno() if self.source else None

    def wake_after(self) -> float | None:
        """The log's own wish, and the time at which something is to be cleared."""
        now = boottime()
        wishes = [self.source.wake_after() if self.source else None, self.latches.next_end(now)]
        if any(self.latches.holds(name) for name in self.counts):
            wishes.append(1.0)
        return min((wish for wish in wishes if wish is not None), default=None)

    def poll(self) -> bool:
        """Take the lines that are there; whether one of them means anything."""
        try:
            self.take()
        except (PermissionError, Undetermined) as error:
            self.trouble = error
        lost = self.source is not None and self.source.lost > self.told_lost
        return self.found or lost or self.trouble is not None or self.clear(boottime())

    def check(self) -> Iterator[Observation]:
        """Take the lines that are there, and say what holds now."""
        if self.trouble is None:
            self.take()
        events, self.events_found = self.events_found, []
        yield from events
        trouble, self.trouble = self.trouble, None
        if trouble:
            raise trouble
        now = boottime()
        for teller in self.tellers.values():
            yield from teller.summary(now)
        self.clear(now)
        yield from self.findings()
        yield from self.tallies()

    def take(self) -> None:
        """Read the next lines, and do what the rules say of them.

        Raises:
            PermissionError: the log may not be read.
            Undetermined: it can't be read for another reason.
        """
        source = self.source or self.open()
        # What was told before has been published by now: from here on a restart need not repeat it.
        self.keep(at_once=self.found)
        self.found = bool(self.events_found)
        now = boottime()
        self.read_clock(now)
        lines = source.read(LINES_AT_ONCE)
        self.busy = len(lines) >= BUSY_LINES
        self.lines += len(lines)
        for line in lines:
            for hit in self.matcher.hits(line):
                self.found = True
                self.events_found += self.on_hit(hit, now)

    def check_alone(self) -> Iterator[Observation]:
        """Take what the log has told until it is silent for a moment, and say what holds."""
        source = self.source or self.open()
        ready = select.poll()
        descriptor = source.fileno() if self.options.source == "journal" else None
        if descriptor is not None:
            ready.register(descriptor, select.POLLIN)
        while True:
            heard = descriptor is not None and ready.poll(BACKLOG_WAITS * 1000)
            seen = list(self.check())
            if not heard:
                yield from seen
                return
            yield from (item for item in seen if isinstance(item, Event))

    def on_hit(self, hit: Hit, now: float) -> Iterator[Event]:
        """What one match means: an event, a condition set or cleared, or one more or less to count."""
        rule, at = hit.rule, now - self.age(hit.lines[0])
        if hit.kind is Kind.CLEAR:
            self.latches.clear(hit)
            return
        count = self.counts.get(rule.name)
        if hit.kind is Kind.REVERT:
            if count:
                count.add(-1, at)
            return
        known = hit.known()
        self.tally(rule, known)
        if count:
            count.add(1, at)
            known["count"] = str(count.total)
            if not count.reached(now):
                return
        message = rendered(rule, known)
        if rule.condition:
            self.latches.set(hit, message, at)
            return
        if count:
            count.restore({})
        event = Event(rule.told_severity, rule.told_reason, message, self.moment(hit, message))
        yield from self.tellers[rule.name].tell(event, now)

    def clear(self, now: float) -> bool:
        """Clear the conditions whose time is over, and those of which too few matches are left; whether there was one."""
        before = len(self.latches.held)
        self.latches.clear_by_time(now)
        for name, count in self.counts.items():
            if self.latches.holds(name) and not count.reached(now):
                self.latches.clear_rule(name)
        return len(self.latches.held) != before

    def tally(self, rule: Rule, known: dict[str, str]) -> None:
        """Count a match, by the labels of its rule; where these have too many values, by the rule alone."""
        key = (("rule", rule.name), *((label, known.get(label, "")) for label in rule.labels))
        if key not in self.matches and len(self.matches) >= MOST_SERIES:
            key = key[:1]
        self.matches[key] += 1

    def tallies(self) -> Iterator[Observation]:
        """What was counted, and an event if lines were lost."""
        source = self.source
        assert source
        if source.lost > self.told_lost:
            yield OVERRUN(
                f"{self.log}: lines were gone before they could be read, or were too long to be read"
            )
            self.told_lost = source.lost
        yield LINES(self.lines)
        yield LOST(source.lost)
        yield SKIPPED(source.skipped)
        for labels, count in self.matches.items():
            yield MATCHES(count, **dict(labels))

    def findings(self) -> Iterator[Finding]:
        """Both sides of every condition."""
        for condition in self.declared:
            held = list(self.latches.of(condition.type))
            for latched in held:
                rule = self.rules[latched.rule]
                yield Finding(condition.type, True, latched.message, rule.told_reason, rule.told_severity)
            if not held:
                yield condition.when(False, "")

    def read_clock(self, now: float) -> None:
        """Notice that the clock was set: the kernel's lines carry the time since boot alone."""
        if self.options.source == "kmsg" and now - self.clock_read_at >= CLOCK_EVERY:
            self.clock = msgspec.structs.replace(self.clock, boot_usec=boot_usec(self.host.proc))
            self.clock_read_at = now

    def age(self, line: Line) -> float:
        """How many seconds ago `line` was written, by the clock that it was stamped with."""
        if self.options.source == "kmsg":
            now_usec = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
        else:
            now_usec = time.time() * 1e6 - self.clock.boot_usec
        return max(0.0, (now_usec - line.usec) / 1e6)

    def moment(self, hit: Hit, message: str) -> datetime:
        """When it happened. The same message within a second happened a little later: an event is told apart by its time."""
        usec, key = hit.lines[0].usec, (hit.rule.name, message)
        last = self.told_usec.pop(key, None)
        if last is not None and last - 1_000_000 < usec <= last:
            usec = last + 1
        self.told_usec[key] = usec
        if len(self.told_usec) > LINES_AT_ONCE:
            del self.told_usec[next(iter(self.told_usec))]
        return EPOCH + timedelta(microseconds=self.clock.boot_usec + usec)

    @property
    def log(self) -> str:
        """What tells this log from another one, for people and for the position."""
        return f"{self.options.source} {self.options.path}".strip()

    @property
    def file(self) -> Path | None:
        """Where the position is kept, if anywhere."""
        return self.host.state / f"log-{self.name}.json" if self.host.state else None

    def open(self) -> Source:
        """Open the log where it is to be read from.

        Raises:
            PermissionError: it may not be read.
            Undetermined: it can't be read for another reason.
        """
        known = load(self.file) if self.file else None
        if known and known.log != self.log:
            known = None
        self.clock = Clock(boot_usec(self.host.proc), boot_id(self.host.proc))
        self.source = open_source(self.options, known, self.clock)
        if known and known.boot == self.clock.boot:
            self.latches.restore(known.latched)
            for name, by_second in known.counts.items():
                if name in self.counts:
                    self.counts[name].restore(by_second)
        return self.source

    def keep(self, *, at_once: bool = False) -> None:
        """Write the position, at most once a second, and not while there are events that nobody was told of."""
        if self.file is None or self.source is None or self.events_found:
            return
        counts = {name: count.by_second for name, count in self.counts.items() if count.by_second}
        place, latched = self.source.place(), self.latches.saved()
        position = Position(self.log, self.clock.boot, place, latched, counts)
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
        """Keep the position and let go of the log."""
        if self.source:
            self.keep(at_once=True)
            self.source.close()


def boottime() -> float:
    """Seconds since the boot, in which the machine may have slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def condition_type(default: DefaultCondition, rules: list[Rule]) -> ConditionType:
    """The condition of these permanent rules; with the most serious of their severities."""
    reasons = tuple(dict.fromkeys(rule.told_reason for rule in rules))
    severities = [rule.told_severity for rule in rules]
    return ConditionType(
        default.type,
        reason=reasons[0] if reasons else default.reason,
        ok_reason=default.reason,
        ok_message=default.message,
        severity=max(severities, key=list(Severity).index, default=Severity.ERROR),
        latched=True,
        reasons=reasons,
    )


def subject_groups(rule: Rule) -> tuple[str, ...]:
    """The groups that tell the subjects of `rule` apart: those that its clearing pattern has by name, too."""
    if not rule.clear_pattern:
        return ()
    common = group_names(rule.pattern) & group_names(rule.clear_pattern)
    return tuple(sorted(name for name in common if not name.isdigit()))

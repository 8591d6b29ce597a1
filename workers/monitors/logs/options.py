"""The options of the log monitor: which log, from where on, and what to look for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration
from nodedoctor.monitor import Options
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import did_you_mean
from workers.monitors.logs.kmsg import FACILITIES
from workers.monitors.logs.rules import Rule, camel, rule_faults, rule_set, rule_sets
from workers.monitors.logs.timestamps import Layout

Priority = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
ONLY_FOR = {
    "units": ("journal",),
    "identifiers": ("journal",),
    "priority": ("kmsg", "journal"),
    "facilities": ("kmsg", "journal"),
    "skip": ("file",),
    "timestamp": ("file",),
    "timestamp_format": ("file",),
    "message_pattern": ("file",),
}
TRANSLATION = ("timestamp", "timestamp_format", "message_pattern")


class DefaultCondition(Options, frozen=True):
    """What a condition says while it is False."""

    type: ConditionName
    reason: str = "NotInLog"
    message: str = ""


class LogPatternOptions(Options, frozen=True):
    """Where to look, and for what."""

    source: Literal["kmsg", "journal", "file"] = "kmsg"
    """kmsg: the kernel's log. journal: the systemd journal, through journalctl. file: a log file."""
    path: str = ""
    """kmsg: the device, by default /dev/kmsg. journal: the journal's folder, by default the machine's own; in a
    container the host's, /host/var/log/journal. file: the file, which need not exist yet."""
    lookback: Duration = "0s"
    """How far back to read when this log was never read before; after a restart it goes on where it was."""
    delay: Duration = "0s"
    """Lines from less than this after the boot are passed over when this log was never read before."""
    priority: Priority = "debug"
    """kmsg, journal: only lines of this level and worse ones."""
    facilities: tuple[str, ...] = ()
    """kmsg, journal: only lines of these facilities (kern, daemon, auth...); by default of all."""
    units: tuple[str, ...] = ()
    """journal: only lines of these systemd units."""
    identifiers: tuple[str, ...] = ()
    """journal: only lines with one of these syslog identifiers."""
    skip: tuple[str, ...] = ()
    """file: lines that contain one of these texts are passed over."""
    timestamp: str = ""
    """file: a pattern whose last group is a line's time. With timestampFormat and messagePattern, or without all."""
    timestamp_format: str = ""
    """file: how Go would write the reference time in the form of these times: Jan _2 15:04:05."""
    message_pattern: str = ""
    """file: a pattern whose last group is what the rules see of a line."""
    buffer_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Lines that a rule with `match: window` sees together."""
    conditions: tuple[DefaultCondition, ...] = ()
    """What the conditions say while they are False; those of the rules need not be named."""
    rule_sets: tuple[str, ...] = ()
    """Built-in rules, by the names of the files in etc/rules: kernel (for kmsg); for the journal, each with its
    identifiers: container-runtime, kubelet, systemd, smartd, abrt."""
    rules: tuple[Rule, ...] = ()
    metrics_reporting: bool = True
    """Whether the reasons count in Node Problem Detector's metrics problem_counter and problem_gauge."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What does not fit the source, what is wrong with each rule, and names that stand twice or for nothing."""
        yield from self.source_faults()
        if self.source == "file":
            yield from self.file_faults()
        yield from self.set_faults()
        seen = [rule.name for rule in self.built_in()]
        for index, rule in enumerate(self.rules):
            for option, fault in rule_faults(rule):
                yield f"rules[{index}].{option}", fault
            if rule.name in seen:
                yield f"rules[{index}].name", f"there is a rule {rule.name!r} already, here or in ruleSets"
            seen.append(rule.name)
        if not self.rule_sets and not self.rules:
            yield "rules", "there is nothing to look for: name rules or ruleSets"

    def source_faults(self) -> Iterator[tuple[str, str]]:
        """What this source does not have, and facilities that there are not."""
        default = LogPatternOptions()
        for option, sources in ONLY_FOR.items():
            if self.source not in sources and getattr(self, option) != getattr(default, option):
                yield (
                    camel(option),
                    f"source {self.source} has no such option; allowed for {' and '.join(sources)}",
                )
        texts = (("path", (self.path,)), ("units", self.units), ("identifiers", self.identifiers))
        for option, values in texts:
            if any("\0" in value for value in values):
                yield option, "holds a NUL"
        for index, name in enumerate(self.facilities):
            if name not in FACILITIES:
                yield f"facilities[{index}]", f"found {name!r}, allowed: {', '.join(FACILITIES)}"

    def file_faults(self) -> Iterator[tuple[str, str]]:
        """What a file needs: its path, and all that tells how to read a line, or nothing of it."""
        if not self.path:
            yield "path", "source file needs the path of the file"
        given = [option for option in TRANSLATION if getattr(self, option)]
        for option in TRANSLATION:
            if given and option not in given:
                yield camel(option), f"is needed beside {' and '.join(map(camel, given))}"
        for option in ("timestamp", "message_pattern"):
            try:
                compile_pattern(getattr(self, option))
            except ValueError as error:
                yield camel(option), str(error)
        if self.timestamp_format:
            try:
                Layout(self.timestamp_format)
            except ValueError as error:
                yield "timestampFormat", str(error)

    def set_faults(self) -> Iterator[tuple[str, str]]:
        """Rule sets that there are not, or twice; conditions that stand twice."""
        known = rule_sets()
        for index, name in enumerate(self.rule_sets):
            if name not in known:
                found = f"found {name!r}, allowed: {', '.join(known)}{did_you_mean(name, known)}"
                yield f"ruleSets[{index}]", found
        if len(set(self.rule_sets)) < len(self.rule_sets):
            yield "ruleSets", "names a set twice"
        types = [condition.type for condition in self.conditions]
        for index, kind in enumerate(types):
            if kind in types[:index]:
                yield f"conditions[{index}].type", f"{kind} stands in this list already"

    def built_in(self) -> tuple[Rule, ...]:
        """The rules of the sets that exist."""
        known = set(rule_sets())
        return tuple(
            rule for name in dict.fromkeys(self.rule_sets) if name in known for rule in rule_set(name)
        )

    def all_rules(self) -> tuple[Rule, ...]:
        """The built-in ones, then those of the configuration."""
        return (*self.built_in(), *self.rules)

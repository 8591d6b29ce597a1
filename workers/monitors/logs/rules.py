"""Rules for log lines: what to look for, and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options
from nodedoctor.patterns import compile_pattern, group_names
from nodedoctor.types import Severity

RULE_SETS = files("nodedoctor") / "etc/rules"
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")
FIELDS = ("unit", "identifier", "pid", "hostname", "level", "facility", "subsystem", "device")
"""What a log may tell of a line besides its text."""
MEANING = "_meaning"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's is ten times as fast, and not in every build of PyYAML."""


class Samples(Options, frozen=True):
    """Lines that a rule must match, and lines that look alike and that it must leave."""

    match: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class Rule(Options, frozen=True):
    """What to look for in a log, and what it means."""

    name: str
    """Names the rule in metrics."""
    pattern: Annotated[str, Meta(min_length=1)]
    """A regular expression (RE2)."""
    match: Literal["line", "window"] = "line"
    """line: searched for in each line. window: in the last lines (bufferSize) joined by newlines, and it must
    match up to the end of the newest one, as Node Problem Detector does it."""
    type: Literal["temporary", "permanent"] = "temporary"
    """temporary: each match is an event. permanent: a match sets the condition."""
    condition: ConditionName | None = None
    """The condition of a permanent rule; several rules may set one."""
    reason: str = ""
    """Reason of the event or condition; by default the name in CamelCase."""
    severity: Literal["info", "warning", "error"] | None = None
    """By default warning for an event and error for a condition."""
    message: str = "{line}"
    """Message: {line} is what matched in whole lines, {name} or {1} a group of the pattern, {count} the number of
    matches within `within`; or a field of the line: unit, identifier, pid, level, subsystem, device. {{ is a brace."""
    labels: tuple[str, ...] = ()
    """Groups and fields that become labels of the metric log_matches_total."""
    meanings: dict[str, dict[str, str]] = {}
    """For a group, what its values mean: {name_meaning} in the message is the text for what the group holds."""
    count: Annotated[int, Meta(ge=1)] = 1
    """So many matches within `within` make one event, or set the condition, which is cleared when there are fewer."""
    within: Duration | None = None
    """The time in which `count` matches must lie."""
    revert_pattern: str = ""
    """A match of this takes one match off the count."""
    clear_pattern: str = ""
    """A match of this clears the condition; besides, a reboot does. Named groups that `pattern` has, too, say which:
    a condition that was set for one device is cleared for the same device only."""
    clear_after: Duration | None = None
    """Clears the condition when nothing has matched for this long."""
    events_per_minute: Annotated[int, Meta(ge=1)] = 10
    """More events than this are told in one that says how many there were."""
    deduplicate_within: Duration = "1m"
    """Events with the same message are told once in this time, then how many there were; 0s tells each."""
    samples: Samples = Samples()

    @property
    def told_reason(self) -> str:
        """The reason, given or made of the name."""
        return self.reason or "".join(word.capitalize() for word in re.split(r"[-_ ]", self.name))

    @property
    def patterns(self) -> Iterator[tuple[str, str]]:
        """Each option that holds a pattern, with the pattern; those that are not given are left out."""
        for option in ("pattern", "revert_pattern", "clear_pattern"):
            pattern = getattr(self, option)
            if pattern:
                yield option, pattern

    @property
    def told_severity(self) -> Severity:
        """The severity, given or by the rule's type."""
        return Severity(self.severity or ("warning" if self.type == "temporary" else "error"))


def rule_faults(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with one rule, as (option, what is wrong)."""
    faulty = False
    for option, pattern in rule.patterns:
        try:
            compile_pattern(pattern)
        except ValueError as error:
            faulty = True
            yield camel(option), str(error)
    if not faulty:
        yield from reference_faults(rule)
    if rule.type == "permanent" and rule.condition is None:
        yield "condition", "a permanent rule needs the condition that it sets"
    if rule.type == "temporary" and (rule.condition or rule.clear_pattern or rule.clear_after):
        yield "type", "a temporary rule has no condition to set or clear; is it permanent?"
    if rule.count > 1 and not (rule.within and seconds(rule.within)):
        yield "within", f"count is {rule.count}: in which time? Allowed: a duration above 0"
    if rule.revert_pattern and not rule.within:
        yield "revertPattern", "it takes a match off the count: set count and within"
    if rule.within and rule.clear_after:
        yield (
            "clearAfter",
            "the condition is cleared when there are fewer than count matches within that time",
        )


def reference_faults(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield what `message`, `labels` and `meanings` refer to and is not there."""
    groups = group_names(rule.pattern)
    known = {"line", "count", *FIELDS, *groups}
    meanings = {f"{name}{MEANING}" for name in rule.meanings}
    asked = [("message", word) for word in PLACEHOLDER.findall(rule.message) if word and word not in meanings]
    asked += [("labels", name) for name in rule.labels]
    for option, name in asked:
        if option == "labels" and name in {"rule", "monitor", "line"}:
            yield option, f"{name!r} can't be a label of one's own"
        elif name not in known:
            yield option, f"{{{name}}} is no group of the pattern; known: {', '.join(sorted(known))}"
    for name in rule.meanings:
        if name not in groups:
            told = ", ".join(sorted(groups)) or "none"
            yield f"meanings.{name}", f"there is no such group in the pattern; known: {told}"


def camel(option: str) -> str:
    """`option` as it is written in configuration."""
    first, *rest = option.split("_")
    return first + "".join(word.capitalize() for word in rest)


def rendered(rule: Rule, known: dict[str, str]) -> str:
    """The message of `rule`; `known` has the line, the groups and the fields."""

    def fill(match: re.Match[str]) -> str:
        word = match[1]
        if word is None:
            return match[0][0]
        group = word.removesuffix(MEANING)
        if group != word and group in rule.meanings:
            return rule.meanings[group].get(known.get(group, ""), "meaning not known")
        return known.get(word, "")

    return PLACEHOLDER.sub(fill, rule.message)


def rule_sets() -> tuple[str, ...]:
    """The names of the built-in rule sets."""
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in RULE_SETS.iterdir()))


@cache
def rule_set(name: str) -> tuple[Rule, ...]:
    """The rules of the built-in set `name`.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    text = (RULE_SETS / f"{name}.yaml").read_text()
    return msgspec.convert(yaml.load(text, LOADER)["rules"], tuple[Rule, ...])  # noqa: S506 - both are safe

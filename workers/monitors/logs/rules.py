"""Rules for log lines, and the one pass that finds which of them match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import msgspec
import re2
import yaml
from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration
from nodedoctor.monitor import Options
from nodedoctor.patterns import as_text, compile_pattern, options
from nodedoctor.types import Severity

RULE_SETS = files("nodedoctor") / "etc/rules"
PLACEHOLDER = re.compile(r"\{(\w+)\}")


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
    """Message: {line} is what matched in whole lines, {name} or {1} a group of the pattern, or a field of the line
    (unit, identifier, pid, level, subsystem, device); {{ is a brace."""
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
    def told_severity(self) -> Severity:
        """The severity, given or by the rule's type."""
        return Severity(self.severity or ("warning" if self.type == "temporary" else "error"))


def rule_faults(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with one rule, as (option, what is wrong)."""
    for option, pattern in (("pattern", rule.pattern), ("clearPattern", rule.clear_pattern)):
        try:
            compiled = compile_pattern(pattern)
        except ValueError as error:
            yield option, str(error)
            continue
        if option == "pattern":
            known = {"line", *(as_text(name) for name in compiled.groupindex)}
            for word in PLACEHOLDER.findall(rule.message):
                if word not in known:
                    yield (
                        "message",
                        f"{{{word}}} is no named group of the pattern; known: {', '.join(sorted(known))}",
                    )
    if rule.type == "permanent" and rule.condition is None:
        yield "condition", "a permanent rule needs the condition that it sets"
    if rule.type == "temporary" and (rule.condition or rule.clear_pattern or rule.clear_after):
        yield "type", "a temporary rule has no condition to set or clear; is it permanent?"


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
    return msgspec.convert(yaml.safe_load(text)["rules"], tuple[Rule, ...])


class Hit(msgspec.Struct, frozen=True):
    """A rule that matched a line, with its message, or (`clears`) the line that clears its condition."""

    rule: Rule
    message: str
    clears: bool = False


class Matcher:
    """All patterns of all rules in one automaton: a line costs one pass, however many rules there are."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.entries: list[tuple[Rule, Any, bool]] = []
        self.set = re2.Set.SearchSet(options())
        for rule in rules:
            self.add(rule, rule.pattern, clears=False)
            if rule.clear_pattern:
                self.add(rule, rule.clear_pattern, clears=True)
        # RE2 matches nothing in a set that was not compiled, and refuses to compile an empty one.
        if self.entries:
            self.set.Compile()

    def add(self, rule: Rule, pattern: str, *, clears: bool) -> None:
        """One more pattern."""
        self.set.Add(pattern.encode())
        self.entries.append((rule, compile_pattern(pattern), clears))

    def hits(self, line: bytes) -> list[Hit]:
        """The rules that `line` matches, in their order."""
        if not self.entries:
            return []
        found = self.set.Match(line)
        return [self.hit(number, line) for number in sorted(found)] if found else []

    def hit(self, number: int, line: bytes) -> Hit:
        """The hit of pattern `number` in `line`."""
        rule, compiled, clears = self.entries[number]
        groups = {} if clears else compiled.search(line).groupdict()
        known = {"line": as_text(line), **{as_text(k): as_text(v or b"") for k, v in groups.items()}}
        return Hit(rule, PLACEHOLDER.sub(lambda m: known.get(m[1], m[0]), rule.message), clears)

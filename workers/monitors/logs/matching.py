"""Finds which rules a log's newest line fulfils: one pass of all patterns, the single one only where it matched."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import re2

from nodedoctor.patterns import as_text, compile_pattern, options
from workers.monitors.logs.rules import Rule
from workers.monitors.logs.source import Line

LONGEST_MESSAGE = 1024
"""Bytes: what the Kubernetes API takes in an event's note."""
AT_THE_END = r"\z"
SPANNING = re.compile(
    r"\^ | \[\^ | \\[ACDQWPpsxntrafv0-7] | \(\?[a-zA-Z]*[ms] | \[\[: | [\x00-\x1f]", re.VERBOSE
)
"""What lets a pattern match a newline, or asks where the text begins; to find too much of it does no harm."""
LITERAL = re.compile(r"\\.|\[\^?\]?(?:\[:\w+:\]|[^\]])*\]", re.DOTALL)
"""What stands for itself or for one character, parentheses and bars included."""


class Kind(Enum):
    """What a match means for its rule."""

    MATCH = "match"
    REVERT = "revert"
    CLEAR = "clear"


KINDS = {"pattern": Kind.MATCH, "revert_pattern": Kind.REVERT, "clear_pattern": Kind.CLEAR}


class Hit(NamedTuple):
    """A rule whose pattern matched, in which lines, and what its groups hold."""

    rule: Rule
    kind: Kind
    lines: tuple[Line, ...]
    groups: dict[str, str]

    def known(self) -> dict[str, str]:
        """What a message or a label may name."""
        text = b"\n".join(line.text for line in self.lines)
        last = self.lines[-1]
        return {**last.fields, **details_of(last), **self.groups, "line": shortened(text)}


class Pattern(NamedTuple):
    """One pattern of a rule."""

    rule: Rule
    kind: Kind
    source: str
    compiled: Any

    @classmethod
    def of(cls, rule: Rule, kind: Kind, pattern: str) -> Pattern:
        """`pattern` as it is searched for: in a window, up to its end."""
        source = pattern + AT_THE_END if rule.match == "window" else pattern
        return cls(rule, kind, source, compile_pattern(source))

    @property
    def spans(self) -> bool:
        """Whether it may match more than the newest line, so that this line alone is not enough to tell."""
        return self.rule.match == "window" and may_span(self.source.removesuffix(AT_THE_END))


class Patterns:
    """Several patterns in one automaton: a text costs one pass, however many there are."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Make the automaton.

        Raises:
            MemoryError: RE2 can't build one of so many patterns.
        """
        self.patterns = list(patterns)
        self.set = re2.Set.SearchSet(options())
        for pattern in self.patterns:
            self.set.Add(pattern.source.encode())
        # RE2 matches nothing in a set that was not compiled, and refuses to compile an empty one.
        if self.patterns and self.set.Compile() is False:
            msg = f"{len(self.patterns)} patterns are more than RE2 can take at once"
            raise MemoryError(msg)

    def matching(self, text: bytes) -> list[Pattern]:
        """Those that match in `text`."""
        found = self.set.Match(text) if self.patterns else ()
        return [self.patterns[number] for number in sorted(found)] if found else []


class Matcher:
    """All rules of a log, and the last `buffer_size` lines, which a rule may match together."""

    def __init__(self, rules: Sequence[Rule], buffer_size: int = 1) -> None:
        patterns = [
            Pattern.of(rule, KINDS[option], pattern) for rule in rules for option, pattern in rule.patterns
        ]
        self.alone = Patterns(pattern for pattern in patterns if not pattern.spans)
        self.spanning = Patterns(pattern for pattern in patterns if pattern.spans)
        self.in_window = Patterns(pattern for pattern in patterns if pattern.rule.match == "window")
        self.order = {rule.name: place for place, rule in enumerate(rules)}
        self.window: deque[Line] = deque(maxlen=buffer_size)

    def hits(self, line: Line) -> list[Hit]:
        """What `line`, the newest one, has fulfilled, in the order of the rules."""
        alone = self.alone.matching(line.text)
        if not alone and not self.needs_more(line):
            return []
        found = [hit_of(pattern, line.text, (line,)) for pattern in alone]
        if self.spanning.patterns:
            self.window.append(line)
            found += self.hits_in_window()
        if line.details and self.in_window.patterns:
            found += self.hits_with_details(line, {hit.rule.name for hit in found})
        return sorted(found, key=lambda hit: self.order[hit.rule.name])

    def needs_more(self, line: Line) -> bool:
        """Whether more than the text of `line` is to be looked at."""
        return bool(self.spanning.patterns or (line.details and self.in_window.patterns))

    def hits_in_window(self) -> list[Hit]:
        """What the lines of the window have fulfilled together; the places of lines still to come are empty lines."""
        empty = (self.window.maxlen or 0) - len(self.window)
        text = b"\n" * empty + b"\n".join(line.text for line in self.window)
        return [hit_of(pattern, text, tuple(self.window)) for pattern in self.spanning.matching(text)]

    def hits_with_details(self, line: Line, known: set[str]) -> list[Hit]:
        """What is fulfilled only if the details below the text count as part of it, as Node Problem Detector has it."""
        text = line.text + b"\n" + line.details
        whole = (line._replace(text=text),)
        return [hit_of(p, text, whole) for p in self.in_window.matching(text) if p.rule.name not in known]


def hit_of(pattern: Pattern, text: bytes, lines: tuple[Line, ...]) -> Hit:
    """The hit of `pattern` in `text`, which ends with the newest of `lines`: those from where the match begins."""
    match = pattern.compiled.search(text)
    groups = {as_text(name): as_text(value or b"") for name, value in match.groupdict().items()}
    groups |= {str(number): as_text(value or b"") for number, value in enumerate(match.groups(), 1)}
    touched = len(lines)
    behind = len(text)
    while touched and behind > match.start():
        touched -= 1
        behind -= len(lines[touched].text) + 1
    return Hit(pattern.rule, pattern.kind, lines[min(touched, len(lines) - 1) :], groups)


def may_span(pattern: str) -> bool:
    """Whether `pattern` may match a newline or depends on where the text begins; in doubt it may."""
    return bool(SPANNING.search(pattern)) or alternates(pattern)


def alternates(pattern: str) -> bool:
    """Whether a `|` stands outside of all parentheses: what follows the pattern binds to its last branch alone."""
    depth = 0
    for character in LITERAL.sub("", pattern):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            return True
    return False


def details_of(line: Line) -> dict[str, str]:
    """What the kernel's log says below the text: the subsystem and the device, as the driver core names it."""
    found = (part.strip().partition(b"=") for part in line.details.split(b"\n"))
    return {
        as_text(key).lower(): as_text(value) for key, _, value in found if key in {b"SUBSYSTEM", b"DEVICE"}
    }


def shortened(text: bytes) -> str:
    """`text` for a message: no longer than others take it."""
    if len(text) <= LONGEST_MESSAGE:
        return as_text(text)
    return text[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"

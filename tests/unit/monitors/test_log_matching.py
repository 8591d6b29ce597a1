"""Which lines a rule matches, alone and in a window of lines: the semantics of Node Problem Detector's log buffer."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest

from nodedoctor.patterns import compile_pattern
from workers.monitors.logs.matching import Kind, Matcher, alternates, may_span
from workers.monitors.logs.rules import Rule
from workers.monitors.logs.source import Line


def window_rule(pattern: str, name: str = "r") -> Rule:
    """A rule as Node Problem Detector has it."""
    return Rule(name, pattern, match="window")


def lines_of(*texts: str) -> list[Line]:
    """Lines, a microsecond apart."""
    return [Line(text.encode(), usec) for usec, text in enumerate(texts)]


def matched(pattern: str, size: int, *texts: str) -> list[list[str]]:
    """For each of `texts` in turn: the lines that the rule matches when it has arrived."""
    matcher = Matcher([window_rule(pattern)], size)
    found = []
    for line in lines_of(*texts):
        hits = matcher.hits(line)
        found.append([part.text.decode() for hit in hits for part in hit.lines])
    return found


A1_B2 = ("a1", "b2")
A1_E5 = ("a1", "b2", "c3", "d4", "e5")


@pytest.mark.parametrize(
    ("pattern", "size", "texts", "last"),
    [
        pytest.param("a1", 4, A1_B2, [], id="an older line alone"),
        pytest.param("b1", 4, A1_B2, [], id="nothing"),
        pytest.param("b2", 4, A1_B2, ["b2"], id="the newest line"),
        pytest.param(r"\w{2}", 4, A1_B2, ["b2"], id="up to the end"),
        pytest.param(r"a1\nb2", 4, A1_B2, ["a1", "b2"], id="two lines"),
        pytest.param("a1b2", 4, A1_B2, [], id="a newline is not nothing"),
        pytest.param("(?s)a1.+", 4, A1_E5, [], id="what has left the window"),
        pytest.param(r"[a-z]\d\n[a-z]\d", 4, A1_E5, ["d4", "e5"], id="the last two"),
        pytest.param(r"[a-z]\d", 4, A1_E5, ["e5"], id="the last one"),
        pytest.param(r"b\nc", 2, ("a", "b", "c"), ["b", "c"], id="b then c"),
        pytest.param(r"a\nb", 2, ("a", "b", "c"), [], id="a then b, before c"),
        pytest.param("^foo", 1, ("foo",), ["foo"], id="the start of a window of one line"),
        pytest.param("^foo", 3, ("foo",), [], id="the window is not full: it starts with empty lines"),
        pytest.param("(?m)^foo$", 3, ("x", "foo"), ["foo"], id="the start of a line"),
        pytest.param("(?:)", 3, ("x", "foo"), ["foo"], id="the empty pattern"),
        pytest.param("(?s)first.*second", 3, ("first", "x", "second"), ["first", "x", "second"], id="three lines"),
        pytest.param("x\ny", 3, ("x\ny",), ["x\ny"], id="a line with a newline in it"),
        pytest.param("y", 3, ("x\ny",), ["x\ny"], id="whole lines"),
    ],
)  # fmt: skip
def test_window(pattern: str, size: int, texts: tuple[str, ...], last: list[str]) -> None:
    assert matched(pattern, size, *texts)[-1] == last


@pytest.mark.parametrize("end", ["", "$", ".*", r"\z"])
def test_a_one_line_pattern_fires_once_for_its_line(end: str) -> None:
    assert matched(f"oops{end}", 4, "x", "an oops", "y", "z") == [[], ["an oops"], [], []]


def test_of_an_alternation_only_the_last_branch_is_tied_to_the_end() -> None:
    found = matched("alpha|beta", 3, "alpha 1", "y", "z", "0")
    assert found == [["alpha 1"], ["alpha 1", "y"], ["alpha 1", "y", "z"], []]
    assert matched("(alpha|beta)", 3, "an alpha", "y") == [["an alpha"], []]
    oom = ("kernel: oom-kill:constraint=CONSTRAINT_NONE", "kubelet: node ready")
    assert matched("oom-kill|Out of memory", 2, *oom)[-1] == list(oom)


PATTERNS = (
    r"Killed process \d+ (.+) total-vm:\d+kB, anon-rss:\d+kB, file-rss:\d+kB.*",
    r"task [\S ]+:\w+ blocked for more than \w+ seconds\.",
    r"XFS .* Shutting down filesystem.?",
    r"(?s)first.*second",
    r"^only line",
    r"(?m)^line \w+$",
    r"alpha\nbeta",
    r"alpha[\s\S]*beta",
    r"\Aalpha",
    r"alpha|beta",
    r"alpha|",
    r"(alpha|beta)",
    r"\balpha\b",
    r"\Balpha",
    r"a*",
    r"(?:)",
    r"[^x]+",
    r"[^\n]+$",
    r"beta$",
    r"(?i)ALPHA.*",
    r"line [[:alpha:]]+",
    r"\d\s",
    r"[ -~]*a",
    r"(?:second\n)?alpha",
)
TEXTS = (
    *("alpha", "beta", "first", "x second", "only line", "line two", "line two!", "", " ", "x", "1", "alphabeta"),
    "an alpha\nbeta in one",
    "Killed process 7 (a b) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:0kB",
    "INFO: task a b:7 blocked for more than 120 seconds.",
    "XFS (sda1): Shutting down filesystem",
)  # fmt: skip


def naive(pattern: str, window: deque[str], size: int) -> list[str]:
    """All lines joined, the pattern tied to the end, and the lines counted back from there."""
    text = "\n" * (size - len(window)) + "\n".join(window)
    match = compile_pattern(pattern + r"\z").search(text.encode())
    if not match:
        return []
    back = len(text) - match.start() - 1
    found: list[str] = []
    total = 0
    for line in reversed(window):
        found.insert(0, line)
        total += len(line) + 1
        if total > back:
            break
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10])
def test_the_short_cut_by_the_newest_line_finds_what_the_whole_window_shows(size: int) -> None:
    chance = random.Random(size)
    for _ in range(200):
        matcher = Matcher([window_rule(pattern, str(n)) for n, pattern in enumerate(PATTERNS)], size)
        window: deque[str] = deque(maxlen=size)
        for text in chance.choices(TEXTS, k=12):
            window.append(text)
            hits = matcher.hits(Line(text.encode(), 0))
            found = {hit.rule.name: [line.text.decode() for line in hit.lines] for hit in hits}
            for number, pattern in enumerate(PATTERNS):
                assert found.get(str(number), []) == naive(pattern, window, size), (pattern, list(window))


def test_all_rules_that_match_are_told_in_their_order() -> None:
    rules = [
        window_rule("b", "1"),
        Rule("2", "a"),
        window_rule(r"[^x]b", "3"),
        Rule("4", "b$"),
        Rule("5", "c"),
    ]
    (hits,) = [Matcher(rules, 3).hits(line) for line in lines_of("ab")]
    assert [hit.rule.name for hit in hits] == ["1", "2", "3", "4"]


def test_a_line_rule_sees_its_line_alone() -> None:
    matcher = Matcher([Rule("r", "^b$")], 3)
    assert [len(matcher.hits(line)) for line in lines_of("a", "b", "c")] == [0, 1, 0]


def test_a_window_rule_also_sees_the_kernels_details_as_node_problem_detector_does() -> None:
    line = Line(b"link is down", 0, {}, b" SUBSYSTEM=net\n DEVICE=+net:eth0")
    texts = {"down": 1, "DEVICE=.*": 1, r"down\n SUBSYSTEM=net.*\n.*": 1, "link$": 0}
    for pattern, hits in texts.items():
        assert len(Matcher([window_rule(pattern)], 2).hits(line)) == hits, pattern
    (hit,) = Matcher([Rule("r", "down")]).hits(line)
    assert (hit.known()["subsystem"], hit.known()["device"]) == ("net", "+net:eth0")


def test_groups_by_name_and_by_number() -> None:
    (hit,) = Matcher([Rule("r", r"task (?P<task>\w+):(\d+)(x)?")]).hits(Line(b"task dd:12", 0))
    assert hit.groups == {"task": "dd", "1": "dd", "2": "12", "3": ""}


def test_each_pattern_of_a_rule_is_told_by_its_kind() -> None:
    rule = Rule("r", "up", clear_pattern="down", revert_pattern="back", count=1, within="1s", condition="C")
    kinds = [hit.kind for line in lines_of("up", "back", "down") for hit in Matcher([rule]).hits(line)]
    assert kinds == [Kind.MATCH, Kind.REVERT, Kind.CLEAR]


def test_a_catastrophic_pattern_takes_linear_time() -> None:
    rules = [Rule(str(n), pattern) for n, pattern in enumerate([r"(a+)+$", r"(a|aa)+$", r"(.*a){20}$"])]
    assert Matcher(rules).hits(Line(b"a" * 8000 + b"!", 0)) == []


def test_many_rules_are_found_one_by_one() -> None:
    rules = [
        Rule(f"r{n}", rf"device (?P<name>\w+)-{n} failed with (error|status) .*\b{n}\b") for n in range(400)
    ]
    matcher = Matcher(rules)
    for n in range(400):
        (hit,) = matcher.hits(Line(f"x device sd-{n} failed with status {n}".encode(), 0))
        assert hit.rule.name == f"r{n}"


def test_what_may_span_lines() -> None:
    alone = [r"Killed process \d+ (.+)", r"a(b|c)d", r"[\S ]+:\w+", r"x\.y\[z\]", "[|(]", r"\|"]
    spanning = [
        r"a\nb",
        "[^x]",
        "^a",
        r"\Aa",
        r"a\s",
        r"\W",
        "(?s)a.b",
        "(?im)a",
        "a|b",
        "(a)|b",
        "[[:space:]]",
        "a\tb",
    ]
    assert [pattern for pattern in alone if may_span(pattern)] == []
    assert [pattern for pattern in spanning if not may_span(pattern)] == []
    assert [p for p in itertools.chain(alone, spanning) if alternates(p)] == ["a|b", "(a)|b"]

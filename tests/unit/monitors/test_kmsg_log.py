"""The log monitor on the kernel's own log: tests write lines there, each with a token of its own."""

from __future__ import annotations

import itertools
import logging
import os
import select
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedoctor.monitor import Finding, Host
from nodedoctor.patterns import compile_pattern
from nodedoctor.types import Event, Metric, Severity, utc_now
from workers.monitors.logs.kmsg import KernelLog, parse
from workers.monitors.logs.pattern import EVENTS_AT_ONCE, LogPatternMonitor, LogPatternOptions, bounded
from workers.monitors.logs.position import Latched, Position, boot_id, load, save
from workers.monitors.logs.rules import Matcher, Rule, rule_set

KMSG = Path("/dev/kmsg")
NUMBERS = itertools.count()
KERNEL_RULES = rule_set("kernel")


class Seen(msgspec.Struct, frozen=True):
    """What one check found."""

    findings: dict[str, Finding]
    events: list[Event]
    metrics: dict[str, float]

    @property
    def messages(self) -> list[str]:
        """The messages of the events."""
        return [event.message for event in self.events]


def look(monitor: LogPatternMonitor) -> Seen:
    """Check once."""
    seen = list(monitor.check())
    return Seen(
        {item.type: item for item in seen if isinstance(item, Finding)},
        [item for item in seen if isinstance(item, Event)],
        {
            " ".join((item.name, *item.labels.values())): item.value
            for item in seen
            if isinstance(item, Metric)
        },
    )


def say(text: str | bytes) -> None:
    """Write one line to the kernel's log. A descriptor may write ten in five seconds, so each has its own."""
    data = text.encode() if isinstance(text, str) else text
    try:
        kmsg = os.open(KMSG, os.O_WRONLY)
        os.write(kmsg, data + b"\n")
        os.close(kmsg)
    except PermissionError:
        assert os.environ.get("CI") != "true"
        pytest.skip("the kernel's log can't be written here")


def end(monitor: LogPatternMonitor) -> None:
    """End it as its worker does, unless it has ended."""
    if monitor.log:
        monitor.close()
        monitor.log = None


@pytest.fixture
def token() -> str:
    """A word that no other line has."""
    return f"ndt{os.getpid()}x{next(NUMBERS)}y"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder for positions."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def other_boot(tmp_path: Path) -> Path:
    """A /proc of the same machine after another boot."""
    proc = tmp_path / "proc"
    (proc / "sys/kernel/random").mkdir(parents=True)
    (proc / "sys/kernel/random/boot_id").write_text("0a0a0a0a-1111-2222-3333-444444444444\n")
    shutil.copyfile("/proc/stat", proc / "stat")
    return proc


@pytest.fixture
def follow(token: str) -> Iterator[Callable[..., LogPatternMonitor]]:
    """Makes monitors that look for the token, or with the given rules; the first check is done."""
    with ExitStack() as stack:

        def start(
            *rules: dict[str, Any], state: Path | None = None, proc: Path = Path("/proc"), **options: Any
        ) -> LogPatternMonitor:
            chosen = list(rules) or [
                {"name": "tagged", "pattern": f"{token} (?P<rest>.*)", "message": "{rest}"}
            ]
            converted = msgspec.convert({"rules": chosen, **options}, LogPatternOptions)
            monitor = LogPatternMonitor("log", converted, Host(proc=proc, state=state))
            stack.callback(end, monitor)
            return monitor

        yield start


@pytest.fixture
def latching(token: str) -> dict[str, Any]:
    """A permanent rule that lines with the token set and clear."""
    return {
        "name": "broken",
        "pattern": f"{token} broke (?P<what>\\w+)",
        "type": "permanent",
        "condition": "ThingBroken",
        "message": "{what} is broken",
        "clearPattern": f"{token} mended",
    }


def test_a_line_becomes_an_event_with_its_time(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow()
    look(monitor)
    before = utc_now()
    say(f"{token} hello")
    seen = look(monitor)
    assert seen.messages == ["hello"]
    assert (seen.events[0].reason, seen.events[0].severity) == ("Tagged", "warning")
    assert abs(seen.events[0].timestamp - before) < timedelta(seconds=5)
    assert seen.metrics["log_matches_total tagged"] == 1
    assert seen.metrics["log_lines_total"] >= 1
    assert look(monitor).messages == []


def test_lines_from_before_the_first_start_are_left(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    say(f"{token} old")
    monitor = follow()
    assert look(monitor).messages == []
    say(f"{token} new")
    assert look(monitor).messages == ["new"]


def test_the_first_start_looks_back_as_far_as_asked(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    say(f"{token} old")
    assert look(follow(lookback="10m")).messages == ["old"]
    assert look(follow(lookback="365000d")).messages == ["old"]


def test_lines_are_told_in_their_order(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow()
    look(monitor)
    for number in range(10):
        say(f"{token} {number}")
    assert look(monitor).messages == [str(number) for number in range(10)]


def test_a_new_line_wakes_whoever_waits(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow()
    assert monitor.fileno() is None
    look(monitor)
    poll = select.poll()
    descriptor = monitor.fileno()
    assert descriptor is not None
    poll.register(descriptor, select.POLLIN)
    say(f"{token} hello")
    assert poll.poll(5000)
    assert look(monitor).messages == ["hello"]


def test_a_restart_neither_repeats_nor_misses_a_line(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    told: list[str] = []
    expected: list[str] = []
    for number in range(6):
        monitor = follow(state=state)
        told += look(monitor).messages
        say(f"{token} during {number}")
        told += look(monitor).messages
        end(monitor)
        say(f"{token} between {number}")
        expected += [f"during {number}", f"between {number}"]
    assert [*told, *look(follow(state=state)).messages] == expected


def test_a_monitor_that_was_killed_misses_nothing_and_repeats_only_what_it_had_not_saved(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    killed = follow(state=state)
    look(killed)
    say(f"{token} saved")
    assert look(killed).messages == ["saved"]
    say(f"{token} told")
    assert look(killed).messages == ["told"]
    say(f"{token} missed")
    assert look(follow(state=state)).messages == ["told", "missed"]


def test_the_position_is_that_of_the_last_line(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    monitor = follow(state=state)
    look(monitor)
    say(f"{token} hello")
    look(monitor)
    end(monitor)
    position = load(state / "log-log.json")
    assert position
    assert position.boot == boot_id(Path("/proc"))
    assert position.latched == {}
    assert [entry.name for entry in state.iterdir()] == ["log-log.json"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"boot": "x", "se', id="half"),
        pytest.param(b"\x00\xff\xfe", id="garbage"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"boot": 1, "seq": "x"}', id="other types"),
        pytest.param(b'{"boot": "x"}', id="no number"),
        pytest.param(b'{"boot": "x", "seq": 1, "latched": {"A": 1}}', id="conditions that are none"),
    ],
)
def test_a_damaged_position_is_set_aside(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path, content: bytes
) -> None:
    say(f"{token} old")
    (state / "log-log.json").write_bytes(content)
    monitor = follow(state=state)
    assert look(monitor).messages == []
    say(f"{token} new")
    assert look(monitor).messages == ["new"]
    end(monitor)
    assert (state / "log-log.damaged").read_bytes() == content
    assert load(state / "log-log.json")


def test_a_position_that_can_not_be_written_is_a_warning_and_no_end(
    follow: Callable[..., LogPatternMonitor], token: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = follow(state=tmp_path / "nowhere")
    look(monitor)
    say(f"{token} hello")
    with caplog.at_level(logging.WARNING):
        assert look(monitor).messages == ["hello"]
        end(monitor)
    assert "can't be written (No such file or directory)" in caplog.text


def test_an_interrupted_save_leaves_the_position_before_it(state: Path) -> None:
    save(state / "p.json", Position("a", 1))
    (state / "p.new").write_bytes(b'{"boot": "b", "se')
    assert load(state / "p.json") == Position("a", 1)
    save(state / "p.json", Position("b", 2))
    assert load(state / "p.json") == Position("b", 2)


def test_after_another_boot_the_whole_log_is_read(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path, other_boot: Path
) -> None:
    monitor = follow(state=state)
    look(monitor)
    say(f"{token} read")
    look(monitor)
    end(monitor)
    assert look(follow(state=state, proc=other_boot)).messages == ["read"]


def test_a_permanent_rule_sets_a_condition_until_a_line_clears_it(
    follow: Callable[..., LogPatternMonitor], token: str, latching: dict[str, Any]
) -> None:
    monitor = follow(latching)
    assert look(monitor).findings["ThingBroken"].bad is False
    say(f"{token} broke disk")
    seen = look(monitor)
    finding = seen.findings["ThingBroken"]
    assert (finding.bad, finding.reason, finding.message) == (True, "Broken", "disk is broken")
    assert seen.events == []
    assert look(monitor).findings["ThingBroken"].bad is True
    say(f"{token} broke fan")
    assert look(monitor).findings["ThingBroken"].message == "fan is broken"
    say(f"{token} mended")
    assert look(monitor).findings["ThingBroken"].bad is False


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        pytest.param(["broke a", "mended"], False, id="mended last"),
        pytest.param(["mended", "broke a"], True, id="broken last"),
        pytest.param(["broke a", "mended", "broke b"], True, id="broken again"),
    ],
)
def test_of_lines_that_come_together_the_last_counts(
    follow: Callable[..., LogPatternMonitor],
    token: str,
    latching: dict[str, Any],
    lines: list[str],
    bad: bool,
) -> None:
    monitor = follow(latching)
    look(monitor)
    for line in lines:
        say(f"{token} {line}")
    assert look(monitor).findings["ThingBroken"].bad is bad


def test_a_condition_survives_a_restart(
    follow: Callable[..., LogPatternMonitor], token: str, latching: dict[str, Any], state: Path
) -> None:
    monitor = follow(latching, state=state)
    look(monitor)
    say(f"{token} broke disk")
    look(monitor)
    end(monitor)
    again = follow(latching, state=state)
    finding = look(again).findings["ThingBroken"]
    assert (finding.bad, finding.message) == (True, "disk is broken")
    end(again)
    say(f"{token} mended")
    assert look(follow(latching, state=state)).findings["ThingBroken"].bad is False


def test_a_condition_ends_with_the_boot(
    follow: Callable[..., LogPatternMonitor], latching: dict[str, Any], state: Path
) -> None:
    latched = {"ThingBroken": Latched("broken", "it broke", utc_now())}
    for boot, bad in ((boot_id(Path("/proc")), True), ("another", False)):
        save(state / "log-log.json", Position(boot, 0, latched))
        assert look(follow(latching, state=state)).findings["ThingBroken"].bad is bad


def test_a_condition_whose_rule_is_gone_is_gone(
    follow: Callable[..., LogPatternMonitor], latching: dict[str, Any], state: Path
) -> None:
    latched = {"ThingBroken": Latched("a rule of old", "it broke", utc_now())}
    save(state / "log-log.json", Position(boot_id(Path("/proc")), 0, latched))
    assert look(follow(latching, state=state)).findings["ThingBroken"].bad is False


def test_a_condition_ends_when_no_line_has_come_for_its_time(
    follow: Callable[..., LogPatternMonitor], token: str, latching: dict[str, Any]
) -> None:
    monitor = follow({**latching, "clearAfter": "1h"})
    look(monitor)
    say(f"{token} broke disk")
    assert look(monitor).findings["ThingBroken"].bad is True
    monitor.clear_by_time(utc_now() + timedelta(minutes=59))
    assert look(monitor).findings["ThingBroken"].bad is True
    monitor.clear_by_time(utc_now() + timedelta(minutes=61))
    assert look(monitor).findings["ThingBroken"].bad is False


def test_several_rules_may_set_one_condition(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    rules = [
        {"name": name, "pattern": f"{token} {name}", "type": "permanent", "condition": "ThingBroken"}
        for name in ("first", "second")
    ]
    monitor = follow(*rules)
    assert len(monitor.conditions_of("log", monitor.options)) == 1
    look(monitor)
    say(f"{token} second")
    assert look(monitor).findings["ThingBroken"].reason == "Second"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\xff\xfe\x80", "\ufffd\ufffd\ufffd", id="no UTF-8"),
        pytest.param("ä€😀".encode(), "ä€😀", id="UTF-8"),
        pytest.param(b"\x01\x1b[31m\x7f", "\x01\x1b[31m\x7f", id="control characters"),
        pytest.param(b"a\\b\\x41", "a\\b\\x41", id="backslashes"),
        pytest.param(b"a;b,c=d", "a;b,c=d", id="the signs of a record's head"),
        pytest.param(b"", "", id="nothing"),
    ],
)
def test_a_line_is_read_whatever_is_in_it(
    follow: Callable[..., LogPatternMonitor], token: str, data: bytes, expected: str
) -> None:
    monitor = follow({"name": "x", "pattern": f"(?s){token}<(?P<rest>.*)>", "message": "{rest}"})
    look(monitor)
    say(token.encode() + b"<" + data + b">")
    assert look(monitor).messages == [expected]


def test_a_long_line_is_read(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow({"name": "x", "pattern": token})
    look(monitor)
    say(token + "x" * 900)
    assert look(monitor).messages == [token + "x" * 900]


def test_a_storm_of_events_is_bounded_and_counted(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow()
    look(monitor)
    for number in range(200):
        say(f"{token} {number}")
    seen = look(monitor)
    assert seen.messages[:EVENTS_AT_ONCE] == [str(number) for number in range(EVENTS_AT_ONCE)]
    assert [event.reason for event in seen.events[EVENTS_AT_ONCE:]] == ["LogEventsSuppressed"]
    assert seen.metrics["log_matches_total tagged"] == 200


def test_one_line_many_times_is_one_event(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow()
    look(monitor)
    for _ in range(30):
        say(f"{token} same")
    seen = look(monitor)
    assert seen.messages == ["same"]
    assert seen.metrics["log_matches_total tagged"] == 30


@pytest.mark.parametrize("count", [0, 1, EVENTS_AT_ONCE, EVENTS_AT_ONCE + 1, 10 * EVENTS_AT_ONCE])
def test_however_many_events_there_are_few_are_told(count: int) -> None:
    events = [Event(Severity.WARNING, "Some", str(number), utc_now()) for number in range(count)]
    assert len(list(bounded(events))) == min(count, EVENTS_AT_ONCE + 1)


def test_of_equal_events_the_first_is_told() -> None:
    first, second = (Event(Severity.WARNING, "Some", "x", utc_now()) for _ in range(2))
    assert list(bounded([first, second])) == [first]


def test_lines_that_were_overwritten_are_counted_as_lost(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow({"name": "last", "pattern": f"{token} last"})
    say("something")
    look(monitor)
    say(f"{token} begin")
    look(monitor)
    assert monitor.log
    began = monitor.log.after
    written = 0
    while oldest() <= began + 1:
        for _ in range(500):
            say(f"{token} " + "x" * 900)
        written += 500
        assert written < 100_000
    say(f"{token} last")
    seen = look(monitor)
    assert seen.metrics["log_lines_lost_total"] > 0
    assert seen.metrics["log_lines_lost_total"] + seen.metrics["log_lines_total"] >= written
    assert "LogLinesLost" in {event.reason for event in seen.events}
    while not seen.metrics["log_matches_total last"]:
        seen = look(monitor)
    assert "LogLinesLost" not in {event.reason for event in look(monitor).events}


def oldest() -> int:
    """The number of the oldest line in the log."""
    log = KernelLog(KMSG, -1)
    try:
        return next(log.read(10)).seq
    finally:
        log.close()


def test_a_device_that_may_not_be_read_is_a_matter_of_permission(
    follow: Callable[..., LogPatternMonitor], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.touch(mode=0)
    monitor = follow(path=str(closed))
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="CAP_SYSLOG"):
            look(monitor)
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(b"6,339,5140900,-;NET: Registered\n", (339, 5140900, b"NET: Registered"), id="plain"),
        pytest.param(
            b"7,160,424069,-;pci_root PNP0A03:00: host\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
            (160, 424069, b"pci_root PNP0A03:00: host"),
            id="with details",
        ),
        pytest.param(b"6,1,2,c,caller=T1;a;b,c\n", (1, 2, b"a;b,c"), id="fields that are new"),
        pytest.param(b"6,1,2,-;a\\x0ab\\x5cx41\n", (1, 2, b"a\nb\\x41"), id="escapes"),
        pytest.param(b"6,1,2,-;\n", (1, 2, b""), id="empty"),
    ],
)
def test_a_record_is_read_as_its_documentation_says(record: bytes, expected: tuple[int, int, bytes]) -> None:
    assert tuple(parse(record)) == expected


SAMPLES = [
    pytest.param(rule, line, wanted, id=f"{rule.name}-{'match' if wanted else 'ignore'}-{number}")
    for rule in KERNEL_RULES
    for wanted, lines in ((True, rule.samples.match), (False, rule.samples.ignore))
    for number, line in enumerate(lines)
]


@pytest.mark.parametrize(("rule", "line", "wanted"), SAMPLES)
def test_a_built_in_rule_keeps_to_its_samples(rule: Rule, line: str, wanted: bool) -> None:
    hits = [hit for hit in Matcher(KERNEL_RULES).hits(line.encode()) if hit.rule is rule and not hit.clears]
    assert bool(hits) is wanted
    assert not hits or "{" not in hits[0].message.replace(line, "")


def test_every_built_in_rule_has_samples_of_both_kinds() -> None:
    assert [rule.name for rule in KERNEL_RULES if not (rule.samples.match and rule.samples.ignore)] == []


def test_the_built_in_rules_are_without_faults() -> None:
    assert list(LogPatternOptions(rule_sets=("kernel",)).faults()) == []
    assert len({rule.name for rule in KERNEL_RULES}) == len(KERNEL_RULES)


def test_a_line_that_is_really_an_oom_kill_is_told_as_one(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow({"name": "never", "pattern": "$^never"}, ruleSets=["kernel"])
    look(monitor)
    say(f"Out of memory: Killed process 3127 ({token}) total-vm:2168104kB")
    (event,) = [event for event in look(monitor).events if token in event.message]
    assert (event.reason, event.message.partition(":")[0]) == (
        "OOMKilling",
        f"the kernel killed {token} (pid 3127) to free memory",
    )


def rule(**changes: Any) -> dict[str, Any]:
    """A rule that is right but for these changes."""
    return {"name": "a", "pattern": "x(?P<g>.)", **changes}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"rules": [rule()]}, [], id="right"),
        pytest.param({"ruleSets": ["kernel"]}, [], id="a rule set"),
        pytest.param({}, ["rules"], id="nothing to look for"),
        pytest.param({"ruleSets": ["kernl"]}, ["ruleSets[0]"], id="a rule set that there is not"),
        pytest.param({"rules": [rule(pattern="(?=x)")]}, ["rules[0].pattern"], id="look-ahead"),
        pytest.param({"rules": [rule(pattern="(?<!x)y")]}, ["rules[0].pattern"], id="look-behind"),
        pytest.param({"rules": [rule(pattern="(x)\\1")]}, ["rules[0].pattern"], id="a back reference"),
        pytest.param({"rules": [rule(pattern="(")]}, ["rules[0].pattern"], id="an open group"),
        pytest.param({"rules": [rule(pattern="x{1001}")]}, ["rules[0].pattern"], id="too many repetitions"),
        pytest.param(
            {"rules": [rule(message="{g} {h}")]}, ["rules[0].message"], id="a group that there is not"
        ),
        pytest.param({"rules": [rule(message="{g} in {line}")]}, [], id="groups that there are"),
        pytest.param({"rules": [rule(), rule()]}, ["rules[1].name"], id="a name twice"),
        pytest.param(
            {"rules": [rule(type="permanent")]}, ["rules[0].condition"], id="permanent without a condition"
        ),
        pytest.param({"rules": [rule(condition="X")]}, ["rules[0].type"], id="temporary with a condition"),
        pytest.param({"rules": [rule(clearPattern="y")]}, ["rules[0].type"], id="temporary with an end"),
        pytest.param(
            {"rules": [rule(type="permanent", condition="X", clearPattern="(?=y)")]},
            ["rules[0].clearPattern"],
            id="an end beyond RE2",
        ),
    ],
)
def test_rules_that_can_never_be_right_are_faults(options: dict[str, Any], expected: list[str]) -> None:
    assert [path for path, _ in msgspec.convert(options, LogPatternOptions).faults()] == expected


def test_what_is_wrong_with_a_pattern_is_said() -> None:
    ((_, what),) = LogPatternOptions(rules=(Rule(name="a", pattern="(?=x)"),)).faults()
    assert what == "RE2 can't take '(?=x)': invalid perl operator: (?="


def test_no_pattern_makes_a_long_line_slow() -> None:
    """A backtracking engine would need longer than the universe has existed."""
    assert not compile_pattern("(a+)+$").search(b"a" * 4000 + b"b")
    assert Matcher([Rule(name="a", pattern="(x+x+)+y")]).hits(b"x" * 4000) == []


def test_a_line_may_match_several_rules() -> None:
    rules = [Rule(name="a", pattern="b+"), Rule(name="b", pattern="zz"), Rule(name="c", pattern="^ab")]
    assert [hit.rule.name for hit in Matcher(rules).hits(b"abbb")] == ["a", "c"]
    assert Matcher([]).hits(b"abbb") == []


def test_a_message_is_filled_with_what_the_pattern_found() -> None:
    matcher = Matcher([Rule(name="a", pattern="(?P<x>a)(?P<y>b)?", message="{x}|{y}|{line}")])
    assert [hit.message for hit in matcher.hits(b"a {x}")] == ["a||a {x}"]


def test_no_descriptor_is_left_open(follow: Callable[..., LogPatternMonitor], state: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        monitor = follow(state=state, lookback="1h")
        look(monitor)
        end(monitor)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_written_after_a_quiet_start_is_not_missed(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    quiet = follow(state=state)
    look(quiet)
    end(quiet)
    say(f"{token} hello")
    assert look(follow(state=state)).messages == ["hello"]


def test_a_position_beyond_the_log_is_not_believed(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    (state / "log-log.json").write_text(f'{{"boot": "{boot_id(Path("/proc"))}", "seq": 1000000000000}}')
    monitor = follow(state=state)
    look(monitor)
    say(f"{token} hello")
    assert look(monitor).messages == ["hello"]


def test_a_position_that_is_a_folder_is_set_aside(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    (state / "log-log.json").mkdir()
    monitor = follow(state=state)
    look(monitor)
    say(f"{token} hello")
    assert look(monitor).messages == ["hello"]

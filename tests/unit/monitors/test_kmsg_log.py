"""The log monitor on the kernel's own log: tests write lines there, each with a token of its own."""

from __future__ import annotations

import itertools
import logging
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.types import Event, Metric, utc_now
from workers.monitors.logs.kmsg import FRAGMENT_WAITS, KernelLog, parse
from workers.monitors.logs.matching import Matcher
from workers.monitors.logs.memory import Latched
from workers.monitors.logs.opening import Clock
from workers.monitors.logs.options import LogPatternOptions
from workers.monitors.logs.pattern import LogPatternMonitor
from workers.monitors.logs.position import Position, boot_id, load, save
from workers.monitors.logs.rules import Rule, rendered, rule_faults
from workers.monitors.logs.source import KmsgPlace, Line

KMSG = Path("/dev/kmsg")
NUMBERS = itertools.count()


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
    if monitor.source:
        monitor.close()
        monitor.source = None


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
    assert position.latched == ()
    assert [entry.name for entry in state.iterdir()] == ["log-log.json"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"boot": "x", "se', id="half"),
        pytest.param(b"\x00\xff\xfe", id="garbage"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"boot": 1, "place": "x"}', id="other types"),
        pytest.param(b'{"boot": "x"}', id="no place"),
        pytest.param(
            b'{"boot": "x", "place": {"type": "tape", "seq": 1}}', id="a place in another kind of log"
        ),
        pytest.param(b'{"boot": "x", "place": null, "latched": {"A": 1}}', id="conditions that are none"),
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
    save(state / "p.json", Position("kmsg", "a", KmsgPlace(1)))
    (state / "p.new").write_bytes(b'{"boot": "b", "se')
    assert load(state / "p.json") == Position("kmsg", "a", KmsgPlace(1))
    save(state / "p.json", Position("kmsg", "b", KmsgPlace(2)))
    assert load(state / "p.json") == Position("kmsg", "b", KmsgPlace(2))


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
    assert look(monitor).findings["ThingBroken"].message == "disk is broken"
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
    latched = (Latched("ThingBroken", (), "broken", "it broke", 0.0),)
    for boot, bad in ((boot_id(Path("/proc")), True), ("another", False)):
        save(state / "log-log.json", Position("kmsg", boot, KmsgPlace(0), latched))
        assert look(follow(latching, state=state)).findings["ThingBroken"].bad is bad


def test_a_condition_whose_rule_is_gone_is_gone(
    follow: Callable[..., LogPatternMonitor], latching: dict[str, Any], state: Path
) -> None:
    latched = (Latched("ThingBroken", (), "a rule of old", "it broke", 0.0),)
    save(state / "log-log.json", Position("kmsg", boot_id(Path("/proc")), KmsgPlace(0), latched))
    assert look(follow(latching, state=state)).findings["ThingBroken"].bad is False


def test_a_condition_ends_when_no_line_has_come_for_its_time(
    follow: Callable[..., LogPatternMonitor], token: str, latching: dict[str, Any]
) -> None:
    monitor = follow({**latching, "clearAfter": "1h"})
    look(monitor)
    say(f"{token} broke disk")
    assert look(monitor).findings["ThingBroken"].bad is True
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 3500 < (monitor.wake_after() or 0) <= 3600
    monitor.clear(now + 3590)
    assert look(monitor).findings["ThingBroken"].bad is True
    monitor.clear(now + 3610)
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
    assert seen.messages == [str(number) for number in range(10)]
    assert seen.metrics["log_matches_total tagged"] == 200
    (rest,) = monitor.tellers["tagged"].summary(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    assert (rest.message, rest.count) == ("190 more of rule tagged, the last: 199", 190)


def test_one_line_many_times_is_one_event(follow: Callable[..., LogPatternMonitor], token: str) -> None:
    monitor = follow()
    look(monitor)
    for _ in range(30):
        say(f"{token} same")
    seen = look(monitor)
    assert seen.messages == ["same"]
    assert seen.metrics["log_matches_total tagged"] == 30


def test_lines_that_were_overwritten_are_counted_as_lost(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow({"name": "last", "pattern": f"{token} last"})
    say("something")
    look(monitor)
    say(f"{token} begin")
    look(monitor)
    assert isinstance(monitor.source, KernelLog)
    began = monitor.source.after
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
        return next(log.records(10)).seq
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
        pytest.param(
            b"6,339,5140900,-;NET: Registered\n", (339, b"-", 5140900, b"NET: Registered", b""), id="plain"
        ),
        pytest.param(
            b"7,160,424069,-;pci_root PNP0A03:00: host\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
            (160, b"-", 424069, b"pci_root PNP0A03:00: host", b" SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00"),
            id="with details",
        ),
        pytest.param(b"6,1,2,c,caller=T1;a;b,c\n", (1, b"c", 2, b"a;b,c", b""), id="fields that are new"),
        pytest.param(b"6,1,2,-;a\\x0ab\\x5cx41\n", (1, b"-", 2, b"a\nb\\x41", b""), id="escapes"),
        pytest.param(b"6,1,2,-; \t a \n", (1, b"-", 2, b"a", b""), id="blanks around"),
        pytest.param(b"6,1,2,-;\n", (1, b"-", 2, b"", b""), id="empty"),
    ],
)
def test_a_record_is_read_as_its_documentation_says(
    record: bytes, expected: tuple[int, bytes, int, bytes, bytes]
) -> None:
    read = parse(record)
    assert (read.seq, read.flag, read.line.usec, read.line.text, read.line.details) == expected


def test_a_record_tells_its_level_and_facility() -> None:
    assert parse(b"4,1,2,-;x\n").line.fields == {"level": "warning", "facility": "kern"}
    assert parse(b"30,1,2,-;x\n").line.fields == {"level": "info", "facility": "daemon"}


class Records:
    """A device that gives the records that the test writes, one by one, as /dev/kmsg does; pipe(2), O_DIRECT."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_DIRECT)
        self.path = Path(f"/proc/self/fd/{self.reader}")

    def say(self, *records: bytes) -> None:
        """Write each as a packet of its own."""
        for record in records:
            os.write(self.writer, record + b"\n")


@pytest.fixture
def records() -> Iterator[Records]:
    """A device of the test's own."""
    device = Records()
    yield device
    os.close(device.reader)
    os.close(device.writer)


def texts(log: KernelLog) -> list[bytes]:
    """The texts of the lines that are there."""
    return [line.text for line in log.read(100)]


def test_the_parts_of_a_line_become_one_line(records: Records) -> None:
    log = KernelLog(records.path, -1)
    records.say(b"6,1,10,-;one", b"6,2,20,c;CPU: ", b"6,3,21,+;Intel", b"6,4,22,+; inside", b"6,5,30,-;two")
    assert texts(log) == [b"one", b"CPU: Intel inside", b"two"]
    assert log.place() == KmsgPlace(5)
    log.close()


def test_the_beginning_of_a_line_waits_for_a_moment_only(records: Records) -> None:
    log = KernelLog(records.path, -1)
    records.say(b"6,1,10,-;one", b"6,2,20,c;begun")
    assert texts(log) == [b"one"]
    assert log.place() == KmsgPlace(1)
    wait = log.wake_after()
    assert wait == FRAGMENT_WAITS
    time.sleep(wait)
    assert texts(log) == [b"begun"]
    assert (log.place(), log.wake_after()) == (KmsgPlace(2), None)
    records.say(b"6,3,21,+;a part without ", b"6,4,21,+;its beginning", b"6,5,30,-;two")
    assert texts(log) == [b"a part without its beginning", b"two"]
    log.close()


def test_a_gap_in_the_numbers_is_lost_lines(records: Records) -> None:
    log = KernelLog(records.path, 3)
    records.say(b"6,3,1,-;read before", b"6,4,1,-;a", b"6,9,1,-;b")
    assert (texts(log), log.lost) == ([b"a", b"b"], 4)
    log.close()


def test_only_what_is_wanted_is_given(records: Records) -> None:
    log = KernelLog(records.path, -1, not_before=15, level=4, facilities=frozenset({0, 3}))
    records.say(
        b"4,1,10,-;too early",
        b"6,2,20,-;info",
        b"4,3,20,-;kernel",
        b"28,4,20,-;daemon",
        b"12,5,20,-;user",
        b"4,6,20,-;",
    )
    assert texts(log) == [b"kernel", b"daemon"]
    assert log.place() == KmsgPlace(6)
    log.close()


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
        pytest.param({"rules": [rule(message="{g_meaning}")]}, ["rules[0].message"], id="no meanings"),
        pytest.param(
            {"rules": [rule(meanings={"h": {}})]}, ["rules[0].meanings.h"], id="meanings of nothing"
        ),
        pytest.param({"rules": [rule(message="{g}{g_meaning}", meanings={"g": {}})]}, [], id="meanings"),
        pytest.param({"rules": [rule(labels=["h"])]}, ["rules[0].labels"], id="a label that there is not"),
        pytest.param({"rules": [rule(labels=["rule"])]}, ["rules[0].labels"], id="a label that is taken"),
        pytest.param({"rules": [rule(count=2)]}, ["rules[0].within"], id="a count without a time"),
        pytest.param(
            {"rules": [rule(revertPattern="y")]}, ["rules[0].revertPattern"], id="nothing to take off"
        ),
        pytest.param({"rules": [rule()], "units": ["x"]}, ["units"], id="an option of another source"),
        pytest.param({"rules": [rule()], "source": "file"}, ["path"], id="a file without a path"),
        pytest.param({"rules": [rule()], "source": "journal", "units": ["a\0"]}, ["units"], id="a NUL"),
        pytest.param(
            {"rules": [rule()], "facilities": ["kernel"]},
            ["facilities[0]"],
            id="a facility that there is not",
        ),
        pytest.param(
            {"rules": [rule()], "conditions": [{"type": "A"}] * 2},
            ["conditions[1].type"],
            id="a condition twice",
        ),
        pytest.param(
            {"rules": [rule()], "source": "file", "path": "/x", "timestamp": "^.{15}"},
            ["timestampFormat", "messagePattern"],
            id="a part of what tells how to read a line",
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


def test_a_message_is_filled_with_what_the_pattern_found() -> None:
    rule = Rule(
        "a",
        r"(?P<x>a)(?P<y>b)? (\d+)",
        message="{x}|{y}|{3}|{x_meaning}|{y_meaning}|{unit}|{{{line}}}",
        meanings={"x": {"a": "the first"}, "y": {"b": "the second"}},
    )
    assert list(rule_faults(rule)) == []
    (hit,) = Matcher([rule]).hits(Line(b"a 12", 0, {"unit": "x.service"}))
    assert rendered(rule, hit.known()) == "a||12|the first|meaning not known|x.service|{a 12}"


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
    (state / "log-log.json").write_text(
        f'{{"log": "kmsg", "boot": "{boot_id(Path("/proc"))}", "place": {{"type": "kmsg", "seq": 1000000000000}}}}'
    )
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


@pytest.mark.parametrize(
    ("uptime", "lookback", "delay", "expected"),
    [
        (0, "0s", "0s", 0),
        (5, "7s", "0s", -5),
        (5, "3s", "0s", -3),
        (5, "0s", "7s", 2),
        (5, "0s", "3s", 0),
        (10, "6s", "12s", 2),
        (10, "12s", "7s", -3),
        (10, "6s", "7s", -3),
        (10, "2s", "7s", -2),
    ],
)
def test_reading_begins_where_node_problem_detector_begins(
    uptime: int, lookback: str, delay: str, expected: int
) -> None:
    options = LogPatternOptions(lookback=lookback, delay=delay)
    start = Clock(0, "boot").start_usec(options, None, uptime * 1e6)
    assert start - uptime * 1_000_000 == expected * 1_000_000


def test_a_log_that_was_read_before_is_read_on_wherever_it_was() -> None:
    options, known = LogPatternOptions(lookback="1m"), Position("kmsg", "another", None)
    assert Clock(0, "boot").start_usec(options, known, 1e12) < -1e15
    delayed = LogPatternOptions(lookback="1m", delay="5m")
    assert Clock(0, "boot").start_usec(delayed, known, 1e12) == 300_000_000


def test_lines_from_too_soon_after_the_boot_are_left(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow(delay="100000h")
    look(monitor)
    say(f"{token} hello")
    assert look(monitor).messages == []


def test_a_clock_that_is_set_moves_events_and_clears_nothing(
    follow: Callable[..., LogPatternMonitor], token: str, latching: dict[str, Any], other_boot: Path
) -> None:
    event = {"name": "tagged", "pattern": f"{token} event"}
    monitor = follow({**latching, "clearAfter": "1h"}, event, proc=other_boot)
    look(monitor)
    say(f"{token} broke disk")
    look(monitor)
    stat = (other_boot / "stat").read_text()
    (btime,) = [line for line in stat.splitlines() if line.startswith("btime")]
    later = int(btime.split()[1]) + 10 * 86400
    (other_boot / "stat").write_text(stat.replace(btime, f"btime {later}"))
    monitor.clock_read_at = -1e9
    say(f"{token} event")
    seen = look(monitor)
    assert timedelta(days=9) < seen.events[0].timestamp - utc_now() < timedelta(days=11)
    assert seen.findings["ThingBroken"].bad is True


def test_the_position_of_another_log_is_not_used(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    first.write_text(f"{token} 1\n")
    monitor = follow(state=state, source="file", path=str(first), lookback="1h")
    assert look(monitor).messages == ["1"]
    end(monitor)
    second.write_text(f"{token} 2\n")
    for options in ({"source": "file", "path": str(second)}, {"source": "kmsg"}):
        assert look(follow(state=state, **options)).messages == []


def test_what_was_read_and_not_told_is_read_again_after_a_restart(
    follow: Callable[..., LogPatternMonitor], token: str, state: Path
) -> None:
    monitor = follow(state=state)
    look(monitor)
    say(f"{token} hello")
    monitor.saved_at = -1e9
    assert monitor.poll()
    end(monitor)
    assert look(follow(state=state)).messages == ["hello"]


def test_lines_that_mean_nothing_are_nothing_to_tell(
    follow: Callable[..., LogPatternMonitor], token: str
) -> None:
    monitor = follow()
    look(monitor)
    say("something else")
    assert not monitor.poll()
    say(f"{token} hello")
    assert monitor.poll()
    assert look(monitor).messages == ["hello"]
    assert not monitor.poll()

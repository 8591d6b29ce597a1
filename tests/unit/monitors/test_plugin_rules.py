"""Several plug-ins in one monitor, with real programs: what Node Problem Detector would say of them, and when."""

from __future__ import annotations

import itertools
import logging
import os
import resource
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests_support import Agent, eventually

from nodedoctor.host import Host
from nodedoctor.monitor import EventReason, Finding
from nodedoctor.roster import MonitorSpec
from nodedoctor.types import Event, Result, Severity, Status
from workers.command import Completed
from workers.life import check_once, has_news
from workers.monitors.custom.rules import (
    PluginRule,
    PluginRulesMonitor,
    PluginRulesOptions,
    Task,
    outcome_of,
)
from workers.observer import Observer

NUMBERS = itertools.count()
BROKEN = {"type": "Broken", "reason": "IsFine", "message": "it is fine"}
FALSE = ("False", "IsFine", "it is fine")
UNRELATED = {"type": "Unrelated", "reason": "Default", "message": "default"}
Told = tuple[str, str, str]


def unique_time() -> str:
    """A number of seconds that no other process sleeps."""
    return f"3600.{os.getpid()}{next(NUMBERS)}1"


def processes(token: str) -> list[int]:
    """The processes whose command line has `token`."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if token in " ".join(p.info["cmdline"] or ())]


def spec_of(**options: Any) -> MonitorSpec:
    """A monitor that runs its rules as whoever runs the tests."""
    chosen = msgspec.convert({"user": "root", **options}, PluginRulesOptions)
    assert list(chosen.faults()) == []
    return MonitorSpec("plugins", PluginRulesMonitor, chosen, interval=30, timeout=15)


def permanent(path: Path, **rule: Any) -> dict[str, Any]:
    """A rule that sets Broken."""
    return {"type": "permanent", "condition": "Broken", "reason": "IsBroken", "path": str(path), **rule}


def told(status: Status, kind: str = "Broken") -> Told:
    """What `status` says of a condition."""
    (found,) = [condition for condition in status.conditions if condition.type == kind]
    return found.status.value, found.reason, found.message


def metrics(status: Status) -> dict[str, float]:
    """The metrics of `status` by name and labels."""
    return {" ".join((m.name, *m.labels.values())): m.value for m in status.metrics}


class Followed:
    """A monitor that is called as its worker calls it."""

    def __init__(self, spec: MonitorSpec) -> None:
        self.monitor = PluginRulesMonitor(spec.name, spec.options)
        self.observer = Observer(spec, self.monitor)
        self.statuses: list[Status] = []
        self.look()

    def look(self) -> None:
        """Check once."""
        status = self.observer.observe()
        assert status.conditions[-1].status.value == "False", status.conditions[-1].message
        self.statuses.append(status)

    def until(self, true: Callable[[], Any]) -> None:
        """Go on until it is true."""
        poll = select.poll()
        poll.register(self.monitor.fileno(), select.POLLIN)
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end
            wake_after = self.monitor.wake_after()
            poll.poll(100 if wake_after is None else min(100, wake_after * 1000))
            self.look()

    def runs(self, rule: str) -> int:
        """How often a rule has run to its end."""
        return sum(count for (label, _), count in self.monitor.runs.items() if label == rule)

    def changes(self, kind: str = "Broken") -> list[Told]:
        """What was said of a condition, without repetitions."""
        return [said for said, _ in itertools.groupby(told(status, kind) for status in self.statuses)]

    @property
    def events(self) -> list[Event]:
        """Everything that has happened."""
        return [event for status in self.statuses for event in status.events]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Writes shell scripts; they start in a folder of their own."""

    def write(text: str, name: str = "check", mode: int = 0o755) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def sequence(script: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes scripts that end each time as the next of these lines says: exit code and output; then as the last."""

    def write(lines: list[str], name: str = "check") -> Path:
        (tmp_path / f"{name}.lines").write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / f"{name}.count").write_text("0\n")
        return script(
            f"n=$(($(cat {name}.count) + 1)); echo $n > {name}.count\n"
            f"read -r code text <<END\n$(head -n $n {name}.lines | tail -n 1)\nEND\n"
            'echo "$text"; exit $code',
            name,
        )

    return write


@pytest.fixture
def follow() -> Iterator[Callable[..., Followed]]:
    """Starts monitors with these options; ends them, and fails if a process is left."""
    with ExitStack() as stack:

        def start(**options: Any) -> Followed:
            followed = Followed(spec_of(**options))
            stack.callback(followed.monitor.close)
            return followed

        yield start
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def once(script: Callable[..., Path]) -> Callable[..., tuple[Told, str]]:
    """Runs a script as a permanent and as a temporary rule; what the condition says, and the event's message."""

    def run(text: str, **options: Any) -> tuple[Told, str]:
        path = script(text)
        rules = [permanent(path), {"reason": "Happened", "path": str(path)}]
        spec = spec_of(conditions=[BROKEN], rules=rules, **{"pluginTimeout": "20s", **options})
        status = check_once(spec)
        messages = [event.message for event in status.events]
        assert [event.reason for event in status.events] == ["Happened"] * len(messages)
        return told(status), messages[0] if messages else ""

    return run


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        pytest.param("echo broken; exit 1", "True", "broken", id="1"),
        pytest.param("echo dunno; exit 2", "Unknown", "dunno", id="2"),
        pytest.param("echo dunno; exit 255", "Unknown", "dunno", id="255"),
        pytest.param("echo out; kill -9 $$", "Unknown", "out", id="a signal"),
        pytest.param("echo err >&2; exit 1", "True", "", id="output on stderr only"),
        pytest.param("printf ' \\n a\\nb \\n\\n'; exit 1", "True", "a\nb", id="trimmed, several lines"),
        pytest.param("printf 'a\\033[1mb\\0c'; exit 1", "True", "a [1mb c", id="control characters"),
        pytest.param("printf 'a\\377b'; exit 1", "True", "a\ufffdb", id="no UTF-8"),
        pytest.param("printf %0100d 7; exit 1", "True", "0" * 80, id="longer than the limit"),
        pytest.param("printf '%79s€' x | tr ' ' x; exit 1", "True", "x" * 79, id="a character is cut in two"),
        pytest.param("printf '%77s€' x | tr ' ' x; exit 1", "True", "x" * 77 + "€", id="one just fits"),
        pytest.param("printf 'x%0200000d' 7; exit 1", "True", "x" + "0" * 79, id="more than 4 KiB"),
    ],
)
def test_the_exit_code_is_the_verdict_and_the_output_the_message(
    once: Callable[..., tuple[Told, str]], text: str, status: str, message: str
) -> None:
    reason = "IsBroken" if status == "True" else "IsFine"
    assert once(text) == ((status, reason, message), message)


def test_a_program_that_is_fine_leaves_the_default_and_makes_no_event(
    once: Callable[..., tuple[Told, str]],
) -> None:
    assert once("echo all is well") == (FALSE, "")


@pytest.mark.parametrize(
    ("length", "message"),
    [
        pytest.param(5, "Timeo", id="cut"),
        pytest.param(
            999, 'Timeout when running plugin "{path}": state - signal: killed. output - "begun"', id="whole"
        ),
    ],
)
def test_a_time_out_is_unknown_and_tells_the_output_so_far(
    once: Callable[..., tuple[Told, str]], tmp_path: Path, length: int, message: str
) -> None:
    token = unique_time()
    text = f"echo begun; setsid sleep {token} & sleep {token}"
    message = message.format(path=tmp_path / "check")
    assert once(text, pluginTimeout="300ms", maxOutputLength=length) == (
        ("Unknown", "IsFine", message),
        message,
    )
    assert processes(token) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("sleep {t} & echo done; exit 1", id="a child"),
        pytest.param("setsid sleep {t} & echo done; exit 1", id="a child in a session of its own"),
    ],
)
def test_children_that_keep_the_pipe_open_neither_delay_the_verdict_nor_stay(
    once: Callable[..., tuple[Told, str]], text: str
) -> None:
    token = unique_time()
    assert once(text.format(t=token)) == (("True", "IsBroken", "done"), "done")
    assert processes(token) == []


@pytest.mark.parametrize("kind", ["missing", "not executable", "a folder", "no program", "not trusted"])
def test_what_can_not_be_started_is_unknown_and_says_which_and_why(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "check"
    why = "Permission denied"
    match kind:
        case "missing":
            why = "No such file or directory"
        case "not executable":
            path.write_text("#!/bin/sh\n")
        case "a folder":
            path.mkdir()
        case "no program":
            path.write_bytes(b"\x7fELF")
            path.chmod(0o755)
            why = "Exec format error"
        case "not trusted":
            if os.geteuid() != 0:
                assert os.environ.get("CI") != "true"
                pytest.skip("only root has something to lose")
            path.write_text("#!/bin/sh\n")
            path.chmod(0o777)
            why = "it belongs to or can be written by others than root: chown root, chmod go-w"
    rules = [permanent(path), {"reason": "Happened", "path": str(path)}]
    status = check_once(spec_of(conditions=[BROKEN], rules=rules))
    message = f"Error in starting plugin: {path}: {why}"
    assert told(status) == ("Unknown", "IsFine", message)
    assert [(event.reason, event.severity, event.message) for event in status.events] == [
        ("Happened", Severity.WARNING, message)
    ]
    assert metrics(status)["plugin_runs_total IsBroken unknown"] == 1
    assert "plugin_exit_code IsBroken" not in metrics(status)


def test_a_node_without_descriptors_is_no_reason_to_fail(
    script: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    path = script("exit 0")
    one = follow(rules=[{"reason": "R", "path": str(path), "invokeInterval": "20ms"}])
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, bounds[1]))
    try:
        while not one.events:
            one.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
    assert one.events[0].message == f"Error in starting plugin: {path}: Too many open files"
    one.until(lambda: one.monitor.runs["R", Result.OK] >= 2)


def test_a_user_that_there_is_not_is_said(script: Callable[..., Path]) -> None:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true"
        pytest.skip("only root can become somebody else")
    status = check_once(spec_of(conditions=[BROKEN], rules=[permanent(script("exit 0"))], user="nosuchuser"))
    assert told(status)[2].startswith("Error in starting plugin: there is no user 'nosuchuser'")


def test_the_end_of_what_was_read_is_no_broken_character() -> None:
    completed = Completed(1, b"a\xc3", b"", truncated=True, duration=0.1)
    assert outcome_of("/x", completed, 4096).message == "a"


@pytest.mark.parametrize(
    ("lines", "updates", "expected"),
    [
        pytest.param(["0 a", "1 b"], False, [FALSE, ("True", "IsBroken", "b")], id="False to True"),
        pytest.param(["1 a", "0 b"], False, [FALSE, ("True", "IsBroken", "a"), FALSE], id="True to False"),
        pytest.param(
            ["1 a", "2 b"],
            False,
            [FALSE, ("True", "IsBroken", "a"), ("Unknown", "IsFine", "b")],
            id="True to Unknown",
        ),
        pytest.param(
            ["0 a", "3 b", "0 c"],
            False,
            [FALSE, ("Unknown", "IsFine", "b"), FALSE],
            id="False to Unknown and back",
        ),
        pytest.param(
            ["2 a", "1 b"],
            False,
            [FALSE, ("Unknown", "IsFine", "a"), ("True", "IsBroken", "b")],
            id="Unknown to True",
        ),
        pytest.param(
            ["2 a", "2 b"], False, [FALSE, ("Unknown", "IsFine", "a")], id="Unknown keeps the first text"
        ),
        pytest.param(
            ["2 a", "2 b"], True, [FALSE, ("Unknown", "IsFine", "a")], id="Unknown keeps it in any case"
        ),
        pytest.param(["0 a", "0 b"], True, [FALSE], id="False keeps the default"),
        pytest.param(["1 a", "1 a"], True, [FALSE, ("True", "IsBroken", "a")], id="the same again"),
        pytest.param(
            ["1 a", "1 b"], False, [FALSE, ("True", "IsBroken", "a")], id="True keeps the first text"
        ),
        pytest.param(
            ["1 a", "1 b"],
            True,
            [FALSE, ("True", "IsBroken", "a"), ("True", "IsBroken", "b")],
            id="True takes the new text if asked to",
        ),
        pytest.param(
            ["1 a", "2 b", "1 c"],
            False,
            [FALSE, ("True", "IsBroken", "a"), ("Unknown", "IsFine", "b"), ("True", "IsBroken", "c")],
            id="True again",
        ),
    ],
)
def test_a_permanent_condition_goes_through_its_states(
    sequence: Callable[..., Path],
    follow: Callable[..., Followed],
    lines: list[str],
    updates: bool,
    expected: list[Told],
) -> None:
    rules = [permanent(sequence(lines), invokeInterval="20ms")]
    one = follow(conditions=[BROKEN, UNRELATED], rules=rules, messageChangeUpdates=updates)
    one.until(lambda: one.runs("IsBroken") > len(lines))
    assert one.changes() == expected
    assert one.changes("Unrelated") == [("False", "Default", "default")]
    assert one.events == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(0, 0, FALSE, id="none has found anything"),
        pytest.param(1, 0, ("True", "First", "a"), id="the first has"),
        pytest.param(0, 1, ("True", "Second", "b"), id="the second has"),
        pytest.param(1, 1, ("True", "First", "a; b"), id="both have"),
        pytest.param(2, 1, ("True", "Second", "b"), id="one has and one can't tell"),
        pytest.param(0, 2, ("Unknown", "IsFine", "b"), id="one can't tell"),
    ],
)
def test_several_rules_make_one_condition(
    script: Callable[..., Path], first: int, second: int, expected: Told
) -> None:
    rules = [
        permanent(script(f"echo a; exit {first}", "a"), reason="First"),
        permanent(script(f"echo b; exit {second}", "b"), reason="Second"),
    ]
    assert told(check_once(spec_of(conditions=[BROKEN], rules=rules))) == expected


def test_rules_that_disagree_do_not_make_their_condition_flap(
    script: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    rules = [
        permanent(script("exit 0", "fine"), reason="First", invokeInterval="30ms"),
        permanent(script("echo b; exit 1", "broken"), reason="Second", invokeInterval="40ms"),
    ]
    one = follow(conditions=[BROKEN], rules=rules)
    one.until(lambda: min(one.runs("First"), one.runs("Second")) >= 4)
    assert one.changes() == [FALSE, ("True", "Second", "b")]


def test_another_rules_reason_takes_over(
    script: Callable[..., Path], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    rules = [
        permanent(script("[ -e go ] || { echo a; exit 1; }", "a"), reason="First", invokeInterval="30ms"),
        permanent(script("echo b; exit 1", "b"), reason="Second"),
    ]
    one = follow(conditions=[BROKEN], rules=rules)
    one.until(lambda: one.changes()[-1] == ("True", "First", "a; b"))
    (tmp_path / "go").touch()
    one.until(lambda: one.changes()[-1] == ("True", "Second", "b"))


def test_a_temporary_rule_makes_an_event_of_every_run_that_is_not_fine(
    sequence: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    path = sequence(["0 fine", "1 one", "1 one", "2 two", "0 fine"])
    one = follow(
        rules=[{"reason": "Happened", "condition": "Broken", "path": str(path), "invokeInterval": "20ms"}]
    )
    one.until(lambda: one.runs("Happened") >= 5)
    assert [(event.severity, event.reason, event.message) for event in one.events] == [
        (Severity.WARNING, "Happened", "one"),
        (Severity.WARNING, "Happened", "one"),
        (Severity.WARNING, "Happened", "two"),
    ]


def test_a_condition_is_false_before_its_rule_has_run_or_unknown_if_asked_to(
    script: Callable[..., Path], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    rules = [permanent(script("while [ ! -e go ]; do sleep 0.02; done"))]
    usual = follow(conditions=[BROKEN], rules=rules, pluginTimeout="60s")
    skipping = follow(
        conditions=[BROKEN, UNRELATED], rules=rules, pluginTimeout="60s", skipInitialStatus=True
    )
    assert told(usual.statuses[0]) == FALSE
    assert told(skipping.statuses[0])[:2] == ("Unknown", "NotYetObserved")
    assert told(skipping.statuses[0], "Unrelated") == ("False", "Default", "default")
    (tmp_path / "go").touch()
    skipping.until(lambda: skipping.runs("IsBroken"))
    assert skipping.changes()[1:] == [FALSE]


def test_a_slow_rule_delays_nothing_but_itself(
    script: Callable[..., Path], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    slow = script("echo slow; while [ ! -e go ]; do sleep 0.02; done; exit 1", "slow")
    rules = [
        permanent(slow, invokeInterval="30ms"),
        {"reason": "Often", "path": str(script("exit 1", "often")), "invokeInterval": "30ms"},
        {"reason": "Seldom", "path": str(script("exit 1", "seldom")), "invokeInterval": "400ms"},
    ]
    one = follow(conditions=[BROKEN], rules=rules, pluginTimeout="60s")
    one.until(lambda: one.runs("Seldom") >= 3)
    assert one.runs("Often") > one.runs("Seldom")
    assert one.runs("IsBroken") == 0
    (tmp_path / "go").touch()
    one.until(lambda: one.runs("IsBroken"))
    assert one.changes() == [FALSE, ("True", "IsBroken", "slow")]


def test_times_that_were_missed_make_one_run_and_the_grid_stays(script: Callable[..., Path]) -> None:
    options = msgspec.convert({"user": "root", "invokeInterval": "30s"}, PluginRulesOptions)
    task = Task(PluginRule(path=str(script("exit 0")), reason="R"), options, 100.0)
    dues = []
    for now in (100.0, 130.5, 235.0, 249.9, 250.0):
        task.start(now).close()
        dues.append(task.due)
    assert dues == [130.0, 160.0, 250.0, 250.0, 280.0]


def test_no_more_than_so_many_run_at_once(
    script: Callable[..., Path], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    path = script("touch at-work-$1; ls -d at-work-* >> seen-$1; sleep 0.1; rm at-work-$1; exit 1")
    rules = [{"reason": f"R{number}", "path": str(path), "args": [str(number)]} for number in range(7)]
    one = follow(rules=rules, concurrency=2, pluginTimeout="30s")
    assert len(one.monitor.running) == 2
    assert one.monitor.wake_after() is None
    one.until(lambda: len(one.events) == 7)
    counts = [len(seen.read_text().split()) for seen in tmp_path.glob("seen-*")]
    assert len(counts) == 7
    assert max(counts) <= 2


def test_a_rule_never_overlaps_itself(
    script: Callable[..., Path], follow: Callable[..., Followed], tmp_path: Path
) -> None:
    path = script("mkdir lock || touch overlap; sleep 0.1; rmdir lock")
    one = follow(rules=[{"reason": "R", "path": str(path), "invokeInterval": "20ms"}], pluginTimeout="30s")
    one.until(lambda: one.runs("R") >= 3)
    assert not (tmp_path / "overlap").exists()


def test_a_rule_that_is_always_due_leaves_places_to_others(
    script: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    path = script("sleep 0.03")
    rules = [{"reason": reason, "path": str(path), "invokeInterval": "10ms"} for reason in ("A", "B", "C")]
    one = follow(rules=rules, concurrency=1)
    one.until(lambda: one.runs("A") >= 3)
    assert min(one.runs("B"), one.runs("C")) >= 2


def test_an_end_in_the_middle_leaves_no_process_and_no_descriptor(script: Callable[..., Path]) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    token = unique_time()
    path = script(f"setsid sleep {token} & sleep {token}")
    rules = [{"reason": f"R{number}", "path": str(path)} for number in range(3)]
    one = Followed(spec_of(rules=rules, pluginTimeout="60s"))
    one.until(lambda: len(processes(token)) == 6)
    one.monitor.close()
    assert processes(token) == []
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_many_runs_leave_no_descriptor_and_no_process(script: Callable[..., Path]) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    rules = [
        {"reason": "Ends", "path": str(script("exit 1", "ends")), "invokeInterval": "10ms"},
        {"reason": "Is not there", "path": "/nonexistent", "invokeInterval": "10ms"},
    ]
    one = Followed(spec_of(rules=rules))
    one.until(lambda: one.runs("Ends") >= 30)
    one.monitor.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_stderr_is_logged_when_it_has_changed(
    sequence: Callable[..., Path], follow: Callable[..., Followed], caplog: pytest.LogCaptureFixture
) -> None:
    inner = sequence(["0 a", "0 a", "1 b", "1 b"])
    outer = inner.with_name("outer")
    outer.write_text(f"#!/bin/sh\nexec {inner} >&2\n")
    outer.chmod(0o755)
    with caplog.at_level(logging.INFO):
        one = follow(rules=[{"reason": "R", "path": str(outer), "invokeInterval": "20ms"}])
        one.until(lambda: one.runs("R") >= 5)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", f"{outer} wrote to stderr: a"),
        ("WARNING", f"{outer} wrote to stderr: b"),
    ]
    assert {event.message for event in one.events} == {""}


def test_runs_are_measured_by_rule(script: Callable[..., Path]) -> None:
    rules = [
        permanent(script("exit 1", "one"), name="one"),
        {"reason": "R", "path": str(script("sleep 60", "two")), "timeout": "100ms", "name": "two"},
    ]
    found = metrics(check_once(spec_of(conditions=[BROKEN], rules=rules)))
    assert found["plugin_exit_code one"] == 1
    assert found["plugin_duration_seconds one"] > 0
    assert found["plugin_duration_seconds two"] >= 0.1
    assert "plugin_exit_code two" not in found
    runs = {name: value for name, value in found.items() if name.startswith("plugin_runs_total")}
    assert {name for name, value in runs.items() if value} == {
        "plugin_runs_total one problem",
        "plugin_runs_total two timeout",
    }
    assert len(runs) == 2 * 4


def test_what_was_measured_of_a_program_that_is_gone_is_gone(
    script: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    one = follow(rules=[{"reason": "R", "path": str(script('rm "$0"')), "invokeInterval": "300ms"}])
    one.until(lambda: one.runs("R") >= 2)
    assert one.monitor.runs["R", Result.OK] == 1
    assert {name for name in metrics(one.statuses[-1]) if not name.startswith("plugin_runs")} == set()


def test_a_single_look_runs_each_rule_once(script: Callable[..., Path], tmp_path: Path) -> None:
    path = script("echo x >> ran-$1")
    rules = [
        {"reason": f"R{number}", "path": str(path), "args": [str(number)], "invokeInterval": "1ms"}
        for number in range(5)
    ]
    check_once(spec_of(rules=rules, concurrency=2))
    assert [(tmp_path / f"ran-{number}").read_text() for number in range(5)] == ["x\n"] * 5


def test_a_result_is_news_between_two_ticks(
    script: Callable[..., Path], follow: Callable[..., Followed]
) -> None:
    one = follow(conditions=[BROKEN], rules=[permanent(script("exit 1"))])
    one.until(lambda: one.runs("IsBroken"))
    assert has_news(one.statuses[-1], one.statuses[0])
    assert not one.monitor.running
    assert 0 < (one.monitor.wake_after() or 0) <= 30


def test_reasons_and_events_are_declared() -> None:
    rules = [
        permanent(Path("/a"), reason="A"),
        permanent(Path("/b"), reason="B"),
        {"reason": "C", "path": "/c"},
        {"reason": "C", "path": "/c", "name": "c2"},
    ]
    spec = spec_of(conditions=[BROKEN, UNRELATED], rules=rules)
    broken, unrelated = spec.conditions
    assert (broken.reason, broken.reasons, broken.ok_reason) == ("A", ("A", "B"), "IsFine")
    assert (broken.ok_message, broken.latched, broken.severity) == ("it is fine", True, Severity.WARNING)
    assert (unrelated.reason, unrelated.reasons) == ("Default", ())
    assert spec.events == (EventReason("C"),)
    assert spec.metrics_reporting
    assert not spec_of(rules=rules[2:], metricsReporting=False).metrics_reporting


RULE = {"path": "/x", "reason": "R"}


@pytest.mark.parametrize(
    ("options", "path"),
    [
        pytest.param({"rules": []}, "rules", id="nothing to run"),
        pytest.param({"invokeInterval": "0s"}, "invokeInterval", id="no interval"),
        pytest.param({"pluginTimeout": "0s"}, "pluginTimeout", id="no time"),
        pytest.param({"environment": {"A=": "x"}}, "environment", id="no variable"),
        pytest.param({"conditions": [BROKEN, BROKEN]}, "conditions[1].type", id="a condition twice"),
        pytest.param({"rules": [{**RULE, "path": "x"}]}, "rules[0].path", id="no absolute path"),
        pytest.param({"rules": [{**RULE, "path": "/\0"}]}, "rules[0].path", id="NUL in the path"),
        pytest.param({"rules": [{**RULE, "args": ["a", "\0"]}]}, "rules[0].args[1]", id="NUL in an argument"),
        pytest.param({"rules": [{**RULE, "timeout": "0s"}]}, "rules[0].timeout", id="no time for a rule"),
        pytest.param({"rules": [{**RULE, "timeout": "6s"}]}, "rules[0].timeout", id="above the global one"),
        pytest.param({"rules": [{**RULE, "invokeInterval": "0s"}]}, "rules[0].invokeInterval", id="no pause"),
        pytest.param({"rules": [RULE, {**RULE, "path": "/y"}]}, "rules[1].name", id="two of one name"),
        pytest.param(
            {"rules": [{**RULE, "type": "permanent"}]}, "rules[0].condition", id="permanent without condition"
        ),
        pytest.param(
            {"rules": [permanent(Path("/x"))], "conditions": [UNRELATED]},
            "rules[0].condition",
            id="a condition that does not stand there",
        ),
    ],
)
def test_a_fault_is_told_with_its_path(options: dict[str, Any], path: str) -> None:
    chosen = msgspec.convert({"rules": [RULE], **options}, PluginRulesOptions)
    assert [where for where, _ in chosen.faults()] == [path]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"concurrency": 0}, id="no place"),
        pytest.param({"maxOutputLength": -1}, id="less than no output"),
        pytest.param({"rules": [{**RULE, "type": "lasting"}]}, id="another type of rule"),
        pytest.param({"rules": [{**RULE, "invokeInterval": "invalid"}]}, id="no duration"),
    ],
)
def test_what_the_schema_forbids_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, PluginRulesOptions)


def test_the_time_of_a_rule_may_be_that_of_all_and_its_condition_is_not_used_when_it_is_temporary() -> None:
    spec_of(rules=[{**RULE, "timeout": "5s", "condition": "Nowhere"}])


def test_a_rules_result_reaches_the_bus_at_once_and_the_agent_leaves_nothing(
    agent: Callable[..., Agent], script: Callable[..., Path]
) -> None:
    token = unique_time()
    rules = [
        permanent(script("echo broken; exit 1", "broken")),
        {"reason": "Happened", "path": str(script("echo once; exit 2", "once"))},
        {"reason": "Slow", "path": str(script(f"setsid sleep {token} & sleep {token}", "slow"))},
    ]
    options = {"user": "root", "pluginTimeout": "90s", "conditions": [BROKEN], "rules": rules}
    config = msgspec.json.encode(options).decode()
    one = agent(f"[{{name: p, type: custom-plugin-rules, interval: 600s, config: {config}}}]")
    assert one.becomes("Broken", "True", "IsBroken")["message"] == "broken"
    eventually(
        "the event is told",
        lambda: (
            ("Happened", "once")
            in {(e["reason"], e["message"]) for e in one.get("/events")[1].get("events", ())}
        ),
    )
    eventually("the slow one runs", lambda: len(processes(token)) == 2)
    assert one.end() == 0
    assert processes(token) == []


def test_a_restart_denies_nothing_that_was_found_before_it(tmp_path: Path) -> None:
    spec = spec_of(conditions=[BROKEN], rules=[permanent(Path("/bin/false"))])
    host = Host(state=tmp_path)
    first, again = (PluginRulesMonitor("plugins", spec.options, host) for _ in range(2))
    seen = [[item.bad for item in one.check() if isinstance(item, Finding)] for one in (first, again)]
    assert seen == [[False], [None]]
    first.close()
    again.close()

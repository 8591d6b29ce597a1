"""The journal of a real journald, read through the real journalctl."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from journal_support import Journal, private_journal
from tests_support import eventually

from nodedoctor.errors import Undetermined
from workers.monitors.logs import journal as module
from workers.monitors.logs.journal import LONGEST_ENTRY, JournalLog, bytes_of, decoded
from workers.monitors.logs.position import boot_usec
from workers.monitors.logs.source import LONGEST_LINE, JournalPlace, Line

BOOT = boot_usec(Path("/proc"))
OTHER_BOOT = "0a0a0a0a-1111-4222-8333-444444444444"
NOBODY = 65534
Follow = Callable[..., JournalLog]


@pytest.fixture(scope="module")
def shared() -> Iterator[Journal]:
    """One journald for tests that only write; each has an identifier of its own."""
    with private_journal() as journal:
        yield journal


@pytest.fixture
def own() -> Iterator[Journal]:
    """A journald whose files a test may turn over."""
    with private_journal() as journal:
        yield journal


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An identifier that no other test has."""
    return f"t{abs(hash(request.node.name))}"


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Starts readers, which are ended."""
    with ExitStack() as stack:

        def start(journal: Journal | Path, **options: Any) -> JournalLog:
            folder = journal if isinstance(journal, Path) else journal.folder
            given = {"place": None, "since_usec": now_usec() - 60_000_000, "boot_usec": BOOT, **options}
            log = JournalLog(folder, **given)
            stack.callback(log.close)
            return log

        yield start


def now_usec() -> int:
    """Now, in microseconds since boot."""
    return int(time.time() * 1e6) - BOOT


def lines(log: JournalLog, number: int, limit: int = 1000) -> list[Line]:
    """The next `number` lines."""
    found: list[Line] = []

    def enough() -> bool:
        found.extend(log.read(limit))
        return len(found) >= number

    eventually(f"{number} lines", enough)
    return found


def texts(log: JournalLog, number: int) -> list[bytes]:
    """The texts of the next `number` lines."""
    return [line.text for line in lines(log, number)]


def fault(log: JournalLog) -> OSError | Undetermined:
    """What reading fails with, when it does."""

    def failure() -> OSError | Undetermined | None:
        try:
            log.read(100)
        except (OSError, Undetermined) as error:
            return error
        return None

    found: OSError | Undetermined = eventually("a fault", failure)
    return found


def process_of(log: JournalLog) -> psutil.Process:
    """Its journalctl."""
    assert log.journalctl
    return psutil.Process(log.journalctl.process.pid)


def patiently(log: JournalLog, number: int) -> list[bytes]:
    """The texts of the next `number` lines, with journalctl being started again at once when it ends."""
    found: list[bytes] = []

    def enough() -> bool:
        log.start_at = 0.0
        try:
            found.extend(line.text for line in log.read(100))
        except Undetermined:
            return False
        return len(found) >= number

    eventually(f"{number} lines", enough)
    return found


def test_what_was_written_and_what_is_being_written_is_read(
    shared: Journal, name: str, follow: Follow
) -> None:
    shared.write("before", SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert texts(log, 1) == [b"before"]
    shared.write("after", SYSLOG_IDENTIFIER=name)
    poll = select.poll()
    poll.register(log.fileno() or 0, select.POLLIN)
    assert poll.poll(10_000)
    assert texts(log, 1) == [b"after"]
    assert (log.read(100), log.wake_after()) == ([], None)


def test_a_line_has_its_time_and_its_fields(shared: Journal, name: str, follow: Follow) -> None:
    before = now_usec()
    shared.write("  x \n", SYSLOG_IDENTIFIER=name, PRIORITY="3", UNIT="kubelet.service")
    (line,) = lines(follow(shared, identifiers=[name]), 1)
    assert line.text == b"x"
    assert before - 1_000_000 <= line.usec <= now_usec()
    expected = {"identifier": name, "unit": "kubelet.service", "level": "err", "pid": str(os.getpid())}
    assert expected.items() <= line.fields.items()
    assert line.fields["hostname"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"_SYSTEMD_UNIT": "a.service", "UNIT": "forged"}, {"unit": "a.service"}, id="a unit"),
        pytest.param(
            {"_SYSTEMD_UNIT": "init.scope", "UNIT": "a.service", "_PID": "1"},
            {"unit": "a.service", "pid": "1"},
            id="systemd of a unit",
        ),
        pytest.param({"PRIORITY": "8", "SYSLOG_IDENTIFIER": None}, {}, id="no level"),
        pytest.param({"SYSLOG_IDENTIFIER": ["a", [255]], "PRIORITY": [7, 8]}, {}, id="no texts"),
        pytest.param({"SYSLOG_IDENTIFIER": "x" * 9999}, {"identifier": "x" * 256}, id="a long one"),
    ],
)
def test_fields_are_what_the_journal_vouches_for(fields: dict[str, Any], expected: dict[str, str]) -> None:
    entry = decoded(msgspec.json.encode({"__CURSOR": "c", "__REALTIME_TIMESTAMP": "1", **fields}))
    assert entry
    assert entry.fields() == expected


def test_older_lines_than_asked_for_are_left(shared: Journal, name: str, follow: Follow) -> None:
    shared.write("old", SYSLOG_IDENTIFIER=name)
    time.sleep(0.01)
    since = now_usec()
    shared.write("new", SYSLOG_IDENTIFIER=name)
    assert texts(follow(shared, identifiers=[name], since_usec=since), 1) == [b"new"]
    from_the_beginning = JournalPlace("t=0")
    log = follow(shared, identifiers=[name], since_usec=since, place=from_the_beginning)
    assert texts(log, 1) == [b"new"]


def test_all_lines_are_read_if_that_is_asked_for(shared: Journal, name: str, follow: Follow) -> None:
    shared.write("old", SYSLOG_IDENTIFIER=name)
    assert texts(follow(shared, identifiers=[name], since_usec=-(1 << 62)), 1) == [b"old"]


def test_a_clock_that_is_set_back_hides_no_lines(shared: Journal, name: str, follow: Follow) -> None:
    shared.write("first", SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    log.boot_usec += 3600_000_000
    assert texts(log, 1) == [b"first"]


def test_the_system_has_a_journal_without_its_folder_being_named(own: Journal) -> None:
    own.write("of the system", SYSLOG_IDENTIFIER="x")
    reader = [sys.executable, "-c", SYSTEM_READER]
    answer = subprocess.run(own.within(*reader), check=True, capture_output=True, timeout=60)
    assert answer.stdout == b"of the system\n"


SYSTEM_READER = """
from workers.monitors.logs.journal import JournalLog
log, lines = JournalLog(None, None, since_usec=0, boot_usec=0, identifiers=["x"]), []
while not lines:
    lines = log.read(1)
print(lines[0].text.decode())
log.close()
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [b"1", b"2", b"3", b"4"], id="all"),
        pytest.param({"units": ["a.service"]}, [b"1"], id="a unit"),
        pytest.param({"units": ["a.service", "b.service"]}, [b"1", b"2"], id="two units"),
        pytest.param({"units": ["a"], "facilities": ["daemon"]}, [b"1"], id="a unit and a facility"),
        pytest.param({"priority": "warning"}, [b"2", b"3"], id="a level"),
        pytest.param({"priority": "err"}, [b"3"], id="a worse level"),
        pytest.param({"priority": "debug"}, [b"1", b"2", b"3", b"4"], id="any level or none"),
        pytest.param({"facilities": ["daemon"]}, [b"1", b"3"], id="a facility"),
        pytest.param({"facilities": ["daemon", "auth"]}, [b"1", b"2", b"3"], id="two facilities"),
        pytest.param({"facilities": ["daemon"], "priority": "err"}, [b"3"], id="a facility and a level"),
    ],
)
def test_only_what_is_wanted_is_read(
    shared: Journal, name: str, follow: Follow, options: dict[str, Any], expected: list[bytes]
) -> None:
    for number, priority, unit, facility in (
        ("1", "6", "a", "3"),
        ("2", "4", "b", "4"),
        ("3", "0", "c", "3"),
    ):
        shared.write(
            number,
            SYSLOG_IDENTIFIER=name,
            PRIORITY=priority,
            OBJECT_SYSTEMD_UNIT=f"{unit}.service",
            SYSLOG_FACILITY=facility,
        )
    shared.write("4", SYSLOG_IDENTIFIER=name)
    shared.write("of another", SYSLOG_IDENTIFIER="other")
    shared.write("last", SYSLOG_IDENTIFIER=f"{name}-last", OBJECT_SYSTEMD_UNIT="a.service", **WORST)
    log = follow(shared, identifiers=[name, f"{name}-last"], **options)
    wanted = [*expected] if options.get("units") == ["b"] else [*expected, b"last"]
    assert texts(log, len(wanted)) == wanted


WORST = {"PRIORITY": "0", "SYSLOG_FACILITY": "3"}
"""What passes every filter that a test sets."""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("ä€😀", "ä€😀".encode(), id="UTF-8"),
        pytest.param(b"\xff\xfe\x00\x80", b"\xff\xfe\x00\x80", id="binary"),
        pytest.param(b"\x1b[31mred", b"\x1b[31mred", id="control characters"),
        pytest.param("one\n two", b"one\n two", id="two lines"),
        pytest.param('"__CURSOR":"x"}', b'"__CURSOR":"x"}', id="JSON"),
        pytest.param("ä" * LONGEST_LINE, b"\xc3\xa4" * (LONGEST_LINE // 2), id="a long line"),
        pytest.param("x" * 1_000_000, b"x" * LONGEST_LINE, id="a megabyte"),
        pytest.param(b"\xff" * 600_000, b"\xff" * LONGEST_LINE, id="half a megabyte of bytes"),
    ],
)
def test_a_message_is_read_whatever_is_in_it(
    shared: Journal, name: str, follow: Follow, message: str | bytes, expected: bytes
) -> None:
    shared.write(message, SYSLOG_IDENTIFIER=name)
    shared.write("last", SYSLOG_IDENTIFIER=name)
    assert texts(follow(shared, identifiers=[name]), 2) == [expected, b"last"]


def test_an_entry_without_a_message_is_passed_over(shared: Journal, name: str, follow: Follow) -> None:
    shared.write(None, SYSLOG_IDENTIFIER=name)
    shared.write("", SYSLOG_IDENTIFIER=name)
    shared.write(" \n", SYSLOG_IDENTIFIER=name)
    shared.write("last", SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert texts(log, 1) == [b"last"]
    assert (log.lost, log.skipped) == (0, 1)


def test_an_entry_that_is_too_long_is_lost(own: Journal, follow: Follow) -> None:
    own.write("first", SYSLOG_IDENTIFIER="x")
    own.write("x" * (2 * LONGEST_ENTRY), SYSLOG_IDENTIFIER="x")
    own.write("last", SYSLOG_IDENTIFIER="x")
    log = follow(own, identifiers=["x"])
    assert texts(log, 2) == [b"first", b"last"]
    assert (log.lost, log.skipped) == (1, 0)


def test_an_entry_that_is_too_long_is_not_kept_in_memory(own: Journal, follow: Follow) -> None:
    own.write("x" * (2 * LONGEST_ENTRY), SYSLOG_IDENTIFIER="x")
    own.write("last", SYSLOG_IDENTIFIER="x")
    log = follow(own, identifiers=["x"])
    assert log.journalctl
    longest, found = 0, []
    while not found:
        found = log.read(1)
        longest = max(longest, len(log.journalctl.rest))
    assert 0 < longest <= LONGEST_ENTRY


def test_an_entry_for_which_journalctl_has_no_memory_does_not_hold_up_the_rest(
    own: Journal, follow: Follow
) -> None:
    own.write("before", SYSLOG_IDENTIFIER="x")
    log = follow(own, identifiers=["x"])
    assert texts(log, 1) == [b"before"]
    own.write(b"\xff" * 4_000_000, SYSLOG_IDENTIFIER="x")
    assert "Cannot allocate memory" in str(fault(log))
    own.write("after", SYSLOG_IDENTIFIER="x")
    assert patiently(log, 1) == [b"after"]
    assert (log.lost, log.skipped) == (1, 0)


def test_a_field_that_stands_twice_is_read_once() -> None:
    assert bytes_of(["first", "second"]) == b"first"
    assert bytes_of([[102, 111], [1]]) == b"fo"
    assert bytes_of([None, "second"]) == bytes_of([]) == bytes_of(None) == b""


def test_bytes_that_an_old_journalctl_writes_as_they_are_are_read() -> None:
    entry = decoded(b'{ "__CURSOR" : "c", "__REALTIME_TIMESTAMP" : "1", "MESSAGE" : "a\xffb\\n" }')
    assert entry
    assert entry.text() == "a\ufffdb".encode()
    assert decoded(b"-- Reboot --") is None


def test_a_restart_neither_repeats_nor_misses_a_line(shared: Journal, name: str, follow: Follow) -> None:
    told, place = [], None
    for number in range(4):
        shared.write(f"between {number}", SYSLOG_IDENTIFIER=name)
        log = follow(shared, identifiers=[name], place=place)
        shared.write(f"during {number}", SYSLOG_IDENTIFIER=name)
        told += texts(log, 2)
        place = log.place()
        log.close()
    assert told == [f"{word} {number}".encode() for number in range(4) for word in ("between", "during")]


def test_a_restart_before_the_first_line_begins_where_the_start_did(
    shared: Journal, name: str, follow: Follow
) -> None:
    shared.write("old", SYSLOG_IDENTIFIER=name)
    time.sleep(0.01)
    log = follow(shared, identifiers=[name], since_usec=now_usec())
    place = log.place()
    log.close()
    shared.write("new", SYSLOG_IDENTIFIER=name)
    assert texts(follow(shared, identifiers=[name], place=place, since_usec=-(1 << 62)), 1) == [b"new"]


def test_a_restart_with_another_filter_misses_nothing(shared: Journal, name: str, follow: Follow) -> None:
    shared.write("one", SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert texts(log, 1) == [b"one"]
    shared.write("two", SYSLOG_IDENTIFIER=f"{name}-other")
    again = follow(shared, identifiers=[f"{name}-other"], place=log.place())
    assert texts(again, 1) == [b"two"]


def test_what_was_written_before_a_reboot_and_after_it_is_read(tmp_path: Path, follow: Follow) -> None:
    with private_journal(tmp_path, OTHER_BOOT) as journal:
        journal.write("read", SYSLOG_IDENTIFIER="x")
        log = follow(journal, identifiers=["x"])
        assert texts(log, 1) == [b"read"]
        place = log.place()
        log.close()
        journal.write("last", SYSLOG_IDENTIFIER="x")
        eventually("it is written", lambda: "last" in entries_of(journal))
    with private_journal(tmp_path) as journal:
        journal.write("first", SYSLOG_IDENTIFIER="x")
        log = follow(journal, identifiers=["x"], place=place)
        assert texts(log, 2) == [b"last", b"first"]


def entries_of(journal: Journal) -> list[str]:
    """The messages that are in a journal."""
    words = ["journalctl", f"--directory={journal.folder}", "--output=cat", "--quiet", "--merge"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def test_no_more_than_asked_for_is_given_at_once(shared: Journal, name: str, follow: Follow) -> None:
    for number in range(50):
        shared.write(str(number), SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    first = lines(log, 10, limit=10)
    assert [line.text for line in first] == [str(number).encode() for number in range(10)]
    place = log.place()
    eventually("there are more", lambda: log.wake_after() == 0.0 or log.read(1) == [])
    assert texts(log, 30)[-1] == b"49"
    assert log.wake_after() is None
    again = follow(shared, identifiers=[name], place=place)
    assert texts(again, 40)[0] == b"10"


def test_the_journal_may_be_rotated_and_shortened_under_the_reader(own: Journal, follow: Follow) -> None:
    log = follow(own, identifiers=["x"])
    for number in range(3):
        own.write(f"before {number}", SYSLOG_IDENTIFIER="x")
        assert texts(log, 1) == [f"before {number}".encode()]
        own.tell("--rotate")
        own.write(f"after {number}", SYSLOG_IDENTIFIER="x")
        assert texts(log, 1) == [f"after {number}".encode()]
        own.tell("--vacuum-files=1")
    place = log.place()
    log.close()
    own.tell("--rotate")
    own.tell("--vacuum-files=1")
    own.write("much later", SYSLOG_IDENTIFIER="x")
    assert texts(follow(own, identifiers=["x"], place=place), 1) == [b"much later"]


def test_a_folder_that_was_replaced_is_read(tmp_path: Path, follow: Follow) -> None:
    with private_journal(tmp_path) as journal:
        log = follow(journal, identifiers=["x"])
        journal.write("old", SYSLOG_IDENTIFIER="x")
        assert texts(log, 1) == [b"old"]
    shutil.rmtree(tmp_path / "journal")
    with private_journal(tmp_path) as journal:
        journal.write("new", SYSLOG_IDENTIFIER="x")
        assert texts(log, 1) == [b"new"]


def test_a_journal_that_does_not_exist_yet_is_waited_for(own: Journal, follow: Follow) -> None:
    folder = own.root / "later"
    folder.mkdir()
    log = follow(folder, identifiers=["x"])
    missing = fault(log)
    assert str(missing) == f"there is no journal in {folder}; it is read as soon as there is"
    assert isinstance(missing, Undetermined)
    assert missing.reason == "LogNotFound"
    assert process_of(log).is_running()
    own.write("here", SYSLOG_IDENTIFIER="x")
    eventually("it is written", lambda: "here" in entries_of(own))
    shutil.copytree(own.folder, folder, dirs_exist_ok=True)
    poll = select.poll()
    poll.register(log.fileno() or 0, select.POLLIN)
    assert poll.poll(10_000)
    assert texts(log, 1) == [b"here"]


def test_a_journal_that_journalctl_is_too_old_for_is_no_silence(own: Journal, follow: Follow) -> None:
    folder = own.root / "newer"
    shutil.copytree(own.folder, folder)
    (file,) = folder.glob("*/*.journal")
    # The incompatible flags of the header; https://systemd.io/JOURNAL_FILE_FORMAT
    with file.open("r+b") as journal:
        journal.seek(15)
        journal.write(b"\x80")
    failure = fault(follow(folder))
    assert isinstance(failure, Undetermined)
    expected = f"journalctl is too old for this journal: Journal file {file} uses an unsupported feature, "
    assert str(failure) == f"{expected}ignoring file."
    assert failure.reason == "JournalUnreadable"


def test_journalctl_that_was_killed_is_started_again_where_it_was(
    shared: Journal, name: str, follow: Follow
) -> None:
    log = follow(shared, identifiers=[name])
    shared.write("one", SYSLOG_IDENTIFIER=name)
    assert texts(log, 1) == [b"one"]
    process_of(log).kill()
    shared.write("two", SYSLOG_IDENTIFIER=name)
    assert str(fault(log)) == "journalctl ended: signal 9"
    assert log.fileno() is None
    pause = log.wake_after()
    assert pause
    assert 0 < pause <= 1
    with pytest.raises(Undetermined, match="journalctl ended: signal 9"):
        log.read(10)
    log.start_at = 0.0
    eventually("a line", lambda: told_again(log) == [b"two"])
    assert (log.failure, log.pause) == (None, 1.0)


def told_again(log: JournalLog) -> list[bytes]:
    """What is read next; nothing while it is not known whether journalctl is well again."""
    try:
        return [line.text for line in log.read(100)]
    except Undetermined:
        assert log.wake_after()
        return []


def test_lines_are_neither_repeated_nor_missed_however_often_journalctl_is_killed(
    shared: Journal, name: str, follow: Follow
) -> None:
    expected = [str(number).encode() for number in range(3000)]
    for text in expected:
        shared.write(text, SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    chance = random.Random(1)
    found: list[bytes] = []
    while len(found) < len(expected):
        found += patiently(log, 1)
        if log.journalctl and chance.random() < 0.1:
            process_of(log).kill()
    assert found == expected


def test_a_journalctl_that_was_replaced_must_run_for_a_while(shared: Journal, follow: Follow) -> None:
    log = follow(shared, identifiers=["nobody"])
    process_of(log).kill()
    assert str(fault(log)) == "journalctl ended: signal 9"
    log.start_at = 0.0
    assert str(fault(log)) == "journalctl ended: signal 9"
    assert log.fileno()
    left = log.wake_after()
    assert left
    assert 0 < left <= module.PROVEN_AFTER
    log.proven_at = 0.0
    assert (log.read(10), log.wake_after(), log.pause) == ([], None, 1.0)


def test_the_pause_grows_while_it_ends_at_once(tmp_path: Path, follow: Follow) -> None:
    log = follow(tmp_path / "nowhere")
    pauses = []
    for _ in range(8):
        pauses.append(log.pause)
        assert "No such file or directory" in str(ended(log))
        assert time.monotonic() < log.start_at <= time.monotonic() + pauses[-1]
        log.start_at = 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def ended(log: JournalLog) -> OSError | Undetermined:
    """What it says when journalctl has ended, and not before."""

    def gone() -> OSError | Undetermined | None:
        failure = fault(log)
        return None if log.journalctl else failure

    found: OSError | Undetermined = eventually("it has ended", gone)
    return found


def test_a_folder_is_read_when_it_comes(own: Journal, follow: Follow) -> None:
    folder = own.root / "later"
    log = follow(folder, identifiers=["x"])
    assert "No such file or directory" in str(ended(log))
    own.write("here", SYSLOG_IDENTIFIER="x")
    folder.symlink_to(own.folder)
    assert patiently(log, 1) == [b"here"]


def test_nothing_is_done_all_the_time_while_it_can_not_be_read(tmp_path: Path, follow: Follow) -> None:
    program, starts = tmp_path / "journalctl", tmp_path / "starts"
    program.write_text(f'#!/bin/sh\necho >> {starts}\nexec journalctl "$@"\n')
    program.chmod(0o755)
    log = follow(tmp_path / "nowhere", program=str(program))
    reads, end = 0, time.monotonic() + 3.5
    while (left := end - time.monotonic()) > 0:
        wait(log, left)
        fault(log)
        reads += 1
    assert len(starts.read_text()) <= 3
    assert reads <= 10


def wait(log: JournalLog, longest: float) -> None:
    """Wait as a worker does, at most so many seconds."""
    poll = select.poll()
    if (descriptor := log.fileno()) is not None:
        poll.register(descriptor, select.POLLIN)
    wake_after = log.wake_after()
    poll.poll(1000 * min(longest, longest if wake_after is None else wake_after) + 1)


def test_without_journalctl_it_is_said_what_to_install(shared: Journal, follow: Follow) -> None:
    with pytest.raises(
        Undetermined, match="there is no journalctl-nowhere on this machine: install"
    ) as caught:
        follow(shared, program="journalctl-nowhere")
    assert caught.value.reason == "JournalctlNotFound"


def test_a_journalctl_that_can_not_be_run_is_a_matter_for_somebody(
    shared: Journal, follow: Follow, tmp_path: Path
) -> None:
    (tmp_path / "journalctl").touch(0o644)
    with pytest.raises(Undetermined, match=r"journalctl can't be started: Permission denied"):
        follow(shared, program=str(tmp_path / "journalctl"))


def test_a_journalctl_that_disappears_is_looked_for_at_a_pace(
    shared: Journal, follow: Follow, tmp_path: Path
) -> None:
    program = tmp_path / "journalctl"
    program.symlink_to("/usr/bin/journalctl")
    log = follow(shared, identifiers=["nobody"], program=str(program))
    program.unlink()
    process_of(log).kill()
    assert "journalctl ended" in str(fault(log))
    log.start_at = 0.0
    assert "there is no" in str(fault(log))
    assert log.wake_after()
    assert log.pause == 4.0


@pytest.mark.parametrize("closed", ["folder", "files"])
def test_a_journal_that_may_not_be_read_is_a_matter_of_permission(own: Journal, closed: str) -> None:
    own.root.chmod(0o755)
    for folder in own.folder.iterdir():
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o600)
    own.folder.chmod(0o700 if closed == "folder" else 0o755)
    answer = as_nobody(lambda: repr(ended(JournalLog(own.folder, None, since_usec=0, boot_usec=BOOT))))
    assert answer.startswith("PermissionError(13, ")
    assert "ermission" in answer
    assert "the journal is for root and the group systemd-journal" in answer


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` gives in a process of the user nobody."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write_end, work().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    text = os.read(read_end, 1000)
    os.close(read_end)
    os.waitpid(pid, 0)
    return text.decode()


def test_journalctl_inherits_nothing(shared: Journal, follow: Follow, tmp_path: Path) -> None:
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        log = follow(shared, identifiers=["nobody"])
        process = process_of(log)
        signal.signal(signal.SIGINT, ignored)
        assert file.name not in [opened.path for opened in process.open_files()]
        assert Path(f"/proc/{process.pid}/fd/0").readlink() == Path("/dev/null")
    status = Path(f"/proc/{process.pid}/status").read_text().split("\n")
    masks = {
        key: int(value, 16)
        for key, _, value in (line.partition(":\t") for line in status)
        if key in {"SigBlk", "SigIgn"}
    }
    assert masks == {"SigBlk": 0, "SigIgn": 0}
    assert process.environ() == {"PATH": module.PATH, "LC_ALL": "C"}


def test_close_leaves_nothing(shared: Journal, follow: Follow) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        log = follow(shared)
        process = process_of(log)
        log.close()
        log.close()
        assert not process.is_running()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_journalctl_that_hangs_is_ended(shared: Journal, follow: Follow) -> None:
    log = follow(shared)
    process = process_of(log)
    process.suspend()
    log.close()
    assert not process.is_running()


CHILD = """
import sys, time
from pathlib import Path
from workers.monitors.logs.journal import JournalLog
log = JournalLog(Path(sys.argv[1]), None, since_usec=0, boot_usec=0)
print(log.journalctl.process.pid, flush=True)
time.sleep(600)
"""


def test_journalctl_ends_with_its_reader(shared: Journal) -> None:
    reader = subprocess.Popen([sys.executable, "-c", CHILD, str(shared.folder)], stdout=subprocess.PIPE)
    assert reader.stdout
    process = psutil.Process(int(reader.stdout.readline()))
    # It must not depend on its noticing that nobody reads any more.
    process.suspend()
    reader.kill()
    reader.wait()
    reader.stdout.close()
    eventually("journalctl is gone", lambda: not process.is_running())


def test_a_reader_that_does_not_read_makes_journalctl_wait(
    shared: Journal, name: str, follow: Follow
) -> None:
    text = "x" * 1000
    for _ in range(5000):
        shared.write(text, SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert log.journalctl
    process = process_of(log)
    waits = Path(f"/proc/{process.pid}/wchan")
    eventually("it waits", lambda: "pipe" in waits.read_text() and process.cpu_times().user > 0)
    read = 0
    while read < 5000:
        read += len(log.read(100))
        assert len(log.journalctl.entries) * len(text) < 2 * module.PIPE_SIZE

"""The journal of a real journald, read through the real journalctl."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from journal_support import Journal, private_journal
from tests_support import eventually

from nodedoctor.errors import Undetermined
from workers.monitors.logs.journal import LONGEST_ENTRY, JournalLog, bytes_of
from workers.monitors.logs.position import boot_usec
from workers.monitors.logs.source import LONGEST_LINE, Line

BOOT = boot_usec(Path("/proc"))
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


def test_older_lines_than_asked_for_are_left(shared: Journal, name: str, follow: Follow) -> None:
    shared.write("old", SYSLOG_IDENTIFIER=name)
    time.sleep(0.01)
    since = now_usec()
    shared.write("new", SYSLOG_IDENTIFIER=name)
    assert texts(follow(shared, identifiers=[name], since_usec=since), 1) == [b"new"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"units": ["a.service"]}, [b"1"], id="a unit"),
        pytest.param({"units": ["a.service", "b.service"]}, [b"1", b"2"], id="two units"),
        pytest.param({"priority": "warning"}, [b"2", b"3"], id="a level"),
        pytest.param({"priority": "err"}, [b"3"], id="a worse level"),
        pytest.param({"facilities": ["daemon"]}, [b"1", b"3"], id="a facility"),
    ],
)
def test_only_what_is_wanted_is_read(
    shared: Journal, name: str, follow: Follow, options: dict[str, Any], expected: list[bytes]
) -> None:
    shared.write(
        "1", SYSLOG_IDENTIFIER=name, PRIORITY="6", OBJECT_SYSTEMD_UNIT="a.service", SYSLOG_FACILITY="3"
    )
    shared.write(
        "2", SYSLOG_IDENTIFIER=name, PRIORITY="4", OBJECT_SYSTEMD_UNIT="b.service", SYSLOG_FACILITY="4"
    )
    shared.write(
        "3", SYSLOG_IDENTIFIER=name, PRIORITY="0", OBJECT_SYSTEMD_UNIT="c.service", SYSLOG_FACILITY="3"
    )
    assert texts(follow(shared, identifiers=[name], **options), len(expected)) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("ä€😀", "ä€😀".encode(), id="UTF-8"),
        pytest.param(b"\xff\xfe\x00\x80", b"\xff\xfe\x00\x80", id="binary"),
        pytest.param("one\ntwo", b"one\ntwo", id="two lines"),
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
    shared.write("last", SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert texts(log, 1) == [b"last"]
    assert (log.lost, log.skipped) == (0, 0)


def test_an_entry_that_is_too_long_is_lost_and_takes_no_memory(own: Journal, follow: Follow) -> None:
    own.write(b"\xff" * (LONGEST_ENTRY // 3), SYSLOG_IDENTIFIER="x")
    own.write("last", SYSLOG_IDENTIFIER="x")
    log = follow(own, identifiers=["x"])
    assert texts(log, 1) == [b"last"]
    assert log.lost == 1


def test_a_field_that_stands_twice_is_read_once() -> None:
    assert bytes_of(["first", "second"]) == b"first"
    assert bytes_of([[102, 111], [1]]) == b"fo"
    assert bytes_of(None) == b""


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


def test_no_more_than_asked_for_is_given_at_once(shared: Journal, name: str, follow: Follow) -> None:
    for number in range(50):
        shared.write(str(number), SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    eventually("journalctl has written", lambda: len(log.buffer) > 10_000 or log.fill())
    first = log.read(10)
    assert [line.text for line in first] == [str(number).encode() for number in range(10)]
    assert log.wake_after() == 0.0
    place = log.place()
    assert texts(log, 40)[-1] == b"49"
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
    place = log.place()
    log.close()
    own.tell("--rotate")
    own.tell("--vacuum-files=1")
    own.write("much later", SYSLOG_IDENTIFIER="x")
    assert texts(follow(own, identifiers=["x"], place=place), 1) == [b"much later"]


def test_journalctl_that_was_killed_is_started_again_where_it_was(
    shared: Journal, name: str, follow: Follow
) -> None:
    log = follow(shared, identifiers=[name])
    shared.write("one", SYSLOG_IDENTIFIER=name)
    assert texts(log, 1) == [b"one"]
    assert log.process
    log.process.send_signal(signal.SIGKILL)
    shared.write("two", SYSLOG_IDENTIFIER=name)
    with pytest.raises(Undetermined, match="journalctl ended: with -9"):
        eventually("its end", lambda: log.read(10) and False)
    assert log.fileno() is None
    pause = log.wake_after()
    assert pause
    assert log.read(10) == []
    assert log.process is None
    log.start_at = 0.0
    assert texts(log, 1) == [b"two"]


def test_the_pause_grows_while_it_ends_at_once(tmp_path: Path, follow: Follow) -> None:
    log = follow(tmp_path / "nowhere")
    pauses = []
    for _ in range(8):
        with pytest.raises(Undetermined, match="No such file or directory"):
            eventually("its end", lambda: log.read(10) and False)
        pauses.append(log.pause)
        log.start_at = 0.0
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_without_journalctl_it_is_said_what_to_install(shared: Journal, follow: Follow) -> None:
    with pytest.raises(
        Undetermined, match="there is no journalctl-nowhere on this machine: install"
    ) as caught:
        follow(shared, program="journalctl-nowhere")
    assert caught.value.reason == "JournalctlNotFound"


def test_a_journal_that_may_not_be_read_is_a_matter_of_permission(own: Journal, follow: Follow) -> None:
    own.root.chmod(0o755)
    for path in (own.folder, *own.folder.iterdir()):
        path.chmod(0o700)
    os.seteuid(65534)
    try:
        log = follow(own)
        with pytest.raises(PermissionError, match=r"ermission|not permitted"):
            eventually("its end", lambda: log.read(10) and False)
    finally:
        os.seteuid(0)


def test_close_leaves_nothing(shared: Journal, follow: Follow) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        log = follow(shared)
        assert log.process
        pid = log.process.pid
        log.close()
        log.close()
        assert not psutil.pid_exists(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


CHILD = """
import sys, time
from pathlib import Path
from workers.monitors.logs.journal import JournalLog
log = JournalLog(Path(sys.argv[1]), None, since_usec=0, boot_usec=0)
print(log.process.pid, flush=True)
time.sleep(600)
"""


def test_journalctl_ends_with_its_reader(shared: Journal) -> None:
    reader = subprocess.Popen([sys.executable, "-c", CHILD, str(shared.folder)], stdout=subprocess.PIPE)
    assert reader.stdout
    pid = int(reader.stdout.readline())
    assert psutil.pid_exists(pid)
    reader.kill()
    reader.wait()
    reader.stdout.close()
    eventually("journalctl is gone", lambda: not psutil.pid_exists(pid))


def test_a_reader_that_does_not_read_makes_journalctl_wait(
    shared: Journal, name: str, follow: Follow
) -> None:
    text = "x" * 1000
    for _ in range(5000):
        shared.write(text, SYSLOG_IDENTIFIER=name)
    log = follow(shared, identifiers=[name])
    assert log.process
    process = psutil.Process(log.process.pid)
    eventually(
        "it waits", lambda: (process.status() == psutil.STATUS_SLEEPING) and process.cpu_times().user > 0
    )
    read = 0
    while read < 5000:
        read += len(log.read(100))
        assert len(log.buffer) < 16 * LONGEST_ENTRY

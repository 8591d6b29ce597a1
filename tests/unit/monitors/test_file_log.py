"""Logs in files, as programs write them and as logrotate(8) rotates them."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import random
import resource
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.errors import Undetermined
from workers.monitors.logs.file import MOST_OPEN, FileLog, Translation
from workers.monitors.logs.rotation import KEPT_UNREAD, MOST_UNREAD
from workers.monitors.logs.source import LONGEST_LINE, FilePlace, Line

BOOT_USEC = int(time.time() - 86400) * 1_000_000
BOOT = datetime.fromtimestamp(BOOT_USEC / 1e6, UTC)
NEVER = -(1 << 62)
KERNEL = ("^.{15}", "Jan _2 15:04:05", r"kernel: \[.*\] (.*)")
DOCKER = (r'"time":"([^"]*)"', "2006-01-02T15:04:05.999999999-07:00", r'"log":"(.*)\\n"')

Follow = Callable[..., FileLog]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    (tmp_path / "log").mkdir()
    return tmp_path / "log/app.log"


@pytest.fixture
def follow(path: Path) -> Iterator[Follow]:
    """Opens logs; closes them."""
    opened: list[FileLog] = []

    def start(place: FilePlace | None = None, **settings: Any) -> FileLog:
        chosen: dict[str, Any] = {"path": path, "since_usec": now_usec(), "boot_usec": BOOT_USEC, **settings}
        opened.append(FileLog(place=place, **chosen))
        return opened[-1]

    yield start
    for log in opened:
        log.close()


@pytest.fixture
def log(path: Path, follow: Follow) -> FileLog:
    """An empty log that is being read."""
    path.touch()
    log = follow()
    assert read(log) == []
    return log


def now_usec() -> int:
    """Now, in microseconds since the boot that these tests pretend."""
    return time.time_ns() // 1000 - BOOT_USEC


def write(path: Path, *texts: str | bytes) -> None:
    """Append what a program writes."""
    with path.open("ab") as file:
        for text in texts:
            file.write(text.encode() if isinstance(text, str) else text)


def rotate(path: Path) -> None:
    """Rename the file to .1, .1 to .2 and so on."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    for higher in range(number, 1, -1):
        path.with_name(f"{path.name}.{higher - 1}").rename(path.with_name(f"{path.name}.{higher}"))
    path.rename(path.with_name(f"{path.name}.1"))


def read(log: FileLog, limit: int = 5000) -> list[bytes]:
    """The texts of all that is there now."""
    texts = [line.text for line in log.read(limit)]
    while log.wake_after() == 0:
        texts += [line.text for line in log.read(limit)]
    return texts


def missing(log: FileLog) -> bool:
    """Whether it says that there is no log."""
    try:
        log.read(10)
    except Undetermined as error:
        return error.reason == "LogNotFound"
    return False


def told(log: FileLog, seconds: float) -> bool:
    """Whether the descriptor is readable, or becomes so in this time."""
    return bool(select.select([log.fileno()], [], [], seconds)[0])


# Where reading begins


def test_a_log_that_was_never_read_is_read_from_its_end(path: Path, follow: Follow) -> None:
    write(path, "old\n")
    log = follow()
    assert read(log) == []
    write(path, "new\n", "newer\n")
    assert read(log) == [b"new", b"newer"]


def test_what_is_written_between_the_start_and_the_first_look_is_no_reason_to_read_all(
    path: Path, follow: Follow
) -> None:
    write(path, "old\n")
    log = follow()
    write(path, "busy\n")
    assert read(log) == []


@pytest.mark.parametrize(
    ("written", "since", "expected"),
    [
        pytest.param(100, 200, [b"old"], id="written since"),
        pytest.param(300, 200, [], id="not written since"),
        pytest.param(200, 200, [b"old"], id="written then"),
    ],
)
def test_how_far_to_look_back_decides_where_to_begin(
    path: Path, follow: Follow, written: int, since: int, expected: list[bytes]
) -> None:
    """`written` and `since` are seconds ago."""
    write(path, "old\n")
    now = int(time.time())
    os.utime(path, (now - written, now - written))
    log = follow(since_usec=(now - since) * 1_000_000 - BOOT_USEC)
    assert read(log) == expected
    write(path, "new\n")
    assert read(log) == [b"new"]


def test_nothing_counts_before_a_time_that_is_yet_to_come(path: Path, follow: Follow) -> None:
    write(path, "old\n")
    log = follow(since_usec=now_usec() + 3600 * 1_000_000)
    assert read(log) == []
    write(path, "new\n")
    assert read(log) == []


def test_a_log_that_does_not_exist_yet_is_read_from_its_beginning(path: Path, follow: Follow) -> None:
    log = follow()
    with pytest.raises(Undetermined, match=f"{path} does not exist; it is read as soon as it does") as caught:
        log.read(10)
    assert caught.value.reason == "LogNotFound"
    assert log.place() is None
    write(path, "first\n")
    assert read(log) == [b"first"]


def test_the_folder_of_a_log_need_not_exist_either(tmp_path: Path, follow: Follow) -> None:
    deep = tmp_path / "a/b/app.log"
    log = follow(path=deep)
    assert missing(log)
    assert log.wake_after() == 0.5
    deep.parent.mkdir(parents=True)
    assert missing(log)
    assert log.wake_after() == 10
    write(deep, "first\n")
    assert told(log, 10)
    assert read(log) == [b"first"]


def test_the_beginning_of_a_line_that_was_there_at_the_start_is_not_lost(path: Path, follow: Follow) -> None:
    write(path, "old\nbeg")
    log = follow()
    assert read(log) == []
    write(path, "un\nnew\n")
    assert read(log) == [b"begun", b"new"]


def test_the_rest_of_a_long_line_that_was_there_at_the_start_is_passed_over(
    path: Path, follow: Follow
) -> None:
    write(path, "old\n" + "x" * 20_000)
    log = follow()
    assert read(log) == []
    write(path, "xx\nnew\n")
    assert read(log) == [b"new"]


def test_of_a_huge_log_that_was_never_read_the_last_part_is_read(path: Path, follow: Follow) -> None:
    huge(path, MOST_UNREAD + 1024)
    log = follow(since_usec=0)
    texts = read(log)
    assert log.lost == 0
    assert texts[-1] == numbered(path.stat().st_size // 1024 - 1)
    assert len(texts) == KEPT_UNREAD // 1024


# Lines


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a\nb\n", [b"a", b"b"], id="two"),
        pytest.param(b"\n\na\n", [b"", b"", b"a"], id="empty"),
        pytest.param(b"a\r\nb\rc\r\r\n", [b"a", b"b\rc\r"], id="carriage returns"),
        pytest.param(b"a\x00b\n\x00\n", [b"a\x00b", b"\x00"], id="NUL"),
        pytest.param(b"\xff\xfe\x80\xc3\n", [b"\xff\xfe\x80\xc3"], id="no UTF-8"),
        pytest.param(
            "ä\u2028ö\x85\x0b\x0c\n".encode(), ["ä\u2028ö\x85\x0b\x0c".encode()], id="no ends of lines"
        ),
        pytest.param(b"x" * LONGEST_LINE + b"\n", [b"x" * LONGEST_LINE], id="just not too long"),
        pytest.param(
            b"x" * LONGEST_LINE + b"\r\n", [b"x" * LONGEST_LINE], id="just not too long with a return"
        ),
        pytest.param(b"x" * LONGEST_LINE + b"y\na\n", [b"x" * LONGEST_LINE, b"a"], id="just too long"),
        pytest.param(b"x" * 1_000_000 + b"\na\n", [b"x" * LONGEST_LINE, b"a"], id="a megabyte"),
        pytest.param(b"a\n" + b"x" * 300_000 + b"\n\n", [b"a", b"x" * LONGEST_LINE, b""], id="across chunks"),
        pytest.param(b"\n" * 300_000, [b""] * 300_000, id="empty ones only"),
    ],
)
def test_lines_are_given_as_they_are(path: Path, log: FileLog, data: bytes, expected: list[bytes]) -> None:
    write(path, data)
    assert read(log) == expected


def test_a_line_waits_for_its_end(path: Path, log: FileLog) -> None:
    for piece in ("a", "b\r", "\nc", "d"):
        write(path, piece)
        assert read(log) == ([b"ab"] if piece == "\nc" else [])
    place = log.place()
    assert place
    assert place.offset == len("ab\r\n")
    write(path, "\n")
    assert read(log) == [b"cd"]


def test_a_long_line_is_given_once_however_it_is_written(path: Path, log: FileLog) -> None:
    seen = []
    for _ in range(50):
        write(path, "x" * 1000)
        seen += read(log)
    write(path, "\nnext\n")
    assert [*seen, *read(log)] == [b"x" * LONGEST_LINE, b"next"]


def test_the_rest_of_a_long_line_is_passed_over_after_a_restart_too(
    path: Path, follow: Follow, log: FileLog
) -> None:
    write(path, "x" * 20_000)
    assert read(log) == [b"x" * LONGEST_LINE]
    again = follow(log.place())
    assert read(again) == []
    write(path, "x" * 20_000, "\nnext\n")
    assert read(again) == [b"next"]


@pytest.mark.parametrize("size", [MOST_UNREAD - 1024, 1 << 30], ids=["as much as is read", "a gigabyte"])
def test_a_line_without_an_end_takes_no_memory(path: Path, log: FileLog, size: int) -> None:
    write(path, "begin\n")
    assert read(log) == [b"begin"]
    tracemalloc.start()
    os.truncate(path, size)
    read(log)
    write(path, "\nnext\n")
    assert read(log)[-1] == b"next"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert log.lost == (1 if size > MOST_UNREAD else 0)


def test_no_more_lines_are_given_than_asked_for(path: Path, log: FileLog) -> None:
    write(path, *(f"{number}\n" for number in range(10)))
    assert [line.text for line in log.read(4)] == [b"0", b"1", b"2", b"3"]
    assert log.wake_after() == 0
    assert [line.text for line in log.read(4)] == [b"4", b"5", b"6", b"7"]
    assert read(log, 4) == [b"8", b"9"]
    assert log.wake_after() == 10


def test_without_a_translation_the_time_is_now(path: Path, follow: Follow) -> None:
    now = BOOT + timedelta(seconds=90)
    path.touch()
    log = follow(since_usec=0, clock=lambda: now)
    write(path, "a\n")
    assert log.read(10) == [Line(b"a", 90_000_000)]


# Rotation


def test_a_renamed_log_is_read_to_its_end_first(path: Path, follow: Follow) -> None:
    write(path, "old\n")
    log = follow(since_usec=NEVER)
    assert read(log) == [b"old"]
    write(path, "last\n")
    rotate(path)
    write(path, "first\n")
    assert read(log) == [b"last", b"first"]


def test_a_line_that_is_never_ended_is_not_glued_to_the_next_file(
    path: Path, follow: Follow, log: FileLog
) -> None:
    write(path, "last\nunfin")
    assert read(log) == [b"last"]
    rotate(path)
    write(path, "first\n")
    assert read(log) == [b"unfin", b"first"]
    assert read(follow(log.place())) == []


def test_a_writer_may_stay_with_the_old_file_for_a_while(path: Path, log: FileLog) -> None:
    """Until it is told to open its log anew, a program writes to the renamed file; the new one is empty meanwhile."""
    with path.open("ab", buffering=0) as file:
        file.write(b"a\n")
        assert read(log) == [b"a"]
        rotate(path)
        path.touch()
        assert read(log) == []
        file.write(b"b\n")
        assert read(log) == [b"b"]
        file.write(b"c\n")
    write(path, "d\n")
    assert read(log) == [b"c", b"d"]


def test_a_log_that_was_rotated_and_compressed_is_read_to_its_end(path: Path, log: FileLog) -> None:
    write(path, "a\n", "b")
    rotate(path)
    first = path.with_name("app.log.1")
    with first.open("rb") as plain, gzip.open(f"{first}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    first.unlink()
    write(path, "c\n")
    assert read(log) == [b"a", b"b", b"c"]


def test_what_followed_a_log_that_is_gone_is_found(path: Path, log: FileLog) -> None:
    rotate(path)
    write(path, "old\n")
    assert read(log) == [b"old"]
    write(path, "a\n")
    rotate(path)
    write(path, "b\n")
    rotate(path)
    path.with_name("app.log.2").unlink()
    write(path, "c\n")
    assert read(log) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("times", [2, 3, MOST_OPEN, 3 * MOST_OPEN])
def test_a_log_may_be_rotated_many_times_between_two_looks(path: Path, follow: Follow, times: int) -> None:
    write(path, "read before\n")
    rotate(path)
    path.touch()
    log = follow()
    assert read(log) == []
    before = descriptors()
    expected = []
    for number in range(times):
        write(path, f"{number}\n", f"rest of {number}")
        expected += [b"%d" % number, b"rest of %d" % number]
        rotate(path)
    write(path, "last\n")
    assert [line.text for line in log.read(1)] == expected[:1]
    assert len(log.files) <= MOST_OPEN
    assert read(log, 7) == [*expected[1:], b"last"]
    assert descriptors() == before


def test_logs_that_are_named_by_the_day_are_read_in_order(path: Path, log: FileLog) -> None:
    for day in ("-20251231", "-20260101", ".2026-01-02", "_20260103-120000", "-1767500000"):
        write(path, f"{day}\n")
        path.rename(f"{path}{day}")
        time.sleep(0.02)
    write(path, "today\n")
    assert read(log) == [
        b"-20251231",
        b"-20260101",
        b".2026-01-02",
        b"_20260103-120000",
        b"-1767500000",
        b"today",
    ]


def test_many_empty_files_hide_nothing(path: Path, log: FileLog) -> None:
    for _ in range(2 * MOST_OPEN):
        rotate(path)
        path.touch()
    write(path, "last\n")
    assert read(log) == [b"last"]


def test_files_that_were_written_at_the_same_time_are_told_apart_by_their_names(
    path: Path, follow: Follow
) -> None:
    write(path, "read before\n")
    rotate(path)
    path.touch()
    log = follow()
    assert read(log) == []
    for number in range(5):
        write(path, f"{number}\n")
        rotate(path)
    write(path, "last\n")
    for file in path.parent.iterdir():
        os.utime(file, (0, 0))
    assert read(log) == [b"0", b"1", b"2", b"3", b"4", b"last"]


def test_other_logs_beside_it_are_left_alone(path: Path, log: FileLog) -> None:
    write(path, "mine\n")
    rotate(path)
    for name in (
        "app.log-errors",
        "app.log2",
        "app.log-2",
        "app.log.1.gz",
        "app.log.old",
        "other.log",
        "app.log.d",
    ):
        write(path.with_name(name), "not mine\n")
    path.with_name("app.log.2").mkdir()
    path.with_name("app.log.3").symlink_to("other.log")
    write(path, "mine, too\n")
    assert read(log) == [b"mine", b"mine, too"]


def test_a_log_that_is_moved_away_is_followed_until_there_is_a_new_one(path: Path, log: FileLog) -> None:
    write(path, "a\n")
    rotate(path)
    assert read(log) == [b"a"]
    write(path.with_name("app.log.1"), "b\n")
    assert told(log, 10)
    assert read(log) == [b"b"]
    write(path, "c\n")
    assert told(log, 10)
    assert read(log) == [b"c"]


def test_a_log_that_is_deleted_is_missed_and_read_again_when_it_is_back(path: Path, log: FileLog) -> None:
    write(path, "a\n", "b")
    place = FilePlace(path.stat().st_ino, 3, b"a\nb".hex())
    path.unlink()
    assert [line.text for line in log.read(10)] == [b"a", b"b"]
    assert log.place() == place
    for _ in range(2):
        assert missing(log)
        assert log.wake_after() == 10
        assert not told(log, 0)
    write(path, "a\n")
    assert told(log, 10)
    assert read(log) == [b"a"]


def test_a_file_that_takes_the_place_of_the_log_is_read(path: Path, log: FileLog) -> None:
    write(path, "a\n")
    other = path.with_name("new")
    write(other, "b\n")
    other.replace(path)
    assert read(log) == [b"a", b"b"]


def test_what_is_rotated_keeps_neither_descriptors_nor_watches(path: Path, log: FileLog) -> None:
    counts = set()
    for number in range(30):
        write(path, f"{number}\n")
        assert read(log) == [b"%d" % number]
        read(log)
        watches = Path(f"/proc/self/fdinfo/{log.fileno()}").read_text().count("inotify wd:")
        counts.add((descriptors(), watches))
        rotate(path)
    assert counts == {(descriptors(), 2)}
    log.close()
    assert counts == {(descriptors() + 2, 2)}


def descriptors() -> int:
    """How many are open in this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


# Emptied in place


def copytruncate(path: Path) -> None:
    """Rotate as logrotate's option of this name does."""
    shutil.copy(path, f"{path}.1")
    os.truncate(path, 0)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"c\n", id="shorter"),
        pytest.param(b"c\nd\n", id="as long"),
        pytest.param(b"c\nd\ne\nf\n", id="longer"),
        pytest.param(b"c" * 5000 + b"\n", id="much longer"),
    ],
)
def test_a_log_that_is_copied_and_emptied_is_read_from_its_beginning(
    path: Path, log: FileLog, after: bytes
) -> None:
    write(path, "a\nb\n")
    assert read(log) == [b"a", b"b"]
    copytruncate(path)
    write(path, after)
    assert read(log) == after.splitlines()
    write(path, "next\n")
    assert read(log) == [b"next"]


def test_an_emptied_log_may_stay_empty_for_a_while(path: Path, log: FileLog) -> None:
    write(path, "a\nb")
    assert read(log) == [b"a"]
    copytruncate(path)
    assert read(log) == []
    write(path, "a\nb\n")
    assert read(log) == [b"a", b"b"]


def test_a_writer_that_does_not_append_leaves_a_hole_when_its_log_is_emptied(
    path: Path, follow: Follow
) -> None:
    with path.open("wb", buffering=0) as file:
        log = follow()
        read(log)
        file.write(b"x" * 99 + b"\n")
        file.write(b"y" * 100_000 + b"\n")
        assert len(read(log)) == 2
        copytruncate(path)
        file.write(b"first\n")
        file.write(b"second\n")
        first, second = read(log)
        assert (first.lstrip(b"\0"), second) == (b"first", b"second")
        file.write(b"third\n")
        assert read(log) == [b"third"]


# Restarts


def test_a_restart_goes_on_where_reading_ended(path: Path, follow: Follow, log: FileLog) -> None:
    write(path, "a\nb\nc")
    assert read(log) == [b"a", b"b"]
    place = log.place()
    assert place == FilePlace(path.stat().st_ino, 4, b"a\nb\n".hex())
    write(path, "c\nd\n")
    assert read(follow(place, since_usec=NEVER)) == [b"cc", b"d"]


def test_a_restart_after_nothing_was_written_misses_nothing(path: Path, follow: Follow) -> None:
    write(path, "old\n")
    log = follow()
    read(log)
    write(path, "new\n")
    assert read(follow(log.place(), since_usec=NEVER)) == [b"new"]


def test_a_place_is_kept_until_the_log_is_there(path: Path, follow: Follow) -> None:
    place = FilePlace(1, 2, "ab")
    log = follow(place)
    assert missing(log)
    assert log.place() == place


@pytest.fixture
def place(path: Path, log: FileLog) -> FilePlace:
    """Behind the line "read" of the log, which is followed by "unread"."""
    write(path, "before the line that was the last to be read\nread\n")
    assert read(log)[-1] == b"read"
    write(path, "unread\n")
    log.close()
    found = log.place()
    assert found
    return found


def renamed(path: Path) -> None:
    """Rotated once."""
    rotate(path)
    write(path, "new\n")


def renamed_twice(path: Path) -> None:
    """Rotated twice."""
    rotate(path)
    write(path, "between\nbegun")
    rotate(path)
    write(path, "new\n")


def renamed_by_hand(path: Path) -> None:
    """Moved to a name that only begins like its own."""
    path.rename(f"{path}.saved")
    write(path, "new\n")


def compressed(path: Path) -> None:
    """Rotated and gone."""
    kept = path.with_name("kept")
    path.rename(kept)
    write(path, "new\n")
    kept.unlink()


def emptied(path: Path) -> None:
    """Emptied and written again."""
    copytruncate(path)
    write(path, "new\n")


def emptied_and_full(path: Path) -> None:
    """Emptied and longer than before."""
    copytruncate(path)
    write(path, *["new\n"] * 100)


def moved_away(path: Path) -> None:
    """Rotated, and there is no new file."""
    rotate(path)


def inode_reused(path: Path) -> None:
    """Another file of other content has the number that the log had."""
    text = path.read_bytes().replace(b"read", b"blue")
    path.write_bytes(text)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(renamed, [b"unread", b"new"], id="renamed"),
        pytest.param(renamed_twice, [b"unread", b"between", b"begun", b"new"], id="renamed twice"),
        pytest.param(renamed_by_hand, [b"unread", b"new"], id="renamed by hand"),
        pytest.param(moved_away, [b"unread"], id="moved away"),
        pytest.param(compressed, [b"new"], id="compressed"),
        pytest.param(emptied, [b"new"], id="emptied"),
        pytest.param(emptied_and_full, [b"new"] * 100, id="emptied and full"),
        pytest.param(
            inode_reused,
            [b"before the line that was the last to be blue", b"blue", b"unblue"],
            id="another file",
        ),
    ],
)
def test_a_restart_finds_what_was_not_read(
    path: Path,
    follow: Follow,
    place: FilePlace,
    change: Callable[[Path], None],
    expected: list[bytes],
) -> None:
    change(path)
    log = follow(place, since_usec=NEVER)
    assert read(log) == expected
    assert read(follow(log.place(), since_usec=NEVER)) == []


def test_a_place_without_what_stands_before_it_is_believed(
    path: Path, follow: Follow, place: FilePlace
) -> None:
    assert read(follow(FilePlace(place.inode, place.offset), since_usec=NEVER)) == [b"unread"]


def test_another_file_with_the_number_of_the_old_one_is_not_taken_for_it(
    path: Path, follow: Follow, place: FilePlace
) -> None:
    other = path.with_name("app.log.1")
    write(other, "x" * 1000)
    rotated = FilePlace(other.stat().st_ino, place.offset, place.tail)
    assert read(follow(rotated, since_usec=NEVER))[-1] == b"unread"
    assert b"x" * 1000 not in read(follow(rotated, since_usec=NEVER))


# Too much


def numbered(number: int) -> bytes:
    """A line of 1,024 bytes with its end, without it."""
    return b"%010d" % number + b"x" * 1013


def huge(path: Path, size: int) -> int:
    """Append lines of 1,024 bytes with their numbers; the number of lines."""
    count = size // 1024
    with path.open("ab") as file:
        for start in range(0, count, 1024):
            file.write(b"".join(numbered(n) + b"\n" for n in range(start, min(count, start + 1024))))
    return count


@pytest.mark.parametrize("extra", [0, 500], ids=["at the end of a line", "within a line"])
def test_of_too_much_the_last_part_is_read_and_the_rest_counted(path: Path, log: FileLog, extra: int) -> None:
    write(path, "x" * extra + "\n")
    assert len(read(log)) == 1
    written = huge(path, MOST_UNREAD + (8 << 20))
    tracemalloc.start()
    first = log.read(100)
    while not first:
        assert log.wake_after() == 0
        first = log.read(100)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert first[0].text == numbered(log.lost)
    texts = [line.text for line in first] + read(log)
    assert log.lost + len(texts) == written
    assert written - KEPT_UNREAD // 1024 <= log.lost <= written - KEPT_UNREAD // 1024 + 1
    assert texts[-1] == numbered(written - 1)
    write(path, "next\n")
    assert read(log) == [b"next"]


def test_a_lot_that_is_not_too_much_is_read(path: Path, log: FileLog) -> None:
    written = huge(path, MOST_UNREAD)
    assert read(log) == [numbered(number) for number in range(written)]
    assert log.lost == 0


# Being told


def test_a_log_is_silent_until_something_happens(path: Path, log: FileLog) -> None:
    assert log.wake_after() == 10
    for action in (
        lambda: write(path, "a\n"),
        lambda: os.truncate(path, 0),
        lambda: rotate(path),
        path.touch,
        lambda: write(path, "b\n"),
        lambda: path.with_name("app.log.1").unlink(),
    ):
        assert not told(log, 0)
        action()
        assert told(log, 10)
        read(log)
    path.unlink()
    assert told(log, 10)
    assert log.read(10) == []
    assert missing(log)
    assert not told(log, 0)


def test_a_log_that_comes_into_being_is_told(path: Path, follow: Follow) -> None:
    log = follow()
    assert missing(log)
    assert not told(log, 0)
    other = path.parent.with_name("other")
    write(other, "a\n")
    assert not told(log, 0)
    other.rename(path)
    assert told(log, 10)
    assert read(log) == [b"a"]


def test_a_log_that_is_missing_is_not_looked_for_all_the_time(path: Path, follow: Follow) -> None:
    log = follow()
    for _ in range(3):
        assert missing(log)
        assert not told(log, 0)
        assert log.wake_after() == 10


def test_without_inotify_the_log_is_looked_at_all_the_time(
    path: Path, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    path.touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        with caplog.at_level(logging.WARNING):
            log = follow()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert log.fileno() is None
    for number in range(3):
        write(path, f"{number}\n")
        assert read(log) == ([str(number).encode()] if number else [])
        assert log.wake_after() == 0.5
        rotate(path)
    assert len(caplog.messages) == 1
    assert f"{path} is looked at every 0.5 s" in caplog.text
    assert os.strerror(errno.EMFILE) in caplog.text


SCARCE = """
import logging, sys, time
from pathlib import Path
from workers.monitors.logs.file import FileLog
logging.basicConfig(format="%(message)s", stream=sys.stdout)
path = Path(sys.argv[1])
log = FileLog(path, None, since_usec=0, boot_usec=0)
for number in range(3):
    path.open("a").write(f"{number}\\n")
    print([line.text for line in log.read(10)], log.wake_after())
"""


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        pytest.param("max_inotify_instances", os.strerror(errno.EMFILE), id="instances"),
        pytest.param("max_inotify_watches", os.strerror(errno.ENOSPC), id="watches"),
    ],
)
def test_a_user_whose_inotify_is_used_up_is_served_all_the_same(path: Path, limit: str, text: str) -> None:
    """In a user namespace these limits are its own; user_namespaces(7)."""
    script = f'echo 0 >/proc/sys/user/{limit} && exec "$0" -c "$1" "$2"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, SCARCE, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"no user namespace: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    warning, *lines = ended.stdout.splitlines()
    assert text in warning
    assert lines == [f"[b'{number}'] 0.5" for number in range(3)]


# What is no log


def bind(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        pytest.param(Path.mkdir, "a folder", id="folder"),
        pytest.param(os.mkfifo, "a FIFO", id="FIFO"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a device", id="device"),
        pytest.param(bind, "a socket", id="socket"),
    ],
)
def test_what_is_no_file_is_not_opened(
    path: Path, follow: Follow, make: Callable[[Path], None], what: str
) -> None:
    make(path)
    log = follow()
    for _ in range(2):
        with pytest.raises(Undetermined, match=f"{path} is {what}, not a file with a log") as caught:
            log.read(10)
        assert caught.value.reason == "LogNotAFile"
    shutil.rmtree(path) if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()
    write(path, "a\n")
    assert read(log) == []
    write(path, "b\n")
    assert read(log) == [b"b"]


def test_a_link_to_a_log_is_followed_to_the_next_one(tmp_path: Path, follow: Follow) -> None:
    """As kubelet does it: the link stays, its target is rotated, and then it points to another folder."""
    folders = [tmp_path / "pod" / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
    link = tmp_path / "container.log"
    link.symlink_to(folders[0] / "0.log")
    log = follow(path=link)
    assert missing(log)
    write(folders[0] / "0.log", "a\n")
    assert told(log, 10)
    assert read(log) == [b"a"]
    write(folders[0] / "0.log", "b\n")
    (folders[0] / "0.log").rename(folders[0] / "0.log.20260101-120000")
    write(folders[0] / "0.log", "c\n")
    (folders[0] / "0.log").rename(folders[0] / "0.log.20260101-120001")
    write(folders[1] / "0.log", "d\n")
    turn(link, folders[1] / "0.log")
    assert read(log) == [b"b", b"c", b"d"]
    write(folders[1] / "0.log", "e\n")
    assert told(log, 10)
    assert read(log) == [b"e"]
    assert read(follow(log.place(), path=link, since_usec=NEVER)) == []


def test_a_log_whose_disk_fails_is_tried_again(tmp_path: Path, follow: Follow) -> None:
    link, good, better = (tmp_path / name for name in ("link", "good", "better"))
    write(good, "old\n")
    link.symlink_to(good)
    log = follow(path=link)
    assert read(log) == []
    write(good, "a\n")
    turn(link, Path("/proc/self/mem"))
    good.unlink()
    # The address 0 of a process can't be read: EIO; proc_pid_mem(5).
    assert [line.text for line in log.read(10)] == [b"a"]
    counts = set()
    for _ in range(3):
        with pytest.raises(Undetermined, match=f"{link} can't be read: Input/output error") as caught:
            log.read(10)
        assert caught.value.reason == "LogUnreadable"
        assert log.wake_after() == 10
        assert not told(log, 0)
        counts.add(descriptors())
    assert len(counts) == 1
    write(better, "b\n")
    turn(link, better)
    assert read(log) == [b"b"]


def turn(link: Path, target: Path) -> None:
    """Let `link` point to `target`, at once."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.rename(link)


@pytest.fixture
def nobody() -> Iterator[Callable[[], None]]:
    """Gives the privileges away until the test ends."""
    before = os.geteuid()
    yield lambda: os.seteuid(65534) if before == 0 else None
    os.seteuid(before)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_log_that_may_not_be_read_is_a_matter_of_permission(
    follow: Follow, nobody: Callable[[], None], closed: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "app.log"
        path.touch(0o000 if closed == "file" else 0o644)
        path.parent.chmod(0o755 if closed == "file" else 0o000)
        log = follow(path=path)
        nobody()
        for _ in range(2):
            with pytest.raises(PermissionError, match="CAP_DAC_READ_SEARCH") as caught:
                log.read(10)
            assert str(caught.value.filename) == str(path)
        os.seteuid(os.getuid())
        path.parent.chmod(0o700)
        path.chmod(0o600)
        assert read(log) == []
        write(path, "a\n")
        assert read(log) == [b"a"]


# Translations


def stamp(when: float) -> str:
    """As a system's log writes it."""
    return time.strftime("%b %e %H:%M:%S", time.localtime(when))


@pytest.mark.parametrize(
    ("translation", "line", "expected"),
    [
        pytest.param(
            KERNEL,
            "May  1 12:23:45 hostname kernel: [0.000000] component: log message",
            "component: log message",
            id="kernel",
        ),
        pytest.param(KERNEL, "May  1 12:23:45 hostname kernel: [9.999999] ", "", id="no text"),
        pytest.param(
            KERNEL, "May  1 12:23:45 hostname kernel: [9.999999 component: log message", None, id="no bracket"
        ),
        pytest.param(KERNEL, "May 32 12:23:45 hostname kernel: [0.000000] x", None, id="no day"),
        pytest.param(KERNEL, "short", None, id="no time"),
        pytest.param(
            (KERNEL[0], KERNEL[1], "kernel: .*"),
            "May  1 12:23:45 host kernel: all",
            "kernel: all",
            id="no group",
        ),
        pytest.param(
            (KERNEL[0], KERNEL[1], "k(x)?(y)?"), "May  1 12:23:45 kx", "", id="a group without a part"
        ),
        pytest.param((KERNEL[0], KERNEL[1], "(k)(x)"), "May  1 12:23:45 kx", "x", id="the last group"),
    ],
)
def test_a_line_is_taken_apart(
    path: Path, follow: Follow, translation: tuple[str, str, str], line: str, expected: str | None
) -> None:
    path.touch()
    log = follow(since_usec=NEVER, translation=Translation(*translation))
    read(log)
    write(path, line + "\n")
    found = log.read(10)
    assert [item.text.decode() for item in found] == ([] if expected is None else [expected])
    assert log.skipped == (expected is None)
    for item in found:
        year = time.localtime().tm_year
        when = time.mktime((year, 5, 1, 12, 23, 45, 0, 0, -1))
        if when > time.time() + 86400:
            when = time.mktime((year - 1, 5, 1, 12, 23, 45, 0, 0, -1))
        assert item.usec == when * 1_000_000 - BOOT_USEC


def test_a_line_of_dockers_is_taken_apart(path: Path, follow: Follow) -> None:
    path.touch()
    log = follow(since_usec=NEVER, translation=Translation(*DOCKER))
    write(path, r'{"log":"a \"b\" c\n","stream":"stderr","time":"2025-10-20T18:58:30.12345678-08:00"}' + "\n")
    when = datetime(2025, 10, 21, 2, 58, 30, 123456, UTC)
    assert log.read(10) == [Line(rb"a \"b\" c", (when - BOOT) // timedelta(microseconds=1))]


@pytest.mark.parametrize("translation", [KERNEL, ("", "", "")], ids=["with times", "without times"])
def test_lines_with_certain_texts_are_passed_over(
    path: Path, follow: Follow, translation: tuple[str, str, str]
) -> None:
    path.touch()
    skip = (b" audit:", b" kubelet:", b"\xff")
    log = follow(since_usec=NEVER, translation=Translation(*translation, skip))
    for name in ("kernel", "audit", "kubelet", "\xff", "auditor"):
        write(path, f"{stamp(time.time())} host {name}: kernel: [0.0] {name}\n".encode("latin-1"))
    assert [text.rpartition(b" ")[2] for text in read(log)] == [b"kernel", b"auditor"]
    assert log.skipped == 0


@pytest.mark.parametrize(
    ("uptime", "lookback", "delay"),
    [(0, 0, 0), (5, 7, 0), (5, 3, 0), (5, 0, 7), (5, 0, 3), (10, 6, 12), (10, 12, 7), (10, 6, 7), (10, 2, 7)],
)
def test_lines_from_before_the_start_are_dropped(
    path: Path, follow: Follow, uptime: int, lookback: int, delay: int
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    boot = now - timedelta(seconds=uptime)
    start = max(delay, uptime - lookback)
    for second in range(-5, 20):
        write(path, f"{(boot + timedelta(seconds=second)).isoformat()} {second}\n")
    log = follow(
        since_usec=start * 1_000_000,
        boot_usec=int(boot.timestamp()) * 1_000_000,
        translation=Translation(r"^\S+", "2006-01-02T15:04:05Z07:00", r" (.*)"),
        clock=lambda: now,
        place=FilePlace(0, 0),
    )
    assert log.read(100) == [Line(b"%d" % s, s * 1_000_000) for s in range(start, 20)]


def test_the_second_in_which_reading_begins_counts(path: Path, follow: Follow) -> None:
    path.touch()
    now = datetime.now(UTC).replace(microsecond=700_000)
    log = follow(
        since_usec=(now - BOOT) // timedelta(microseconds=1),
        translation=Translation(*KERNEL),
        clock=lambda: now,
    )
    read(log)
    write(path, f"{stamp(now.timestamp() - 1)} kernel: [] before\n{stamp(now.timestamp())} kernel: [] now\n")
    assert read(log) == [b"now"]


def test_lines_of_last_year_are_not_taken_for_lines_of_this_one(path: Path, follow: Follow) -> None:
    now = datetime(2026, 1, 10, 12, tzinfo=UTC)
    boot = now - timedelta(days=1)
    write(path, "Dec 31 23:00:00 kernel: [] last year\nJan 10 11:00:00 kernel: [] this year\n")
    log = follow(
        since_usec=0,
        boot_usec=int(boot.timestamp()) * 1_000_000,
        translation=Translation(*KERNEL),
        clock=lambda: now,
    )
    assert read(log) == [b"this year"]


def test_what_kubernetes_tests_of_a_log_in_a_file(path: Path, follow: Follow) -> None:
    """The lines of test/e2e_node/node_problem_detector_linux.go, as far as the log itself is concerned."""
    path.touch()
    log = follow(since_usec=0, translation=Translation(*KERNEL))
    now, boot = time.time(), BOOT_USEC / 1e6
    expected = []
    for when, text, times in (
        (boot - 60, "temporary error", 3),
        (boot - 60, "permanent error 1", 1),
        (now, "temporary error", 3),
        (now, "permanent error 1", 1),
        (now + 300, "temporary error", 3),
        (now, "permanent error 1different message", 1),
        (now, "permanent error 2", 1),
    ):
        write(path, *[f"{stamp(when)} kernel: [0.000000] {text}\n"] * times)
        expected += [text.encode()] * times if when > boot else []
        seen = read(log)
        assert seen == ([text.encode()] * times if when > boot else [])
    assert log.skipped == 0


@pytest.mark.parametrize(
    "arguments", [("(", "Jan _2 15:04:05", "x"), ("x", "no layout", "x"), ("x", "Jan _2 15:04:05", "(?=x)")]
)
def test_a_translation_that_can_not_be_is_refused(arguments: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match=r"RE2 can't take|does not tell a time"):
        Translation(*arguments)


# Everything together

WRITER = """
import os, sys
path, count, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = open(path, "ab", buffering=0)
for number in range(count):
    file.write(b"%d" % number)
    file.write(b" text\\n" if number % 3 else b"\\r\\n")
    if number % every == every - 1:
        for older in range(count // every, 0, -1):
            if os.path.exists(f"{path}.{older}"):
                os.rename(f"{path}.{older}", f"{path}.{older + 1}")
        os.rename(path, path + ".1")
        if number // every % 2:
            open(path, "ab").close()
        file.write(b"late %d\\n" % number)
        file = open(path, "ab", buffering=0)
"""


@pytest.mark.parametrize("every", [1500, 60])
def test_a_program_that_writes_and_rotates_all_the_time_is_read_completely(
    path: Path, log: FileLog, every: int
) -> None:
    count = 10_000
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(count), str(every)])
    seen: list[bytes] = []
    while not seen or seen[-1].split()[0] != b"%d" % (count - 1):
        assert told(log, 30)
        seen += read(log, 1000)
    assert writer.wait() == 0
    expected = []
    for number in range(count):
        expected.append(b"%d text" % number if number % 3 else b"%d" % number)
        if number % every == every - 1:
            expected.append(b"late %d" % number)
    assert seen == expected


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_line_is_read_once_and_in_order(
    path: Path, follow: Follow, log: FileLog, seed: int
) -> None:
    chance = random.Random(seed)
    written: list[bytes] = []
    seen: list[bytes] = []
    begun = b""
    for step in range(150):
        action = chance.choice(
            ["line", "line", "lines", "part", "rotate", "read", "read", "restart", "compress"]
        )
        if action in ("line", "lines"):
            for number in range(1 if action == "line" else chance.randrange(400)):
                text = b"%d.%d %b" % (
                    step,
                    number,
                    chance.randbytes(chance.randrange(60)).translate(None, b"\r\n"),
                )
                write(path, text + chance.choice([b"\n", b"\r\n"]))
                written.append(begun + text)
                begun = b""
        elif action == "part":
            part = b"part %d" % step
            write(path, part)
            begun += part
        elif action == "rotate":
            rotate(path)
            written += [begun] if begun else []
            begun = b""
            path.touch()
        elif action == "read":
            seen += [line.text for line in log.read(chance.randrange(1, 200))]
        elif action == "restart":
            place = log.place()
            log.close()
            log = follow(place, since_usec=NEVER)
        else:
            seen += read(log)
            oldest = sorted(path.parent.glob("app.log.*"), key=lambda file: int(file.suffix[1:]))[-1:]
            for file in oldest:
                file.unlink()
            seen += read(log)
    write(path, b"end\n")
    assert seen + read(log) == [*written, begun + b"end"]

"""A log in a file, which may be rotated: renamed, or emptied where it is; logrotate(8)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from nodedoctor.errors import Undetermined
from nodedoctor.patterns import compile_pattern
from nodedoctor.types import utc_now
from workers.monitors.logs.inotify import FILE, FOLDER, Inotify
from workers.monitors.logs.rotation import (
    KEPT_UNREAD,
    MOST_UNREAD,
    LogFile,
    find,
    identity,
    reopened,
    rotated_between,
)
from workers.monitors.logs.source import FilePlace, Line, Source
from workers.monitors.logs.timestamps import Layout

CHUNKS_AT_ONCE = 64
"""What one `read` looks at, at most: 16 MiB."""
MOST_OPEN = 8
LOOK_EVERY = 0.5
LOOK_AGAIN = 10.0
"""Seconds after which to look even if nothing was told: a network's file system does not tell everything."""
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

logger = logging.getLogger(__name__)


class Translation:
    """What the lines of a file say of their time, and what their message is, as Node Problem Detector reads them."""

    def __init__(self, timestamp: str, layout: str, message: str, skip: Sequence[bytes] = ()) -> None:
        """Compile it.

        Args:
            timestamp: A pattern (RE2) whose last group, or all of it, is the time.
            layout: How the time is written, in terms of Go. Empty, like both patterns: all of a line is its message.
            message: A pattern whose last group, or all of it, is the message.
            skip: Lines with one of these in them are passed over.

        Raises:
            ValueError: a pattern or the layout can't be used.
        """
        self.skip = skip
        self.layout = Layout(layout) if layout else None
        self.timestamp, self.message = last_group(timestamp), last_group(message)
        self.latest: tuple[bytes, int] = (b"", 0)

    def skips(self, raw: bytes) -> bool:
        """Whether nothing more is to be done with this line."""
        return any(text in raw for text in self.skip)

    def read(self, raw: bytes, now: datetime) -> tuple[int, bytes]:
        """The time of a line, in microseconds since 1970, and its message.

        Raises:
            ValueError: it has none.
        """
        if not self.layout:
            return (now - EPOCH) // MICROSECOND, raw
        timestamp, message = self.timestamp(raw), self.message(raw)
        if timestamp is None or message is None:
            raise ValueError("no time or no message was found")
        if timestamp != self.latest[0]:
            self.latest = timestamp, (self.layout.parse(timestamp, now) - EPOCH) // MICROSECOND
        return self.latest[1], message


def last_group(pattern: str) -> Callable[[bytes], bytes | None]:
    """A function that gives what the last group of `pattern`, or all of it, is in a text; None: it does not match."""
    expression = compile_pattern(pattern)
    group = expression.groups

    def find(text: bytes) -> bytes | None:
        match = expression.search(text)
        if match is None:
            return None
        start, end = match.span(group)
        return text[start:end]

    return find


class FileLog(Source):
    """Follows a file by its name. Times are those of the lines if there is a translation, else when they were read."""

    def __init__(
        self,
        path: Path,
        place: FilePlace | None,
        *,
        since_usec: int,
        boot_usec: int,
        translation: Translation | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Prepare to read. The file is opened by `read`, and need not exist before.

        Args:
            path: The log.
            place: Where to go on. None: a file that was written since `since_usec` is read from its beginning,
                another one from its end; if that is less than a second ago, every one from its end.
            since_usec: Older lines are dropped, to the second; in microseconds since boot.
            boot_usec: When the machine booted by its wall clock, in microseconds since 1970.
            translation: How lines are read.
            clock: The wall clock.
        """
        self.path, self.last_place = path, place
        # Most logs tell a time to the second, rounded down.
        self.since_usec = (boot_usec + since_usec) // SECOND * SECOND - boot_usec
        self.boot_usec, self.translation, self.clock = boot_usec, translation, clock
        self.looks_back = since_usec <= self.usec(clock()) - SECOND
        self.files: deque[LogFile] = deque()
        self.has_entered = self.more = self.is_watched = self.warned = False
        self.inotify: Inotify | None = None
        try:
            self.inotify = Inotify()
        except OSError as error:
            self.warn(error)

    def fileno(self) -> int | None:
        """Tells of changes to the file and to its folder."""
        return self.inotify.descriptor if self.inotify else None

    def wake_after(self) -> float:
        """At once when there is more, else now and then."""
        if self.more:
            return 0.0
        return LOOK_AGAIN if self.is_watched else LOOK_EVERY

    def place(self) -> FilePlace | None:
        """Behind the last line, in the file that it stood in."""
        return self.files[0].place() if self.files else self.last_place

    def read(self, limit: int) -> list[Line]:
        """The next lines. A file that was rotated is read to its end before the one that followed it.

        Raises:
            PermissionError: a file may not be read.
            Undetermined: there is none (LogNotFound), it is no file (LogNotAFile), or reading fails (LogUnreadable).
        """
        now = self.clock()
        self.more = False
        try:
            self.look()
            texts = self.texts(limit)
        except PermissionError as error:
            error.strerror = f"{error.strerror}: reading it needs CAP_DAC_READ_SEARCH or a group that may"
            raise
        except OSError as error:
            raise Undetermined(f"{self.path} can't be read: {error.strerror}", "LogUnreadable") from error
        return self.translated(texts, now) if self.translation else self.stamped(texts, now)

    def close(self) -> None:
        """Let go of the files."""
        self.let_go()
        if self.inotify:
            self.inotify.close()
            self.inotify = None

    def stamped(self, texts: list[bytes], now: datetime) -> list[Line]:
        """Lines of now."""
        usec = self.usec(now)
        return [Line(text, usec) for text in texts] if usec >= self.since_usec else []

    def translated(self, texts: list[bytes], now: datetime) -> list[Line]:
        """Lines as they tell of themselves, without those that are to be left out."""
        assert self.translation
        lines = []
        for text in texts:
            if self.translation.skips(text):
                continue
            try:
                when, message = self.translation.read(text, now)
            except ValueError:
                self.skipped += 1
                continue
            if when - self.boot_usec >= self.since_usec:
                lines.append(Line(message, when - self.boot_usec))
        return lines

    def usec(self, when: datetime) -> int:
        """Microseconds since boot."""
        return (when - EPOCH) // MICROSECOND - self.boot_usec

    def texts(self, limit: int) -> list[bytes]:
        """The next lines as they stand in the files.

        Raises:
            OSError: reading fails, and has given no line before.
        """
        texts: list[bytes] = []
        self.more, is_full = True, self.is_full
        try:
            for _ in range(CHUNKS_AT_ONCE):
                if not self.more or not self.files or len(texts) >= limit:
                    break
                texts += self.next_texts(limit - len(texts))
        except OSError:
            # It is opened anew by its name: it may be another one by now, on another disk.
            self.let_go()
            self.more = bool(texts)
            if not texts:
                raise
        # There may be files for which there was no room.
        self.more = self.more or is_full
        return texts

    def next_texts(self, limit: int) -> list[bytes]:
        """The lines that are found next at once; `more` says whether there may be some behind them."""
        file = self.files[0]
        if file.lags():
            self.lost += file.skip()
            return []
        # Asked before it is read: what its writer wrote before it went over to the next file is found now.
        ended = self.has_ended(file)
        before = file.offset, file.tail
        texts = file.take(limit)
        if texts or before != (file.offset, file.tail):
            return texts
        if not ended:
            self.more = False
            return []
        texts = file.take_unfinished()
        self.last_place = file.place()
        self.files.popleft().close()
        self.is_watched = False
        return texts

    @property
    def is_full(self) -> bool:
        """Whether as many files are open as may be."""
        return len(self.files) >= MOST_OPEN

    def has_ended(self, file: LogFile) -> bool:
        """Whether nobody writes to the oldest file any more: it is deleted, or what followed it is written to.

        A program may write to a renamed file until it is told to open its log again. When there are many newer ones,
        it has been told.
        """
        newer = islice(self.files, 1, None)
        return file.status.st_nlink == 0 or self.is_full or any(later.status.st_size for later in newer)

    def look(self) -> None:
        """Open what has become the log, and be told of what is to come.

        Raises:
            OSError: it can't be opened.
            Undetermined: it is no file, or there is none.
        """
        opened = True
        while opened:
            if not self.files or not self.is_watched:
                self.watch()
            if self.inotify:
                self.inotify.drain()
            opened = not self.is_full and self.open_new()
        if not self.files:
            raise Undetermined(f"{self.path} does not exist; it is read as soon as it does", "LogNotFound")

    def watch(self) -> None:
        """Be told of changes to what is open, and to the folders of its names."""
        if not self.inotify:
            return
        targets = {str(path.parent): FOLDER for path in (self.path, self.own_path())}
        targets |= {f"/proc/self/fd/{file.descriptor}": FILE for file in self.files}
        self.is_watched = False
        try:
            self.inotify.watch(targets)
            self.is_watched = True
        except FileNotFoundError:
            # Its folder does not exist yet.
            return
        except OSError as error:
            self.warn(error)

    def open_new(self) -> bool:
        """Open the file that has the name now, and before it those that had it since the last look, if any had."""
        current = self.current()
        count = len(self.files)
        try:
            # It may be rotated once more just now; then the next look, of which that tells us, finds the rest.
            with contextlib.suppress(FileNotFoundError):
                if not self.files:
                    self.enter(current)
                if current:
                    self.follow(current)
        finally:
            if current and current not in self.files:
                current.close()
            self.is_watched = self.is_watched and len(self.files) == count
        return len(self.files) > count

    def current(self) -> LogFile | None:
        """The file that has the name now, opened. None: there is no such file, or it is open already."""
        try:
            if self.files and self.files[-1].identity == identity(self.path.stat()):
                return None
            return LogFile(self.path, self.own_path())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def own_path(self) -> Path:
        """The path of the log without links."""
        return Path(os.path.realpath(self.path))

    def enter(self, current: LogFile | None) -> None:
        """Find where to begin: in `current`, or in a file that was the log before it."""
        place = self.last_place
        if current and place and current.identity[1] == place.inode:
            current.resume(place)
        elif place:
            older = find(self.own_path(), place)
            self.files.extend([older] if older else [])
        elif current and not self.has_entered:
            self.begin(current)
        self.has_entered = True

    def begin(self, current: LogFile) -> None:
        """Set out in a log that was never read."""
        status = current.status
        if not self.looks_back or status.st_mtime_ns // 1000 - self.boot_usec < self.since_usec:
            current.go_to_last_line()
        elif status.st_size > MOST_UNREAD:
            current.go_to(status.st_size - KEPT_UNREAD)

    def follow(self, current: LogFile) -> None:
        """Put `current` behind what is open, and between them what was the log in between.

        Raises:
            OSError: one of these can't be opened.
        """
        room = MOST_OPEN - len(self.files)
        between = rotated_between(self.files[-1], current) if self.files else []
        for path, known in between[:room]:
            self.files.append(reopened(path, known, self.files[-1].log))
        if len(between) < room:
            self.files.append(current)

    def let_go(self) -> None:
        """Close the files."""
        self.last_place = self.place()
        while self.files:
            self.files.pop().close()

    def warn(self, error: OSError) -> None:
        """Say once that the file is looked at all the time."""
        if not self.warned:
            why = f"inotify can't be had ({error.strerror})"
            logger.warning("%s is looked at every %g s: %s", self.path, LOOK_EVERY, why)
        self.warned = True

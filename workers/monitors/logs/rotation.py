"""The file that a log is in, and those that it was in before: renamed, or emptied where it was; logrotate(8)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from nodedoctor.errors import Undetermined
from workers.monitors.logs.source import LONGEST_LINE, FilePlace

CHUNK = 1 << 18
MOST_UNREAD = 64 << 20
"""When more bytes than this are unread, all but the last KEPT_UNREAD are passed over."""
KEPT_UNREAD = 32 << 20
LOOKS = 10
TAIL = 32
"""Bytes before the place that must be those that were read."""
ROTATED = re.compile(r"\.(\d{1,4})|[-._]\d{4}-?\d\d[-\dT:._]*")
"""What stands behind the name of a log that was rotated: .1, -20260131, .2026-01-31."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LogFile:
    """A file that is the log or was it, kept open, so that it can be read to its end when its name is gone.

    Attributes:
        offset: Where the next line begins.
    """

    def __init__(self, path: Path, log: Path) -> None:
        """Open the file `path`, which is the log `log` (by its own name: no link) or was rotated from it.

        Raises:
            OSError: it can't be opened.
            Undetermined: it is no file; then it is not opened.
        """
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind in KINDS:
            raise Undetermined(f"{path} is {KINDS[kind]}, not a file with a log", "LogNotAFile")
        self.log = log
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        self.identity = identity(self.status)
        self.offset, self.tail, self.within_line, self.skip_to = 0, b"", False, 0

    @property
    def status(self) -> os.stat_result:
        """Its present state; fstat(2)."""
        return os.fstat(self.descriptor)

    def place(self) -> FilePlace:
        """Where its next line begins."""
        return FilePlace(self.identity[1], self.offset, self.tail.hex())

    def go_to(self, offset: int) -> None:
        """Go on at `offset`, or at the beginning if it is not that long (any more)."""
        length = min(offset, TAIL)
        tail = os.pread(self.descriptor, length, offset - length)
        self.offset, self.tail = (offset, tail) if len(tail) == length else (0, b"")
        # Zeros are a hole, see `rewind`, and what follows it is no rest of a line.
        self.within_line = bool(self.tail.strip(b"\0")) and not self.tail.endswith(b"\n")

    def go_to_last_line(self) -> None:
        """Go on at the end; what stands there without a newline is yet to become a line."""
        start = max(0, self.status.st_size - LONGEST_LINE)
        self.go_to(start + os.pread(self.descriptor, LONGEST_LINE, start).rfind(b"\n") + 1)

    def resume(self, place: FilePlace) -> bool:
        """Go on at `place` if what was read is what stands before it; else at the beginning."""
        self.go_to(place.offset)
        known = self.offset == place.offset and self.tail.hex().endswith(place.tail)
        if not known:
            self.rewind()
        return known

    def rewind(self) -> None:
        """Go on at the beginning, behind the hole that is there when a writer did not notice that it was emptied."""
        self.go_to(0)
        if os.pread(self.descriptor, 1, 0) == b"\0":
            self.go_to(os.lseek(self.descriptor, 0, os.SEEK_DATA))

    def take(self, limit: int) -> list[bytes]:
        """The next lines, as many as are found at once; nothing and an unchanged offset: there are none yet."""
        data = self.ahead()
        if self.within_line:
            rest, newline, data = data.partition(b"\n")
            self.advance(rest + newline)
            self.within_line = not newline
        texts = data.split(b"\n", limit)
        rest = texts.pop()
        if len(rest) > LONGEST_LINE and len(texts) < limit:
            texts.append(rest)
            rest, self.within_line = b"", True
        self.advance(data[: len(data) - len(rest)])
        return cleaned(texts)

    def take_unfinished(self) -> list[bytes]:
        """What the file ends with if that is no newline: nobody is going to write the rest of this line."""
        rest = self.ahead()
        self.advance(rest)
        return cleaned([rest] if rest else [])

    def ahead(self) -> bytes:
        """The next bytes. If those before are not the ones that were read, it was emptied: from its beginning."""
        data = os.pread(self.descriptor, len(self.tail) + CHUNK, self.offset - len(self.tail))
        if not data.startswith(self.tail):
            self.rewind()
            data = os.pread(self.descriptor, len(self.tail) + CHUNK, self.offset - len(self.tail))
        return data[len(self.tail) :]

    def advance(self, data: bytes) -> None:
        """Go on behind `data`, which is what comes next."""
        self.offset += len(data)
        self.tail = (self.tail + data[-TAIL:])[-TAIL:]

    def lags(self) -> bool:
        """Whether so much is unread that lines are to be passed over."""
        size = self.status.st_size
        if size - self.offset > MOST_UNREAD:
            self.skip_to = size - KEPT_UNREAD
        return self.offset < self.skip_to <= size

    def skip(self) -> int:
        """Pass over a chunk on the way to where reading is to go on, and count the lines that began in it."""
        data = self.ahead()[: self.skip_to - self.offset]
        lines = data.count(b"\n") - self.within_line
        self.advance(data)
        self.within_line = not data.endswith(b"\n")
        return lines + self.within_line

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def cleaned(lines: list[bytes]) -> list[bytes]:
    """Lines without a carriage return at their ends, and not longer than they may be."""
    return [line.removesuffix(b"\r")[:LONGEST_LINE] for line in lines]


def identity(status: os.stat_result) -> tuple[int, int]:
    """What no other file has at the same time: its disk and its number there; inode(7)."""
    return status.st_dev, status.st_ino


def beside(log: Path) -> dict[Path, os.stat_result]:
    """The files next to `log` whose names begin with its own.

    logrotate(8) renames one after the other, and who looks meanwhile may miss one or see one twice: so until two
    looks agree.

    Raises:
        FileNotFoundError: they do not.
    """
    found = look_beside(log)
    for _ in range(LOOKS):
        before, found = found, look_beside(log)
        if list(map(identity, before.values())) == list(map(identity, found.values())):
            return found
    raise FileNotFoundError(errno.ENOENT, "its files are renamed all the time", str(log))


def look_beside(log: Path) -> dict[Path, os.stat_result]:
    """What `beside` gives, seen once."""
    found = {}
    # A folder whose names may be used but not listed tells nothing; it, or a file in it, may be gone by now.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for entry in sorted(os.scandir(log.parent), key=lambda entry: entry.name):
            if entry.name.startswith(log.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    found[Path(entry.path)] = entry.stat(follow_symlinks=False)
    return found


def find(log: Path, place: FilePlace) -> LogFile | None:
    """The file that `place` is in, open there, whatever its name is now.

    Raises:
        OSError: it can't be opened; FileNotFoundError: files are renamed just now.
    """
    for path, status in beside(log).items():
        if status.st_ino == place.inode:
            file = reopened(path, identity(status), log)
            if file.resume(place):
                return file
            file.close()
    return None


def rotated_between(older: LogFile, newer: LogFile) -> list[tuple[Path, tuple[int, int]]]:
    """The files that were the log after `older` and before `newer`, the oldest first, and their identities.

    Raises:
        FileNotFoundError: files are renamed just now.
    """
    found = []
    for path, status in beside(older.log).items():
        suffix = ROTATED.fullmatch(path.name, len(older.log.name))
        if suffix:
            # Those that were written at the same time are told apart by their names: log.2 was before log.1.
            found.append((status.st_mtime_ns, -int(suffix[1] or 0), path, identity(status)))
    found.sort()
    known = [known for *_, known in found]
    if older.identity in known:
        start = known.index(older.identity) + 1
    else:
        start = sum(modified <= older.status.st_mtime_ns for modified, *_ in found)
    end = known.index(newer.identity) if newer.identity in known else len(found)
    return [(path, its) for _, _, path, its in found[start:end]]


def reopened(path: Path, known: tuple[int, int], log: Path) -> LogFile:
    """Open what was seen under this name.

    Raises:
        OSError: it can't be opened; FileNotFoundError: by now the name is that of another file.
    """
    file = LogFile(path, log)
    if file.identity != known:
        file.close()
        raise FileNotFoundError(errno.ENOENT, "it was renamed just now", str(path))
    return file

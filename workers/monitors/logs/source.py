"""What every log is to the monitor that reads it: lines in order, and a place to go on from after a restart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

LONGEST_LINE = 8192
"""Bytes of a line that are looked at; the rest of a longer one is passed over."""


class Line(NamedTuple):
    """One line of a log.

    Attributes:
        text: Its bytes without the line's end, at most LONGEST_LINE.
        usec: When it was written, in microseconds since boot; negative for a line from before.
        fields: What the log tells of the line besides, for messages and labels: unit, identifier, level...
        details: What the kernel's log has below the text, as it stands there: each line begins with a blank.
    """

    text: bytes
    usec: int
    fields: Mapping[str, str] = {}
    details: bytes = b""


class KmsgPlace(msgspec.Struct, frozen=True, tag="kmsg"):
    """The number of the last record that was read."""

    seq: int


class JournalPlace(msgspec.Struct, frozen=True, tag="journal"):
    """The journal's own cursor of the last entry that was read."""

    cursor: str


class FilePlace(msgspec.Struct, frozen=True, tag="file"):
    """Where reading goes on in the file with this inode; `tail` are the last bytes before, as hexadecimal digits."""

    inode: int
    offset: int
    tail: str = ""


Place = KmsgPlace | JournalPlace | FilePlace


class Source(ABC):
    """A log that is being read. None of its methods waits for lines.

    Attributes:
        lost: Lines that are known to have been there and could not be read any more.
        skipped: Lines in which no time or no message was found, where these had to be.
    """

    lost: int = 0
    skipped: int = 0

    @abstractmethod
    def fileno(self) -> int | None:
        """A descriptor that is readable when there may be new lines; None: there is none, `read` is called at a pace."""

    @abstractmethod
    def read(self, limit: int) -> list[Line]:
        """The next lines in their order, at most about `limit`; an empty list when there are none now.

        Raises:
            Undetermined: the log can't be read at present; reading may be tried again later.
            PermissionError: likewise, for want of a privilege, which its text names.
        """

    @abstractmethod
    def place(self) -> Place | None:
        """Where a later process is to go on: behind the last line that `read` gave. None: nothing was read yet."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def wake_after(self) -> float | None:
        """Seconds until `read` is to be called even if `fileno` is silent; None: that is not needed."""
        return None

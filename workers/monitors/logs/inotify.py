"""Tells when files or folders change: inotify(7)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
FILE = IN_MODIFY | IN_ATTRIB
"""It was written, emptied, or lost its last name."""
FOLDER = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
"""A name in it came, went, or changed."""
EVENTS_AT_ONCE = 1 << 16

LIBC = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """A descriptor that is readable once something has happened; what it was is for its owner to look."""

    def __init__(self) -> None:
        """Make one.

        Raises:
            OSError: EMFILE, the user or the process has too many.
        """
        self.descriptor = checked(LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self.watches: set[int] = set()

    def watch(self, targets: Mapping[str, int]) -> None:
        """Watch these paths for these events (FILE, FOLDER), and no others any more.

        Raises:
            OSError: a path does not exist, may not be read, or is one too many for the user (ENOSPC).
        """
        before, self.watches = self.watches, set()
        try:
            for path, events in targets.items():
                number = LIBC.inotify_add_watch(self.descriptor, os.fsencode(path), events)
                self.watches.add(checked(number))
        finally:
            for number in before - self.watches:
                # The kernel takes the watch of a file that is gone away by itself: then this one fails.
                LIBC.inotify_rm_watch(self.descriptor, number)

    def drain(self) -> None:
        """Make it silent until something happens again."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, EVENTS_AT_ONCE):
                pass

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def checked(result: int) -> int:
    """What a call of the C library gave, unless it failed.

    Raises:
        OSError: it did.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

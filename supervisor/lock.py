"""Locks that end with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodedoctor.errors import AlreadyRunningError


@contextmanager
def locked(path: Path, who: str) -> Iterator[None]:
    """Hold the lock file `path`, with this process's id in it; flock(2).

    Raises:
        AlreadyRunningError: `who`, as the file tells, holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            msg = f"{path.parent}: {who} (pid {holder}) runs there already; stop it, or give this one its own --run-dir"
            raise AlreadyRunningError(msg) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)

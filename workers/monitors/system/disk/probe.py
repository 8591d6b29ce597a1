"""Whether a file can really be written."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nodedoctor.monitor import ConditionType, Finding
from workers.monitors.system.disk.space import INODES_LOW, SPACE_LOW

READ_ONLY = ConditionType("DiskReadOnly", reason="FilesystemIsReadOnly", ok_reason="FilesystemsWritable")
WRITE_FAILED = ConditionType(
    "DiskWriteFailed",
    reason="WriteFailed",
    ok_reason="WritesSucceed",
    reasons=("WriteFailed", "InputOutputError"),
)
CONTENT = bytes(4096)


def probe(path: str, folder: Path, *, hidden: bool) -> Iterator[Finding]:
    """Write and sync a file without a name in `folder`, which the node calls `path`; it is gone at once.

    Args:
        path: What to call it.
        folder: Where it is.
        hidden: A refusal as read-only may come from the agent's own container.
    """
    try:
        write(folder)
    except OSError as error:
        yield refusal(path, folder, error, hidden=hidden)


def write(folder: Path) -> None:
    """Write and sync; open(2), O_TMPFILE."""
    with tempfile.TemporaryFile(dir=folder, prefix=".node-doctor-", buffering=0) as file:
        file.write(CONTENT)
        os.fsync(file.fileno())


def refusal(path: str, folder: Path, error: OSError, *, hidden: bool) -> Finding:
    """What the `error` of a write says."""
    text = f"{path} refuses a write: {error.strerror}"
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
        return WRITE_FAILED.unknown(
            f"{text}; writeProbe needs a folder that the agent may write to", "NoProbe"
        )
    if error.errno == errno.EROFS and hidden:
        return WRITE_FAILED.unknown(
            f"{path} is mounted read-only into the agent's container; writeProbe needs it writable", "NoProbe"
        )
    if error.errno == errno.EROFS:
        return READ_ONLY.when(True, text)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return no_room(folder, error, text)
    return WRITE_FAILED.when(True, text, "InputOutputError" if error.errno == errno.EIO else "")


def no_room(folder: Path, error: OSError, text: str) -> Finding:
    """What was used up: a quota, the inodes or the space."""
    if error.errno == errno.EDQUOT:
        return SPACE_LOW.when(True, text, "QuotaExhausted")
    status = os.statvfs(folder)
    if status.f_files and not status.f_favail:
        return INODES_LOW.when(True, text)
    return SPACE_LOW.when(True, text, "NoSpaceLeft")

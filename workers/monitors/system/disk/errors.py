"""The errors that a file system has met."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodedoctor.monitor import ConditionType, Gauge, Observation
from nodedoctor.types import Severity

ERRORS = ConditionType(
    "FilesystemErrors",
    reason="ErrorsRecorded",
    ok_reason="NoErrorsRecorded",
    severity=Severity.WARNING,
)
COUNT = Gauge(
    "disk_filesystem_errors", "Errors that the file system has recorded since it was last checked", ("path",)
)


def recorded(path: str, device: str, sys: Path) -> Iterator[Observation]:
    """What ext4 has recorded of the file system of `path` on `device` (major:minor); others record nothing there.

    Source: https://docs.kernel.org/admin-guide/abi-testing.html, /sys/fs/ext4/<disk>/errors_count. The number is on the
    disk and stays until e2fsck(8) has looked.
    """
    block = (sys / "dev/block" / device).resolve().name
    try:
        count = int((sys / "fs/ext4" / block / "errors_count").read_text())
    except FileNotFoundError:
        return
    yield COUNT(count, path=path)
    yield ERRORS.when(
        count > 0, f"the file system of {path} has recorded errors; e2fsck must check it unmounted"
    )

"""How far a log was read and what it has said: kept on disk, so that a restart neither repeats nor misses a line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from workers.monitors.logs.memory import Latched
from workers.monitors.logs.source import FilePlace, JournalPlace, KmsgPlace

logger = logging.getLogger(__name__)


class Position(msgspec.Struct, frozen=True):
    """Where reading `log` goes on; what its lines have set in the boot `boot`, how often rules matched, by second."""

    log: str
    boot: str
    place: KmsgPlace | JournalPlace | FilePlace | None
    latched: tuple[Latched, ...] = ()
    counts: dict[str, dict[int, int]] = {}


def boot_id(proc: Path) -> str:
    """The running boot; random(4)."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def boot_usec(proc: Path) -> int:
    """When the machine booted, in microseconds of the wall clock, to the second; proc_stat(5).

    It is the same for every process that reads it, until somebody sets the clock.
    """
    lines = (proc / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime")) * 1_000_000


def load(path: Path) -> Position | None:
    """The position in the file `path`, or None without one. A damaged file is set aside and counts as none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Position)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, IsADirectoryError) as error:
        aside = path.with_suffix(".damaged")
        path.rename(aside)
        logger.warning("%s is damaged (%s) and was set aside as %s", path, error, aside.name)
        return None


def save(path: Path, position: Position) -> None:
    """Write `position` so that the file is always whole: the old one or the new one; rename(2)."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(position))
    os.replace(temporary, path)  # noqa: PTH105 - pathlib's name for it hides what it guarantees

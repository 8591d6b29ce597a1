"""How far a log was read and what it has said: kept on disk, so that a restart neither repeats nor misses a line."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)


class Latched(msgspec.Struct, frozen=True):
    """A condition that a line has set: by which rule, with which message, and when it last matched."""

    rule: str
    message: str
    at: datetime


class Position(msgspec.Struct, frozen=True):
    """The number of the last record that was read in the boot `boot`, and the conditions that are set."""

    boot: str
    seq: int
    latched: dict[str, Latched] = {}


def boot_id(proc: Path) -> str:
    """The running boot; random(4)."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


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

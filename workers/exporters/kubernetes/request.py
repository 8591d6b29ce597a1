"""What is to be asked of the API server, as data; and how it writes what it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

LONGEST_MESSAGE = 1024
"""Bytes: what the API takes in an event's note; conditions are kept to the same."""


class Request(msgspec.Struct, frozen=True):
    """One request. `operation` is its name in metrics."""

    operation: str
    method: str
    path: str
    body: dict[str, Any]


class Metadata(msgspec.Struct, frozen=True):
    """What an answer tells of an object."""

    uid: str = ""
    annotations: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True):
    """An answer, without what nobody reads here."""

    metadata: Metadata = Metadata()


def rfc3339(when: datetime) -> str:
    """A time as metav1.Time has it: UTC, to the second."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cut(text: str, most: int = LONGEST_MESSAGE) -> str:
    """`text` in at most `most` bytes."""
    encoded = text.encode(errors="replace")
    return encoded.decode() if len(encoded) <= most else encoded[: most - 3].decode(errors="ignore") + "…"

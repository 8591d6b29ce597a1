"""What the metrics are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nodedoctor.monitor import Gauge
from nodedoctor.types import Metric


class Unreadable(msgspec.Struct, frozen=True):
    """Something that can't be read, as `text` says."""

    text: str


Found = Iterator[Metric | Unreadable]


class Source(msgspec.Struct, frozen=True):
    """What is read at once.

    Attributes:
        path: What to name when it can't be read.
        metrics: What it may give, under the names in the configuration that Node Problem Detector ships.
        read: Reads it. An OSError, LookupError or ValueError is about all that it did not give before.
    """

    path: Path
    metrics: tuple[Gauge, ...]
    read: Callable[[], Found]

    def found(self) -> Found:
        """What there is, and what can't be read."""
        try:
            yield from self.read()
        except OSError as error:
            yield Unreadable(why(error, self.path))
        except (LookupError, ValueError) as error:
            yield Unreadable(f"{self.path} is not what it should be: {error}")


def why(error: OSError, path: str | Path) -> str:
    """What to say of a file or folder that can't be read; `path` is what was asked for."""
    return f"{printable(str(error.filename or path))} can't be read: {error.strerror}"


def printable(text: str) -> str:
    r"""`text` with bytes that are not UTF-8 (as the surrogates of PEP 383) written as `\xNN`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def gauge(name: str, help: str, *labels: str) -> Gauge:  # noqa: A002 - Prometheus calls it so
    """A metric that is exported under its name alone."""
    return Gauge(name, help, labels, bare=True)


def counter(name: str, help: str, *labels: str) -> Gauge:  # noqa: A002 - Prometheus calls it so
    """A metric that only grows, exported under its name alone."""
    return Gauge(name, help, labels, "counter", bare=True)

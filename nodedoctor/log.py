"""Logs: one JSON object a line on stderr for machines, plain lines for people; never a reason to wait."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error"}
FIELDS = ("monitor", "problem", "action")
LONGEST = select.PIPE_BUF - 1
"""A pipe that is writable takes this much and a newline at once; pipe(7)."""


def set_up(level: str = "info", form: str = "json", component: str = "supervisor") -> None:
    """Send all logging of this process to stderr.

    Args:
        level: The least that is written: debug, info, warn or error.
        form: `json` or `text`.
        component: Which part of the agent this process is; children say their own with `become`.
    """
    handler = StderrHandler()
    handler.setFormatter({"json": JsonFormatter, "text": TextFormatter}[form](component))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(LEVELS[level])


def become(component: str) -> None:
    """Name this process in its further lines."""
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, Formatter):
            handler.formatter.component = component


class Formatter(logging.Formatter):
    """Knows which part of the agent speaks."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self.component = component


class JsonFormatter(Formatter):
    """One JSON object a line: timestamp, level, component, message, and monitor, problem, action where they apply."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`, without its newline."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": NAMES.get(record.levelno, record.levelname.lower()),
            "component": self.component,
            **{field: vars(record)[field] for field in FIELDS if field in vars(record)},
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = msgspec.json.encode(line).decode()
        excess = len(text.encode()) - LONGEST
        if excess <= 0:
            return text
        key = "traceback" if "traceback" in line else "message"
        line[key] = "…" + line[key][-max(0, len(line[key]) - 2 * excess - 8) :]
        return msgspec.json.encode(line).decode()


class TextFormatter(Formatter):
    """A line for people: time, level, component, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`, without its newline."""
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = NAMES.get(record.levelno, record.levelname.lower())
        text = f"{when} {level:5} {self.component}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class StderrHandler(logging.Handler):
    """Writes to descriptor 2 only when it takes a line at once: a log that nobody reads must not stop the agent."""

    def __init__(self, ready: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self.dropped = 0
        self.ready = ready or stderr_is_writable

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or count it as dropped."""
        try:
            line = self.format(record)
            if not self.ready():
                self.dropped += 1
                return
            if self.dropped:
                line, self.dropped = f"{self.note(self.dropped)}\n{line}", 0
            os.write(2, f"{line}\n".encode(errors="backslashreplace"))
        except OSError:
            self.dropped += 1

    def note(self, dropped: int) -> str:
        """The line that tells of `dropped` lines."""
        text = f"{dropped} log lines were dropped: nobody read them"
        return self.format(logging.LogRecord("log", logging.WARNING, "", 0, text, (), None))


def stderr_is_writable() -> bool:
    """Whether a write of PIPE_BUF bytes to descriptor 2 returns at once; poll(2)."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    return bool(poll.poll(0))


def default_form() -> str:
    """`text` when a person looks, `json` otherwise."""
    return "text" if sys.stderr.isatty() else "json"

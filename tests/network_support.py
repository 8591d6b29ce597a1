"""A network of a test's own, and what one check of a monitor finds in it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import pytest

from nodedoctor.monitor import Finding, Monitor
from nodedoctor.types import ConditionStatus, Event, Metric
from workers.verdicts import Verdict, fold

CLONE_NEWNET = 0x40000000


class Seen(msgspec.Struct, frozen=True):
    """What one check found: a verdict for each condition, all subjects folded as the life cycle does."""

    verdicts: dict[str, Verdict]
    metrics: list[Metric]
    events: list[Event]

    def __getitem__(self, condition: str) -> ConditionStatus:
        return self.verdicts[condition].status

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series, None if it is absent."""
        return next((m.value for m in self.metrics if m.name == name and m.labels == labels), None)


def look(monitor: Monitor[Any]) -> Seen:
    """Check once; what is reported must be what the monitor declares, and of each condition something is said."""
    observations = list(monitor.check())
    findings = [o for o in observations if isinstance(o, Finding)]
    metrics = [o for o in observations if isinstance(o, Metric)]
    conditions = monitor.conditions_of(monitor.name, monitor.options)
    assert {finding.type for finding in findings} == {condition.type for condition in conditions}
    declared = {(gauge.name, frozenset(gauge.labels), gauge.kind) for gauge in monitor.metrics}
    assert {(m.name, frozenset(m.labels), m.kind) for m in metrics} <= declared
    verdicts = {condition.type: fold(condition, findings) for condition in conditions}
    return Seen(verdicts, metrics, [o for o in observations if isinstance(o, Event)])


def give_up(error: Exception) -> NoReturn:
    """A machine that can't make a fault skips the test, unless it is the CI: there it is an error."""
    if os.environ.get("CI") == "true":
        raise error
    pytest.skip(f"this machine can't make the fault: {error} {getattr(error, 'stderr', '')}")


def ip(*words: str) -> None:
    """Have iproute2 change the network."""
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, which has to be the process's first, is in a network of its own with nothing but a loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            give_up(OSError(ctypes.get_errno(), "unshare"))
        ip("link", "set", "lo", "up")
        yield
    finally:
        back = libc.setns(before, CLONE_NEWNET)
        os.close(before)
        assert back == 0

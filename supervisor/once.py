"""Runs monitors once, all at the same time, each in a process that its timeout ends."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator

import msgspec

from nodedoctor.bus.messages import encoder, status_decoder
from nodedoctor.host import Host
from nodedoctor.roster import MonitorSpec, Roster, host_of
from nodedoctor.types import Condition, ConditionStatus, Result, Severity, Status, utc_now
from workers.life import check_once
from workers.privileges import adopt_orphans, die_with_parent, keep_capabilities


class Running(msgspec.Struct):
    """One check that has not ended: its process, where its status will come from, and until when."""

    spec: MonitorSpec
    pid: int
    pipe: int
    began: float
    data: bytes = b""


def check_all(roster: Roster) -> Iterator[tuple[str, str, Status]]:
    """Yield the name, the type and the status of each monitor, in the order of the configuration."""
    adopt_orphans()
    host = host_of(roster.config.settings)
    running = [begin(spec, host) for spec in roster.monitors]
    for check in running:
        yield check.spec.name, check.spec.kind.kind, finish(check)


def begin(spec: MonitorSpec, host: Host) -> Running:
    """Fork a process that checks once and writes its status to a pipe."""
    read, write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_with_parent(parent)
            os.setpgid(0, 0)
            os.close(read)
            keep_capabilities(spec.capabilities)
            send(write, encoder.encode(check_once(spec, host)))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    return Running(spec, pid, read, time.monotonic())


def send(pipe: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(pipe, data) :]


def finish(check: Running) -> Status:
    """The status of `check`, or what its end or its timeout means."""
    poll = select.poll()
    poll.register(check.pipe, select.POLLIN)
    timed_out = False
    while True:
        left = check.began + check.spec.timeout - time.monotonic()
        if not poll.poll(min(86400.0, max(0.0, left)) * 1000):
            timed_out = True
            break
        chunk = os.read(check.pipe, 1 << 16)
        if not chunk:
            break
        check.data += chunk
    return conclude(check, timed_out=timed_out)


def conclude(check: Running, *, timed_out: bool) -> Status:
    """End the process of `check` and say what came of it; one that SIGKILL does not end is left behind."""
    os.close(check.pipe)
    if timed_out:
        os.kill(check.pid, signal.SIGKILL)
        return broken(check, Result.TIMEOUT, f"no answer within {check.spec.timeout:g} s")
    _, code = os.waitpid(check.pid, 0)
    if code or not check.data:
        return broken(check, Result.CRASH, f"its process ended with {os.waitstatus_to_exitcode(code)}")
    return status_decoder.decode(check.data)


def broken(check: Running, result: Result, message: str) -> Status:
    """The status of a check that gave none."""
    now = utc_now()
    unknown = ConditionStatus.UNKNOWN
    conditions = tuple(
        Condition(kind.type, unknown, "CheckDidNotEnd", message, now, Severity.INFO)
        for kind in check.spec.conditions
    )
    return Status(check.spec.name, 1, 1, now, result, time.monotonic() - check.began, conditions)

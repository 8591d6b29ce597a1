"""One check of each monitor type that needs no options: wall time, CPU time, and the memory of its process."""

from __future__ import annotations

import os
import statistics
import time

import msgspec

from benchmarks.figures import show
from nodedoctor.cli.check import with_every_type
from nodedoctor.config.load import load, node_name
from nodedoctor.roster import MonitorSpec, Roster, host_of, roster_of
from workers.observer import Observer
from workers.resources import usage

CHECKS = 5


class Cost(msgspec.Struct, frozen=True):
    """Seconds of the median check, by the wall and of the processor, and the bytes that its process alone has."""

    wall: float
    cpu: float
    memory: int


def cost(spec: MonitorSpec, roster: Roster) -> Cost:
    """What the monitor costs in a process forked for it, as the agent forks its workers."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, msgspec.json.encode(measured(spec, roster)))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return msgspec.json.decode(data, type=Cost)


def measured(spec: MonitorSpec, roster: Roster) -> Cost:
    """What some checks after the first one take."""
    observer = Observer(spec, spec.build(host_of(roster.config.settings)))
    observer.observe()
    walls, processors = [], []
    for _ in range(CHECKS):
        began, used = time.monotonic(), time.process_time()
        observer.observe()
        walls.append(time.monotonic() - began)
        processors.append(time.process_time() - used)
    return Cost(statistics.median(walls), statistics.median(processors), usage().private)


def main() -> None:
    """Print the figures."""
    config = load().config
    roster = with_every_type(roster_of(config, node_name(config)))
    for spec in roster.monitors:
        found = cost(spec, roster)
        figure = f"{found.wall * 1e3:.1f} / {found.cpu * 1e3:.2f} ms, {found.memory / 1e6:.1f} MB"
        show(f"one check, wall / CPU, own memory: {spec.kind.kind}", figure)


if __name__ == "__main__":
    main()

"""The life of a worker that runs a monitor: check at its pace, publish, be there for a new broker."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from typing import Any

import msgspec
import zmq

from nodedoctor.bus.sockets import STATUS, Publisher, address
from nodedoctor.duration import seconds
from nodedoctor.host import Host
from nodedoctor.monitor import Monitor
from nodedoctor.roster import MonitorSpec, host_of
from nodedoctor.types import Event, Status
from workers.cadence import Cadence
from workers.observer import Observer
from workers.privileges import keep_capabilities, limit_memory
from workers.process import RECYCLED, Place, become
from workers.resources import usage

REMEMBERED = 256
"""Events that are told again to a new broker, which may never have seen them."""
STREAM_PAUSE, BUSY_PAUSE = 0.02, 0.08
"""Seconds from one look at a source to the next, and to that at a busy one: what comes in between is taken together,
which is cheaper."""
GRACE = 5.0
"""Seconds by which a waiting worker may wake up late before it counts as hung."""

logger = logging.getLogger(__name__)


def run_monitor(place: Place, spec: MonitorSpec) -> None:
    """Be the worker of the monitor `spec` until SIGTERM; the target of a fork."""
    become(place)
    keep_capabilities(spec.capabilities)
    limit_memory(place.memory.hard)
    # Several contexts' worth of default threads cost memory in each of many workers: one does.
    context = zmq.Context(io_threads=1)
    publisher = Publisher(context, node=place.roster.node, epoch=place.generation)
    publisher.connect(address(place.run_dir, STATUS))
    monitor = spec.build(host_of(place.roster.config.settings, place.state_dir))
    try:
        worker = MonitorWorker(place, spec, monitor, publisher)
        with contextlib.closing(monitor):
            worker.live()
    finally:
        publisher.close()
        context.term()


class MonitorWorker:
    """Waits for the next tick, for the monitor's own source and for a new broker, and does what is due."""

    def __init__(self, place: Place, spec: MonitorSpec, monitor: Monitor[Any], publisher: Publisher) -> None:
        self.place = place
        self.spec = spec
        self.monitor = monitor
        self.publisher = publisher
        self.observer = Observer(spec, monitor, place.generation)
        self.cadence = Cadence(spec.interval, time.monotonic(), restarted=place.generation > 1)
        self.latest: Status | None = None
        self.unsent: list[Event] = []
        self.told: deque[Event] = deque(maxlen=REMEMBERED)
        self.measure_every = seconds(place.roster.config.settings.update_interval)
        self.measured_at = -self.measure_every
        self.looked_at = 0.0

    def live(self) -> None:
        """Check and publish until SIGTERM, or until the process has grown too much."""
        while True:
            streamed = self.wait()
            if self.publisher.renewed():
                self.introduce()
            due = time.monotonic() >= self.cadence.due
            if due or streamed:
                self.looked_at = time.monotonic() if streamed else 0.0
                self.check(due=due)

    def wait(self) -> bool:
        """Sleep until something is to be done; whether the monitor's source has input or it asked to be woken."""
        self.place.slot.rest(self.cadence.due, self.spec.timeout + GRACE)
        pause = BUSY_PAUSE if self.monitor.busy else STREAM_PAUSE
        time.sleep(max(0.0, self.looked_at + pause - time.monotonic()))
        poller = zmq.Poller()
        poller.register(self.publisher.socket, zmq.POLLIN)
        source = self.monitor.fileno()
        if source is not None:
            poller.register(source, zmq.POLLIN)
        wake_after = self.monitor.wake_after()
        due = self.cadence.due if wake_after is None else min(self.cadence.due, time.monotonic() + wake_after)
        left = min(3600.0, max(0.0, due - time.monotonic()))
        # Rounded up: a wake-up just before the tick would only go round the loop again.
        ready = dict(poller.poll(int(left * 1000) + 1))
        return source in ready or (wake_after is not None and time.monotonic() >= due)

    def check(self, *, due: bool) -> None:
        """Make one check under its deadline; publish it if its tick came or it has news."""
        self.place.slot.begin(self.observer.checks + 1, self.spec.timeout)
        if not due and not self.observer.poll():
            return
        status = self.observer.observe()
        if due:
            self.cadence.advance(time.monotonic())
        if due or has_news(status, self.latest):
            self.publish(self.measured(status))
        if self.observer.exhausted:
            self.recycle("it ran out of the memory that it may have")

    def publish(self, status: Status) -> None:
        """Send `status` if the broker listens; what happened is kept for it otherwise."""
        self.latest = status
        events = (*self.unsent, *status.events)
        if not self.publisher.subscribed:
            self.unsent = list(events)[-REMEMBERED:]
            return
        self.unsent.clear()
        self.told.extend(status.events)
        self.publisher.send(f"status.{self.spec.name}", msgspec.structs.replace(status, events=events))

    def introduce(self) -> None:
        """Tell a broker that is new what is true now and what happened; nothing before the first check."""
        if self.latest is None:
            return
        first = not self.told and self.publisher.seq == 0
        events = (*self.told, *self.unsent)
        self.told.extend(self.unsent)
        self.unsent.clear()
        again = msgspec.structs.replace(self.latest, events=events, repeated=not first)
        self.publisher.send(f"status.{self.spec.name}", again)

    def measured(self, status: Status) -> Status:
        """`status` with this process's memory and CPU when they are due; ends the worker when it has grown."""
        if time.monotonic() - self.measured_at < self.measure_every:
            return status
        self.measured_at = time.monotonic()
        now = usage()
        if now.private > self.place.memory.soft:
            self.publish(msgspec.structs.replace(status, memory=now.memory, cpu=now.cpu))
            self.recycle(f"its private memory of {now.private >> 20} MiB is above the soft limit")
        return msgspec.structs.replace(status, memory=now.memory, cpu=now.cpu)

    def recycle(self, why: str) -> None:
        """End, to be replaced by a fresh process at once."""
        logger.warning("replacing the worker: %s", why, extra={"monitor": self.spec.name})
        sys.exit(RECYCLED)


def has_news(status: Status, latest: Status | None) -> bool:
    """Whether `status`, from between two ticks, says anything that the one before did not."""
    if latest is None or status.events:
        return True
    return [(c.type, c.status, c.reason, c.message) for c in status.conditions] != [
        (c.type, c.status, c.reason, c.message) for c in latest.conditions
    ]


def check_once(spec: MonitorSpec, host: Host | None = None) -> Status:
    """The status of a single check, every finding believed at once."""
    eager = msgspec.structs.replace(spec, failure_threshold=1, success_threshold=1)
    with contextlib.closing(eager.build(host)) as monitor:
        return Observer(eager, monitor, alone=True).observe()

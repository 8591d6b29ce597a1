"""An exporter's link to the rest of the agent: the broker's state for it, its own state for the broker."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import msgspec
import zmq

from nodedoctor.bus.messages import ExporterReport, ExporterState, Snapshot
from nodedoctor.bus.mirror import Mirror
from nodedoctor.bus.sockets import STATUS, Publisher, SnapshotClient, address
from workers.deadlines import Slot
from workers.process import Place
from workers.resources import usage

FRESH = 0.25
"""Seconds for which a snapshot serves several requests, unless the broker has told of a change since."""
PATIENCE = 1.0
"""Seconds that a request waits for the broker."""
SILENT = 3.5
"""Seconds without a heartbeat after which no request waits any more; the heartbeat comes each second."""
STALL = 15.0
"""Seconds that the link's thread may be late before the supervisor replaces the exporter."""


class Link:
    """Serves `nodedoctor.exporter.Agent` over ZeroMQ. Made in the process that uses it; usable from any thread.

    A thread of its own follows the bus and repeats the exporter's report; requests fetch snapshots under a lock.
    """

    def __init__(self, name: str, place: Place, update_interval: float) -> None:
        self.name = name
        self.generation = place.generation
        self.node = place.roster.node
        self.run_dir: Path = place.run_dir
        self.slot: Slot = place.slot
        self.update_interval = update_interval
        self.lock = threading.Lock()
        self.context = zmq.Context(io_threads=1)
        self.client = SnapshotClient(self.context, self.run_dir)
        self.latest: Snapshot | None = None
        self.answered_at = -math.inf
        self.heard_at = time.monotonic()
        self.changed = threading.Event()
        self.current = ExporterReport(name, self.generation, ExporterState.STARTING)
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        threading.Thread(target=self.follow, name="link", daemon=True).start()

    def snapshot(self) -> Snapshot | None:
        """The broker's state: fetched now, or a moment ago with nothing changed since; else the newest known."""
        with self.lock:
            now = time.monotonic()
            fresh = now - self.answered_at < FRESH and not self.changed.is_set()
            if fresh or now - self.heard_at > SILENT:
                return self.latest
            self.changed.clear()
            fetched = self.client.fetch(PATIENCE)
            if fetched is not None:
                self.remember(fetched)
            return self.latest

    def remember(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` as the newest."""
        self.latest = snapshot
        self.answered_at = time.monotonic()

    def age(self) -> float:
        """Seconds since the broker last answered."""
        return time.monotonic() - self.answered_at

    def report(self, state: ExporterState, message: str = "", requests: dict[str, int] | None = None) -> None:
        """Tell the broker how this exporter fares, now and again each update interval."""
        self.current = ExporterReport(self.name, self.generation, state, message, requests or {})
        os.write(self.wake_write, b".")

    def follow(self) -> None:
        """The thread: follow the stream, so that changes and silence are known without asking, and report."""
        mirror = Mirror(self.context, self.run_dir)
        # An exporter may have two processes for a moment: each has its own numbers.
        publisher = Publisher(self.context, node=self.node, epoch=time.time_ns() // 1000)
        publisher.connect(address(self.run_dir, STATUS))
        poller = zmq.Poller()
        for source in (self.wake_read, mirror.stream, mirror.client.socket, publisher.socket):
            poller.register(source, zmq.POLLIN)
        sent, due = None, 0.0
        while True:
            self.slot.rest(time.monotonic(), STALL)
            if self.wake_read in dict(poller.poll(1000)):
                os.read(self.wake_read, 4096)
            self.mirror(mirror)
            renewed, now = publisher.renewed(), time.monotonic()
            if publisher.subscribed and (renewed or self.current is not sent or now >= due):
                sent, due = self.current, now + self.update_interval
                publisher.send(f"exporter.{self.name}", self.measured(sent))

    def mirror(self, mirror: Mirror) -> None:
        """Take what came over the bus."""
        for item in mirror.receive(0):
            if isinstance(item, Snapshot):
                with self.lock:
                    self.remember(item)
            else:
                self.changed.set()
        self.heard_at = mirror.follower.heard_at

    def measured(self, report: ExporterReport) -> ExporterReport:
        """`report` with this process's memory and CPU."""
        now = usage()
        return msgspec.structs.replace(report, memory=now.memory, cpu=now.cpu)

"""The broker's process: waits for messages and time, lets the state decide, publishes what follows."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable

import msgspec
import zmq

from nodedoctor.bus.messages import (
    ConditionView,
    Envelope,
    ExporterReport,
    WorkerRecord,
    encoder,
    envelope_decoder,
    status_decoder,
)
from nodedoctor.bus.sockets import BUS, QUEUE, SNAPSHOT, STATUS, Publisher, address, readable, subscriber
from nodedoctor.types import ConditionStatus, utc_now
from supervisor.broker.snapshot import snapshot_of
from supervisor.broker.state import BrokerState, Message
from supervisor.lock import locked
from workers.privileges import keep_capabilities
from workers.process import Place, become
from workers.resources import Usage, usage

HEARTBEAT = 1.0
STALL = 10.0
"""Seconds without a turn of the loop after which the supervisor replaces the broker."""
BEAT = b"\n"
"""An empty line from the supervisor: it is alive and has nothing to tell."""

record_decoder = msgspec.json.Decoder(WorkerRecord)
report_decoder = msgspec.json.Decoder(ExporterReport)
logger = logging.getLogger(__name__)


def run_broker(place: Place, version: str, records: int, ready: int) -> None:
    """Be the broker until SIGTERM; the target of a fork.

    Args:
        place: Where and what this process is.
        version: Of the agent.
        records: Descriptor from which the supervisor's lines are read.
        ready: Descriptor to which one byte is written once workers may start.
    """
    become(place, keep=(records, ready), oom_points=100)
    keep_capabilities(())
    os.set_blocking(records, False)
    with locked(place.run_dir / "broker.lock", "another broker"):
        broker = Broker(place, version, records)
        os.write(ready, b"1")
        os.close(ready)
        with contextlib.closing(broker):
            broker.live()


class Broker:
    """Binds the three sockets and serves them."""

    def __init__(self, place: Place, version: str, records: int) -> None:
        self.place = place
        self.records = records
        self.partial = b""
        epoch = time.time_ns() // 1000
        self.state = BrokerState(place.roster, version, epoch, time.monotonic(), utc_now())
        self.context = zmq.Context(io_threads=1)
        self.statuses = subscriber(self.context, "")
        self.snapshots = self.context.socket(zmq.ROUTER)
        self.snapshots.set(zmq.SNDHWM, 10)
        self.publisher = Publisher(self.context, node=place.roster.node, epoch=epoch)
        # Last the one that workers wait for: whoever hears of a worker's status can have the snapshot, too.
        self.snapshots.bind(address(place.run_dir, SNAPSHOT))
        self.publisher.bind(address(place.run_dir, BUS))
        self.statuses.bind(address(place.run_dir, STATUS))
        self.sequences: dict[str, tuple[int, int]] = {}
        self.queued = 0
        self.own: Usage = usage()
        self.poller = zmq.Poller()
        for source in (self.statuses, self.snapshots, self.publisher.socket, self.records):
            self.poller.register(source, zmq.POLLIN)

    def live(self) -> None:
        """Serve until SIGTERM."""
        due = time.monotonic()
        turns = 0
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + HEARTBEAT
                turns += 1
                self.tick(now, measure=turns % 10 == 1)
            self.place.slot.rest(now, STALL)
            ready = dict(self.poller.poll(max(0, int((due - now) * 1000) + 1)))
            self.publisher.subscriptions()
            if self.records in ready:
                self.read_records()
            if self.statuses in ready:
                self.read_statuses()
            if self.snapshots in ready:
                self.answer()

    def tick(self, now: float, *, measure: bool) -> None:
        """Let time do its work, and tell the newest number."""
        if measure:
            self.own = usage()
        self.publish(self.state.on_tick(now, utc_now()))
        self.publisher.heartbeat()

    def read_records(self) -> None:
        """Take what the supervisor tells; one JSON record a line."""
        try:
            data = os.read(self.records, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            # The supervisor is gone, and this process is about to be killed for it.
            raise SystemExit(0)
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            if line:
                record = record_decoder.decode(line)
                self.publish(self.state.on_worker(record, time.monotonic(), utc_now()))
        self.state.on_beat(utc_now())

    def read_statuses(self) -> None:
        """Take the statuses that wait, but no more than one queue of them before the others get their turn."""
        self.queued = 0
        while self.queued < QUEUE and readable(self.statuses):
            topic, *bodies = self.statuses.recv_multipart(zmq.NOBLOCK)
            self.queued += 1
            try:
                for body in bodies:
                    self.take(topic, body)
            except msgspec.MsgspecError as error:
                logger.warning("dropped a message under %r: %s", topic[:80], error)

    def take(self, topic: bytes, body: bytes) -> None:
        """One message of a worker. A status goes on to whoever taps the bus, under its worker's own number."""
        envelope = envelope_decoder.decode(body)
        role, _, name = envelope.topic.partition(".")
        self.count_gap(name, envelope)
        now, wall = time.monotonic(), utc_now()
        if role == "status":
            status = status_decoder.decode(envelope.data)
            self.publisher.socket.send_multipart((topic, body))
            self.publish(self.state.on_status(status, now, wall))
        elif role == "exporter":
            self.publish(self.state.on_exporter(report_decoder.decode(envelope.data), now, wall))

    def count_gap(self, source: str, envelope: Envelope) -> None:
        """Count the messages between this one and the last one of the same process."""
        epoch, seq = self.sequences.get(source, (0, 0))
        if epoch == envelope.epoch and envelope.seq > seq + 1:
            self.state.counters.lost[source,] += envelope.seq - seq - 1
        if envelope.epoch >= epoch:
            self.sequences[source] = (envelope.epoch, envelope.seq)

    def answer(self) -> None:
        """Answer who asks for the whole state. All of them get the same one."""
        body = None
        while readable(self.snapshots):
            identity, number, *_ = self.snapshots.recv_multipart(zmq.NOBLOCK)
            if body is None:
                body = encoder.encode(
                    snapshot_of(self.state, self.publisher.seq, utc_now(), self.own, self.queued)
                )
            # Whoever asks and does not read the answer loses it; the broker does not wait.
            with contextlib.suppress(zmq.Again):
                self.snapshots.send_multipart((identity, number, body), zmq.NOBLOCK)

    def publish(self, messages: Iterable[Message]) -> None:
        """Send `messages`, and log the transitions among them."""
        for topic, data in messages:
            self.publisher.send(topic, data)
            if isinstance(data, ConditionView):
                log_transition(data)

    def close(self) -> None:
        """Take what waits, tell it, and end."""
        self.read_statuses()
        self.publisher.heartbeat()
        for socket in (self.statuses, self.snapshots):
            socket.close(linger=0)
        self.publisher.close()
        self.context.term()


def log_transition(view: ConditionView) -> None:
    """One line for one transition."""
    level = logging.INFO if view.status is ConditionStatus.FALSE else logging.WARNING
    details = {"monitor": view.monitor, "problem": view.type}
    logger.log(level, "%s is %s: %s %s", view.type, view.status, view.reason, view.message, extra=details)

"""Follows the broker without losing anything: a snapshot, then the stream from the number that it stands at.

This is the Clone pattern of the ZeroMQ guide (https://zguide.zeromq.org/docs/chapter5/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import zmq

from nodedoctor.bus.messages import Envelope, Heartbeat, Snapshot, envelope_decoder
from nodedoctor.bus.sockets import BUS, SnapshotClient, address, readable, subscriber

TOPICS = ("condition.", "problem.", "event.", "worker.", "exporter.", "remediation.", "config.", "heartbeat")
"""What the broker numbers. `status.*` passes under its worker's own numbers and is not part of the sequence."""
SILENCE = 3.0
"""Seconds without any message, heartbeats included, after which the snapshot is asked for again."""
HELD = 10_000
"""Messages kept while a snapshot is awaited."""


class Follower:
    """The rules of following, without sockets: what to deliver, and when to ask for the snapshot."""

    def __init__(self, now: float) -> None:
        self.epoch = 0
        self.seq = 0
        self.waiting = True
        self.held: list[Envelope] = []
        self.asked_at = -SILENCE
        self.heard_at = now

    def should_ask(self, now: float) -> bool:
        """Whether a snapshot is to be asked for now; again each second while none comes."""
        if not self.waiting and now - self.heard_at > SILENCE:
            self.resync()
        if self.waiting and now - self.asked_at >= 1.0:
            self.asked_at = now
            return True
        return False

    def resync(self) -> None:
        """Something is missing: deliver nothing until the next snapshot."""
        self.waiting = True
        self.asked_at = -SILENCE

    def on_message(self, envelope: Envelope, now: float) -> list[Envelope]:
        """The messages to deliver now that `envelope` came: in order, each once."""
        self.heard_at = now
        if self.waiting:
            self.held = [*self.held[-HELD:], envelope]
            return []
        if envelope.topic == "heartbeat":
            last = msgspec.json.decode(envelope.data, type=Heartbeat).last
            if envelope.epoch != self.epoch or last > self.seq:
                self.resync()
            return []
        if envelope.epoch == self.epoch and envelope.seq <= self.seq:
            return []
        if envelope.epoch != self.epoch or envelope.seq != self.seq + 1:
            self.resync()
            self.held = [envelope]
            return []
        self.seq = envelope.seq
        return [envelope]

    def on_snapshot(self, snapshot: Snapshot, now: float) -> list[Envelope]:
        """The messages to deliver after `snapshot`: those that were held and are newer."""
        self.epoch, self.seq = snapshot.epoch, snapshot.seq
        self.waiting, self.heard_at = False, now
        held, self.held = self.held, []
        delivered: list[Envelope] = []
        for envelope in held:
            if not self.waiting and envelope.epoch == self.epoch:
                delivered += self.on_message(envelope, now)
        return delivered


class Mirror:
    """A connection that yields the broker's state whenever it had to be fetched, and each message after it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        run_dir: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.follower = Follower(clock())
        self.client = SnapshotClient(context, run_dir)
        self.stream = subscriber(context, *TOPICS)
        self.stream.connect(address(run_dir, BUS))

    def receive(self, timeout: float) -> Iterator[Snapshot | Envelope]:
        """Yield what comes within `timeout` seconds; returns after the first batch."""
        if self.follower.should_ask(self.clock()):
            self.client.ask()
        poller = zmq.Poller()
        poller.register(self.stream, zmq.POLLIN)
        poller.register(self.client.socket, zmq.POLLIN)
        ready = dict(poller.poll(int(min(timeout, 1.0) * 1000)))
        if self.stream in ready:
            yield from self.read_stream()
        if self.client.socket in ready:
            snapshot = self.client.receive()
            if snapshot is not None and self.follower.waiting:
                yield snapshot
                yield from self.follower.on_snapshot(snapshot, self.clock())

    def read_stream(self) -> Iterator[Envelope]:
        """Yield what the stream holds now and is to be delivered."""
        for _ in range(1000):
            if not readable(self.stream):
                return
            _, body = self.stream.recv_multipart(zmq.NOBLOCK)
            yield from self.follower.on_message(envelope_decoder.decode(body), self.clock())

    def close(self) -> None:
        """End at once."""
        self.stream.close()
        self.client.close()

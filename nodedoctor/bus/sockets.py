"""The sockets of the bus and what they guarantee.

    workers ── XPUB ─▶ status.sock ─ SUB ─ broker ─ XPUB ─▶ bus.sock ─ SUB ─▶ exporters, taps
                                           broker ─ ROUTER  snapshot.sock ◀─ DEALER ─ whoever asks for the whole state

Queues hold QUEUE messages; what does not fit is lost and shows as a gap in the sequence numbers. Every context
belongs to the process that made it: an inherited socket reports success and sends nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self, cast

import msgspec
import zmq

from nodedoctor.bus.messages import Envelope, Heartbeat, Snapshot, encoder, snapshot_decoder
from nodedoctor.errors import NodeDoctorError
from nodedoctor.types import utc_now

QUEUE = 1000
STATUS, BUS, SNAPSHOT, HEALTH = "status.sock", "bus.sock", "snapshot.sock", "health.sock"
LONGEST_PATH = 100
"""Bytes of a socket's path: the kernel takes 107 (unix(7)), and ZeroMQ needs some of them."""


def address(run_dir: Path, name: str) -> str:
    """The address of the socket `name` in `run_dir`.

    Raises:
        NodeDoctorError: the path is too long for a unix socket.
    """
    path = str(run_dir / name)
    if len(os.fsencode(path)) > LONGEST_PATH:
        msg = f"{path}: a socket's path may have {LONGEST_PATH} bytes; choose a shorter --run-dir"
        raise NodeDoctorError(msg)
    return f"ipc://{path}"


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits; one system call less than a poll."""
    return bool(cast("int", socket.get(zmq.EVENTS)) & zmq.POLLIN)


def made(context: zmq.Context[zmq.Socket[bytes]], kind: int, linger: int = 0) -> zmq.Socket[bytes]:
    """A socket that soon finds a broker that was restarted, and at its end waits `linger` milliseconds for its queue."""
    socket = context.socket(kind)
    socket.set(zmq.LINGER, linger)
    socket.set(zmq.RECONNECT_IVL, 20)
    socket.set(zmq.RECONNECT_IVL_MAX, 200)
    return socket


class Publisher:
    """Numbers messages and sends them to whoever has subscribed.

    A publisher that connects (a worker's) is `subscribed` once the broker listens: what is sent earlier would be
    lost. `renewed` tells that a new broker listens, which knows nothing yet.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, node: str, epoch: int) -> None:
        self.pid = os.getpid()
        self.node = node
        self.epoch = epoch
        self.seq = 0
        self.topics: set[bytes] = set()
        self.socket = made(context, zmq.XPUB, linger=500)
        self.socket.set(zmq.SNDHWM, QUEUE)

    def connect(self, to: str) -> Self:
        """Publish to the broker that binds `to`, now or later."""
        self.socket.connect(to)
        return self

    def bind(self, to: str) -> Self:
        """Publish to those who connect to `to`. The caller holds a lock: a second bind would succeed, silently."""
        self.socket.bind(to)
        return self

    @property
    def subscribed(self) -> bool:
        """Whether anybody listens, as far as `renewed` or `subscriptions` has read."""
        return bool(self.topics)

    def renewed(self) -> bool:
        """Whether somebody subscribed since the last call; never waits."""
        return any(message[:1] == b"\1" for message in self.subscriptions())

    def subscriptions(self) -> list[bytes]:
        """What came from subscribers since the last call: 1 or 0, then the topic; zmq_socket(3) ZMQ_XPUB."""
        messages = []
        while readable(self.socket):
            message = self.socket.recv(zmq.NOBLOCK)
            messages.append(message)
            if message[:1] == b"\1":
                self.topics.add(message[1:])
            else:
                self.topics.discard(message[1:])
        return messages

    def send(self, topic: str, data: msgspec.Struct) -> None:
        """Send `data` under the next number. It never waits: for a subscriber whose queue is full it is lost.

        Raises:
            RuntimeError: this is another process than the one that made the socket.
        """
        if os.getpid() != self.pid:
            msg = f"a socket of process {self.pid} was used in {os.getpid()}: the message would be lost"
            raise RuntimeError(msg)
        self.seq += 1
        self.send_numbered(topic, data)

    def send_numbered(self, topic: str, data: msgspec.Struct) -> None:
        """Send `data` under the present number."""
        raw = msgspec.Raw(encoder.encode(data))
        envelope = Envelope(topic, self.seq, self.epoch, utc_now(), self.node, raw)
        self.socket.send_multipart((topic.encode(), encoder.encode(envelope)))

    def heartbeat(self) -> None:
        """Tell the newest number, without taking a new one: so a lost tail shows."""
        self.send_numbered("heartbeat", Heartbeat(self.seq))

    def close(self) -> None:
        """Send what is queued, for at most half a second, and end."""
        self.socket.close()


def subscriber(context: zmq.Context[zmq.Socket[bytes]], *topics: str) -> zmq.Socket[bytes]:
    """A SUB socket with a bounded queue that takes `topics`, still to be bound or connected."""
    socket = made(context, zmq.SUB)
    socket.set(zmq.RCVHWM, QUEUE)
    for topic in topics:
        socket.subscribe(topic)
    return socket


class SnapshotClient:
    """Asks the broker for its whole state. For one thread at a time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_dir: Path) -> None:
        self.socket = made(context, zmq.DEALER)
        self.socket.set(zmq.SNDHWM, 10)
        self.socket.connect(address(run_dir, SNAPSHOT))
        self.asked = 0

    def ask(self) -> None:
        """Send a request; `receive` reads its answer. One that nobody takes is dropped."""
        self.asked += 1
        try:
            self.socket.send(str(self.asked).encode(), zmq.NOBLOCK)
        except zmq.Again:
            return

    def receive(self) -> Snapshot | None:
        """The answer to the newest request if it is there; never waits."""
        while readable(self.socket):
            number, body = self.socket.recv_multipart(zmq.NOBLOCK)
            if int(number) == self.asked:
                return snapshot_decoder.decode(body)
        return None

    def fetch(self, timeout: float) -> Snapshot | None:
        """Ask, and wait at most `timeout` seconds for the answer; None when none came."""
        self.ask()
        while self.socket.poll(int(timeout * 1000)):
            snapshot = self.receive()
            if snapshot is not None:
                return snapshot
        return None

    def close(self) -> None:
        """End at once."""
        self.socket.close()

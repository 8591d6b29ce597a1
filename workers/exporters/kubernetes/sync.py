"""Keeps the node object in step with the broker's state: what happened and the time go in, requests come out.

No sockets and no clock of its own. One request is on its way at a time; what changes meanwhile is one request later,
however much it is.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from nodedoctor.bus.messages import ConditionView, EventRecord, ExporterState, Snapshot
from nodedoctor.config import model
from nodedoctor.duration import seconds
from nodedoctor.health import health
from nodedoctor.types import ConditionStatus, Severity
from workers.exporters.kubernetes.annotations import OWNED, STATUS, UPDATED, owned, read_owned, status_text
from workers.exporters.kubernetes.conditions import Conditions
from workers.exporters.kubernetes.events import Events
from workers.exporters.kubernetes.pace import Bucket, Lane
from workers.exporters.kubernetes.request import LONGEST_MESSAGE, Answer, Request, rfc3339
from workers.kubernetes import APIError, ForbiddenError, InvalidError, NotFoundError, TooLargeError

AT_ONCE, PER_SECOND = 2, 0.4
"""Patches of the node: with the events' own budget less than one request a second, whatever happens."""
START_JITTER = 1.0
RECENT = 30.0
"""Seconds: events of a broker that was there before this process are told if they are not older."""
SHORT_MESSAGE = 256
NODE_PATCH = "node-patch"

logger = logging.getLogger(__name__)


class Flight(msgspec.Struct, frozen=True):
    """The patch that is on its way: the conditions in it, and the annotations that the node has afterwards."""

    kinds: tuple[str, ...]
    annotations: dict[str, str]
    whole: bool


class Sync:
    """The node object's conditions and annotations, and its events.

    Before its first patch it sends an empty one: the answer tells which conditions an earlier process has left and
    since when they hold, and costs no read.
    """

    def __init__(
        self, node: str, options: model.KubernetesExporter, now: float, dice: random.Random | None = None
    ) -> None:
        self.path = f"/api/v1/nodes/{quote(node, safe='')}/status"
        self.node = node
        self.dice = dice or random.Random()
        self.on_stop = options.on_stop
        self.resync = seconds(options.resync_interval)
        self.heartbeat = seconds(options.heartbeat_interval)
        self.conditions = Conditions(seconds(options.update_interval), now)
        self.events = Events(node, self.dice)
        self.lane = Lane(self.dice)
        self.bucket = Bucket(AT_ONCE, PER_SECOND)
        self.snapshot: Snapshot | None = None
        self.seen: set[EventRecord] = set()
        self.uid = ""
        self.annotations: dict[str, str] = {}
        self.flight: Flight | None = None
        self.introduce_at = now + self.dice.uniform(0, START_JITTER)
        self.whole_at = -math.inf
        self.heartbeat_at = math.inf
        self.surprised = False
        self.one_by_one = False

    def on_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """The broker's whole state."""
        first, self.snapshot = self.snapshot is None, snapshot
        self.conditions.have(snapshot.conditions, snapshot.monitors, now)
        running = (snapshot.timestamp - snapshot.started).total_seconds()
        for record in snapshot.events:
            old = (snapshot.timestamp - record.timestamp).total_seconds() > RECENT
            if record not in self.seen and not (first and old and running > RECENT):
                self.events.add(record, now)
        self.seen = set(snapshot.events)

    def on_condition(self, view: ConditionView, now: float) -> None:
        """A transition."""
        self.conditions.change(view, now)

    def on_event(self, record: EventRecord, now: float) -> None:
        """Something happened."""
        if record not in self.seen:
            self.seen.add(record)
            self.events.add(record, now)

    def due(self, now: float) -> float:
        """When `next` will have something, if nothing happens until then."""
        events = self.events.due(now) if self.in_step() else math.inf
        return min(events, self.patch_due(now))

    def in_step(self) -> bool:
        """Whether the node can be written, so that its events can be, too."""
        return bool(self.uid) and self.lane.error is None

    def patch_due(self, now: float) -> float:
        """When the next patch of the node is due."""
        wanted = self.introduce_at
        if self.uid:
            wanted = min([self.heartbeat_at, *self.conditions.due.values()]) if self.snapshot else math.inf
        return wanted if wanted == math.inf else max(wanted, self.lane.free_at, self.bucket.due(now))

    def next(self, now: float, wall: datetime) -> Request | None:
        """The request that is due, if one is."""
        if self.patch_due(now) <= now:
            self.bucket.take(now)
            if not self.uid:
                self.flight = None
                return Request(NODE_PATCH, "PATCH", self.path, {})
            late = now >= self.heartbeat_at
            return self.patch(now, wall, whole=late or now - self.whole_at >= self.resync)
        return self.events.next(now, wall) if self.in_step() else None

    def patch(self, now: float, wall: datetime, *, whole: bool) -> Request:
        """The patch that brings the node into step: all that differs; with `whole`, all there is."""
        kinds = self.conditions.all(now) if whole else list(self.conditions.due)
        if self.one_by_one:
            kinds = list(self.conditions.due)[:1]
        wanted = {OWNED: owned(self.conditions.after(kinds))}
        if self.conditions.longest_message == LONGEST_MESSAGE:
            wanted[STATUS] = self.status(now)
        changed = {key: text for key, text in wanted.items() if self.annotations.get(key) != text}
        if changed:
            changed[UPDATED] = rfc3339(wall)
        self.flight = Flight(
            tuple(kinds), {**self.annotations, **changed}, whole=whole and not self.one_by_one
        )
        body: dict[str, Any] = {"status": {"conditions": [self.conditions.entry(kind) for kind in kinds]}}
        if changed:
            body["metadata"] = {"annotations": changed}
        return Request(NODE_PATCH, "PATCH", self.path, body)

    def status(self, now: float) -> str:
        """The text of the status annotation."""
        assert self.snapshot is not None
        shown = tuple(v for v in self.conditions.views.values() if not self.conditions.untried(v, now))
        bad = sorted(
            (v for v in shown if v.status is ConditionStatus.TRUE),
            key=lambda v: (v.severity is not Severity.ERROR, v.type),
        )
        problems = [{"type": v.type, "reason": v.reason} for v in bad]
        unknown = sorted(v.type for v in shown if v.status is ConditionStatus.UNKNOWN)
        word = health(msgspec.structs.replace(self.snapshot, conditions=shown))
        return status_text(word, self.snapshot.version, problems, unknown)

    def on_answer(self, request: Request, answer: Answer, now: float) -> None:
        """`request` was granted."""
        if request.operation != NODE_PATCH:
            self.events.succeeded()
            return
        if self.lane.error is not None:
            logger.info("the node %s is in step again", self.node)
        self.lane.succeeded()
        if self.flight is None or answer.metadata.uid != self.uid:
            self.on_introduction(answer, now)
        else:
            self.on_patched(self.flight, answer, now)

    def on_introduction(self, answer: Answer, now: float) -> None:
        """The node is there, or is another one than before: this is what it has of ours."""
        self.uid = answer.metadata.uid or "unknown"
        self.annotations = ours(answer)
        self.conditions.learn(read_owned(self.annotations.get(OWNED, "")), now)
        self.heartbeat_at = now + self.dice.uniform(0, self.heartbeat)
        self.whole_at = -math.inf

    def on_patched(self, flight: Flight, answer: Answer, now: float) -> None:
        """The node has what was sent; the answer tells whether somebody else writes there, too."""
        self.conditions.taken(flight.kinds, now)
        self.annotations = ours(answer)
        if flight.whole:
            self.conditions.longest_message = LONGEST_MESSAGE
        if now >= self.heartbeat_at or (flight.whole and self.whole_at > -math.inf):
            self.heartbeat_at = now + self.heartbeat * self.dice.uniform(0.9, 1.2)
        self.whole_at = now if flight.whole else self.whole_at
        self.one_by_one = self.one_by_one and bool(self.conditions.due)
        surprised = self.annotations.get(OWNED) != flight.annotations.get(OWNED)
        if surprised and not self.surprised:
            logger.warning("somebody else changes what node-doctor writes to the node; it is written again")
            self.heartbeat_at = min(self.heartbeat_at, now + self.resync)
        self.surprised = surprised

    def on_error(self, request: Request, error: APIError, now: float, wall: datetime) -> None:
        """`request` failed."""
        if request.operation != NODE_PATCH:
            self.events.failed(error, now, wall)
            return
        if self.lane.error is None or self.lane.error.result != error.result:
            logger.warning("the node %s can't be written: %s", self.node, error)
        self.lane.failed(error, now, wall)
        if isinstance(error, NotFoundError):
            self.uid, self.introduce_at = "", now
        elif isinstance(error, TooLargeError):
            self.conditions.longest_message = SHORT_MESSAGE
        elif isinstance(error, InvalidError) and self.flight:
            self.set_aside(self.flight.kinds)

    def set_aside(self, kinds: Iterable[str]) -> None:
        """One of `kinds` is not taken: find out which, and let the others pass."""
        only = tuple(kinds)
        if len(only) == 1:
            logger.error("the API server does not take the condition %s", only[0])
            self.conditions.refuse(only[0])
        self.one_by_one = bool(self.conditions.due) or len(only) > 1
        if self.one_by_one and len(only) > 1:
            self.conditions.due.update({kind: self.conditions.due.get(kind, 0.0) for kind in only})

    def last_words(self, now: float, wall: datetime) -> Request | None:
        """What is to be sent before the end, if the API server can be reached."""
        if not self.in_step() or self.snapshot is None:
            return None
        if self.on_stop == "unknown":
            self.conditions.stop()
            return self.patch(now, wall, whole=True)
        return self.patch(now, wall, whole=False) if self.conditions.due else None

    def state(self) -> tuple[ExporterState, str]:
        """How it goes, for /status: what is wrong, and since when the node is behind."""
        error, since = self.lane.error, self.lane.since
        if error and since and (self.lane.failures > 1 or isinstance(error, ForbiddenError | NotFoundError)):
            return ExporterState.UNAVAILABLE, f"{error} (behind since {rfc3339(since)})"
        if not self.uid:
            return ExporterState.STARTING, ""
        if self.events.lane.error:
            return ExporterState.RUNNING, f"no events: {self.events.lane.error}"
        return ExporterState.RUNNING, ""


def ours(answer: Answer) -> dict[str, str]:
    """The annotations that are this agent's."""
    return {key: text for key, text in answer.metadata.annotations.items() if key in {OWNED, STATUS, UPDATED}}

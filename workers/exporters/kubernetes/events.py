"""Events of the node: each told once, repeats as a count, and never so many that they drown each other."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter, OrderedDict
from datetime import datetime
from hashlib import blake2b
from typing import Any

from nodedoctor.bus.messages import EventRecord
from nodedoctor.types import Severity
from workers.exporters.kubernetes.pace import Bucket, Lane
from workers.exporters.kubernetes.request import Request, cut, rfc3339
from workers.kubernetes import APIError, ConflictError, InvalidError, NotFoundError, TooLargeError

NAMESPACE = "default"
"""Where events of what has no namespace go."""
PATH = f"/api/v1/namespaces/{NAMESPACE}/events"
MOST_SERIES = 256
MOST_WAITING = 64
FIRST_REPEAT, LONGEST_REPEAT = 10.0, 600.0
"""Seconds after which the count of a series is told, at first and at last: it is told more and more seldom."""
SUMMARY_WAIT = 60.0
BEHIND_ITS_CONDITION = 0.02
"""Seconds that an event waits, so that the condition that it tells of goes first."""
AT_ONCE, PER_SECOND = 3, 0.15
OF_ONE_REASON, OF_ONE_REASON_PER_SECOND = 5, 1 / 60
SUPPRESSED = "EventsSuppressed"
MOST_REASONS = 500

logger = logging.getLogger(__name__)

Key = tuple[str, str, str]


class Series:
    """One event and its repeats. `told` of `count` are in the API."""

    def __init__(self, node: str, record: EventRecord, due: float) -> None:
        self.node = node
        self.monitor = record.monitor
        self.kind = "Normal" if record.severity is Severity.INFO else "Warning"
        self.reason, self.message = record.reason, record.message
        self.first = self.last = record.timestamp
        self.count = record.count
        self.told = 0
        self.exists = False
        self.due = due
        self.pause = FIRST_REPEAT
        self.name = self.made_name()

    def made_name(self) -> str:
        """The same for the same event, so that one that was told before is not told twice."""
        text = f"{self.reason}\0{self.message}\0{self.last.isoformat()}"
        digest = blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
        return f"{self.node[:230].rstrip('.-')}.{digest}"

    def repeat(self, record: EventRecord, now: float) -> None:
        """It happened again."""
        if self.due == math.inf:
            self.due = now + self.pause
        self.count += record.count
        self.last = max(self.last, record.timestamp)

    def request(self) -> Request:
        """What tells it."""
        if self.exists:
            body = {"count": self.count, "lastTimestamp": rfc3339(self.last), "message": cut(self.message)}
            return Request("event-patch", "PATCH", f"{PATH}/{self.name}", body)
        return Request("event-create", "POST", PATH, self.body())

    def body(self) -> dict[str, Any]:
        """The event as the kubelet would write it: the node's name is also its uid there."""
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "annotations": {"node-doctor.io/monitor": self.monitor},
            },
            "involvedObject": {"kind": "Node", "name": self.node, "uid": self.node},
            "type": self.kind,
            "reason": cut(self.reason, 128),
            "message": cut(self.message),
            "count": self.count,
            "firstTimestamp": rfc3339(self.first),
            "lastTimestamp": rfc3339(self.last),
            "source": {"component": "node-doctor", "host": self.node},
            "reportingComponent": "node-doctor",
            "reportingInstance": self.node[:128],
        }

    def succeeded(self) -> None:
        """The API has it."""
        if self.exists:
            self.pause = min(LONGEST_REPEAT, self.pause * 2)
        self.exists, self.told, self.due = True, self.count, math.inf

    def vanished(self, now: float) -> None:
        """The API has forgotten it, as it does after an hour: what was not told yet becomes a new event."""
        self.exists = False
        self.count, self.told = self.count - self.told, 0
        self.first, self.due = self.last, now
        self.name = self.made_name()


class Events:
    """First what repeats becomes one, then each reason has its share, then all together; one event tells of the rest."""

    def __init__(self, node: str, dice: random.Random) -> None:
        self.node = node
        self.lane = Lane(dice)
        self.bucket = Bucket(AT_ONCE, PER_SECOND)
        self.reasons: OrderedDict[str, Bucket] = OrderedDict()
        self.series: OrderedDict[Key, Series] = OrderedDict()
        self.left_out: Counter[str] = Counter()
        self.dropped = 0
        self.summary: Series | None = None
        self.summary_due = math.inf
        self.flight: Series | None = None

    def add(self, record: EventRecord, now: float) -> None:
        """Something happened."""
        key = (record.severity, record.reason, record.message)
        if known := self.series.get(key):
            self.series.move_to_end(key)
            known.repeat(record, now)
        elif self.waiting() < MOST_WAITING and self.share(record.reason).take(now):
            self.series[key] = Series(self.node, record, now + BEHIND_ITS_CONDITION)
            self.forget_oldest()
        else:
            self.leave_out(record.reason, record.count, now)

    def waiting(self) -> int:
        """How many were never told yet."""
        return sum(not one.exists for one in self.series.values())

    def share(self, reason: str) -> Bucket:
        """What one reason may use."""
        if reason not in self.reasons:
            self.reasons[reason] = Bucket(OF_ONE_REASON, OF_ONE_REASON_PER_SECOND)
            if len(self.reasons) > MOST_REASONS:
                self.reasons.popitem(last=False)
        return self.reasons[reason]

    def forget_oldest(self) -> None:
        """Keep the number of series bounded."""
        while len(self.series) > MOST_SERIES:
            oldest = next(key for key, one in self.series.items() if one.exists)
            del self.series[oldest]

    def leave_out(self, reason: str, count: int, now: float) -> None:
        """It is only counted; a summary will tell."""
        self.dropped += count
        self.left_out[reason] += count
        if self.summary_due == math.inf:
            self.summary_due = now + SUMMARY_WAIT

    def due(self, now: float) -> float:
        """When the next request is due; infinite if there is nothing to tell."""
        wanted = min((one.due for one in self.candidates()), default=math.inf)
        wanted = min(wanted, self.summary_due)
        return wanted if wanted == math.inf else max(wanted, self.lane.free_at, self.bucket.due(now))

    def candidates(self) -> list[Series]:
        """What may have something to tell."""
        return [*self.series.values(), *([self.summary] if self.summary else [])]

    def next(self, now: float, wall: datetime) -> Request | None:
        """The request that is due, if one is."""
        if self.due(now) > now:
            return None
        if self.summary_due <= now:
            self.summarize(now, wall)
        self.flight = min(self.candidates(), key=lambda one: one.due)
        self.bucket.take(now)
        return self.flight.request()

    def summarize(self, now: float, wall: datetime) -> None:
        """Put what was left out into the one event that tells of it."""
        total = sum(self.left_out.values())
        most = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common(5))
        text = (
            f"{total} events were not sent one by one, among them {most}; the agent's /events has the newest"
        )
        record = EventRecord("node-doctor", Severity.WARNING, SUPPRESSED, text, wall, total)
        if self.summary is None:
            self.summary = Series(self.node, record, now)
        else:
            self.summary.repeat(record, now)
            self.summary.message, self.summary.due = text, now
        self.left_out.clear()
        self.summary_due = math.inf

    def succeeded(self) -> None:
        """The newest request was granted."""
        self.lane.succeeded()
        if self.flight:
            self.flight.succeeded()

    def failed(self, error: APIError, now: float, wall: datetime) -> None:
        """The newest request failed."""
        one = self.flight
        if one and isinstance(error, ConflictError) and not one.exists:
            self.succeeded()  # it was told already, by a request whose answer was lost or by an earlier process
        elif one and isinstance(error, NotFoundError) and one.exists:
            one.vanished(now)
        elif one and isinstance(error, InvalidError | TooLargeError):
            logger.error("the event %s can't be told: %s", one.reason, error)
            self.drop(one)
        else:
            if self.lane.error is None or self.lane.error.result != error.result:
                logger.warning("events can't be told: %s", error)
            self.lane.failed(error, now, wall)

    def drop(self, one: Series) -> None:
        """Give up on one that the API server does not take."""
        self.dropped += one.count - one.told
        self.series = OrderedDict((key, kept) for key, kept in self.series.items() if kept is not one)
        self.summary = None if self.summary is one else self.summary

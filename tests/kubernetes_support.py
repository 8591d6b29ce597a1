"""The Kubernetes exporter's core with a clock of numbers, and a node object to write to."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from api_support import check_conditions, check_event, merge

from nodedoctor.bus.messages import ConditionView, EventRecord, MonitorView, RemediationView, Snapshot
from nodedoctor.config.model import KubernetesExporter
from nodedoctor.types import ConditionStatus, MonitorState, Severity
from workers.exporters.kubernetes.request import Answer, Metadata, Request
from workers.exporters.kubernetes.sync import Sync
from workers.kubernetes import APIError, ConflictError, NotFoundError

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def wall(now: float) -> datetime:
    """The wall clock at the monotonic time `now`."""
    return BEGIN + timedelta(seconds=now)


def second(now: float) -> str:
    """The same as the API writes it."""
    return wall(now).strftime("%Y-%m-%dT%H:%M:%SZ")


def view(
    kind: str,
    status: str = "False",
    at: float = 0.0,
    reason: str = "",
    message: str = "",
    monitor: str = "disk",
) -> ConditionView:
    """A condition as the broker tells it."""
    severity = Severity.ERROR if status == "True" else Severity.INFO
    given = reason or {"True": "Bad", "False": "Good", "Unknown": "NotYetObserved"}[status]
    return ConditionView(kind, ConditionStatus(status), given, message, monitor, severity, wall(at), wall(at))


def event(
    reason: str, message: str = "", at: float = 0.0, severity: str = "warning", count: int = 1
) -> EventRecord:
    """An event as the broker tells it."""
    return EventRecord("disk", Severity(severity), reason, message, wall(at), count)


def snapshot(
    now: float, *views: ConditionView, events: tuple[EventRecord, ...] = (), started: float = 0.0
) -> Snapshot:
    """The broker's state."""
    monitor = MonitorView("disk", "noop", MonitorState.OK, 10.0, 5.0, wall(now), 0.01, 3, 0, 42, ())
    return Snapshot(
        node="n1",
        version="0.1",
        epoch=1,
        seq=1,
        timestamp=wall(now),
        started=wall(started),
        supervised=wall(now),
        conditions=views,
        problems=(),
        monitors=(monitor,),
        workers=(),
        exporters=(),
        remediation=RemediationView(active=False, reason=""),
        inactive={},
        events=events,
        families=(),
    )


class Cluster:
    """The node object and the events, with the rules of a real API server."""

    def __init__(self) -> None:
        self.node: dict[str, Any] | None = None
        self.events: dict[str, dict[str, Any]] = {}
        self.register("u1")

    def register(self, uid: str) -> None:
        """A kubelet registers the node anew."""
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        self.node = {"metadata": {"name": "n1", "uid": uid}, "status": {"conditions": [ready]}}

    def serve(self, request: Request) -> Answer:
        """Grant a request.

        Raises:
            APIError: it can't be granted.
        """
        if request.operation == "node-patch":
            if self.node is None:
                raise NotFoundError("nodes n1 not found")
            new = merge(copy.deepcopy(self.node), request.body, strategic=True)
            check_conditions(new)
            self.node = new
            return msgspec.convert(new, Answer)
        name = request.body.get("metadata", {}).get("name") or request.path.rpartition("/")[2]
        old = self.events.get(name)
        if request.method == "PATCH" and old is None:
            raise NotFoundError("events not found")
        if request.method == "POST" and old is not None:
            raise ConflictError("exists")
        new = merge(copy.deepcopy(old or {}), request.body, strategic=True)
        check_event(new, "default")
        self.events[name] = new
        return Answer(Metadata("e"))

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """Conditions by type, without the kubelet's."""
        assert self.node is not None
        return {c["type"]: c for c in self.node["status"]["conditions"] if c["type"] != "Ready"}

    @property
    def annotations(self) -> dict[str, str]:
        """The node's annotations."""
        assert self.node is not None
        found: dict[str, str] = self.node["metadata"].get("annotations", {})
        return found


class Simulation:
    """`Sync` and a cluster, with time that passes when it is told to. `refuse` makes requests fail."""

    def __init__(
        self, cluster: Cluster | None = None, at: float = 0.0, seed: int = 1, **options: str
    ) -> None:
        self.now = at
        self.cluster = cluster or Cluster()
        self.sync = Sync("n1", KubernetesExporter(**options), at, random.Random(seed))  # type: ignore[arg-type]
        self.asked: list[tuple[float, Request]] = []
        self.refuse: Callable[[Request], APIError | None] = lambda _: None

    def have(
        self, *views: ConditionView, events: tuple[EventRecord, ...] = (), started: float = 0.0
    ) -> Simulation:
        """The broker's state, now."""
        self.sync.on_snapshot(snapshot(self.now, *views, events=events, started=started), self.now)
        return self

    def tell(self, *views: ConditionView) -> Simulation:
        """Transitions, now."""
        for one in views:
            self.sync.on_condition(one, self.now)
        return self

    def happen(self, *events: EventRecord) -> Simulation:
        """Events, now."""
        for one in events:
            self.sync.on_event(one, self.now)
        return self

    def run(self, until: float) -> Simulation:
        """Let time pass until `until`, and requests be answered."""
        while (due := self.sync.due(self.now)) <= until:
            self.now = max(self.now, due)
            request = self.sync.next(self.now, wall(self.now))
            assert request is not None, "something was due, and nothing came"
            self.asked.append((self.now, request))
            self.answer(request)
        self.now = max(self.now, until) if until < math.inf else self.now
        return self

    def answer(self, request: Request) -> None:
        """Answer one request."""
        error = self.refuse(request)
        try:
            if error is not None:
                raise error
            self.sync.on_answer(request, self.cluster.serve(request), self.now)
        except APIError as refused:
            self.sync.on_error(request, refused, self.now, wall(self.now))

    def patches(self, since: float = -1.0) -> list[dict[str, Any]]:
        """The bodies of the node's patches after `since`, without the first, empty one."""
        return [r.body for at, r in self.asked if r.operation == "node-patch" and r.body and at > since]

    def count(self, since: float = -1.0) -> int:
        """How many requests there were after `since`."""
        return sum(at > since for at, _ in self.asked)

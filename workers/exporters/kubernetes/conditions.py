"""The node's conditions: what it should have, what it has, and by when the difference is to be sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from nodedoctor.bus.messages import ConditionView, MonitorView
from nodedoctor.types import ConditionStatus
from workers.exporters.kubernetes.request import LONGEST_MESSAGE, cut, rfc3339

TOGETHER = 0.005
"""Seconds in which a transition waits for others of the same moment."""
SETTLE = 2.0
"""Seconds in which what is not urgent waits for more: the first all-clear of a new condition, a withdrawal."""
UNTRIED = ("NotYetObserved", "Unconfirmed", "NotChecked")
"""Reasons of an Unknown that comes of a start and of nothing else."""
SHORTEST_GRACE = 60.0
TRUE = ConditionStatus.TRUE

Content = tuple[ConditionStatus, str, str]
"""What a condition says: status, reason, message."""


class Known(msgspec.Struct, frozen=True):
    """A condition of ours that the node has. `since` is the second (epoch) of its last transition."""

    status: ConditionStatus
    since: int


class Conditions:
    """Only conditions of this agent: those that it has now, and those that it had and the node still has.

    `due` says by when what differs is to be sent; several travel together, and what changes back does not travel.
    """

    def __init__(self, update_interval: float, started: float) -> None:
        self.update_interval = update_interval
        self.started = started
        self.views: dict[str, ConditionView] = {}
        self.node: dict[str, Known] = {}
        self.sent: dict[str, Content] = {}
        self.refused: dict[str, Content] = {}
        self.grace: dict[str, float] = {}
        self.due: dict[str, float] = {}
        self.longest_message = LONGEST_MESSAGE

    def have(self, views: Iterable[ConditionView], monitors: Iterable[MonitorView], now: float) -> None:
        """These are all conditions that there are now."""
        intervals = {m.name: 4 * m.interval + m.timeout for m in monitors}
        new = {view.type: view for view in views}
        for kind, view in new.items():
            self.grace[kind] = max(SHORTEST_GRACE, intervals.get(view.monitor, 0.0))
            if is_of_this_exporter(view):
                new[kind] = self.views.get(kind, view)
        self.views = new
        self.judge_all(now)

    def change(self, view: ConditionView, now: float) -> None:
        """This one has changed."""
        if view.type in self.views and not is_of_this_exporter(view):
            self.views[view.type] = view
            self.judge(view.type, now)

    def learn(self, node: dict[str, Known], now: float) -> None:
        """The node has these of ours, and they have to be sent anew."""
        self.node, self.sent, self.due = dict(node), {}, {}
        self.judge_all(now)

    def judge_all(self, now: float) -> None:
        """Judge each."""
        for kind in {*self.views, *self.node}:
            self.judge(kind, now)

    def judge(self, kind: str, now: float) -> None:
        """Set by when `kind` is to be sent; what is due already does not get later."""
        wait = self.wait(kind, now)
        if wait == math.inf:
            self.due.pop(kind, None)
        else:
            self.due[kind] = min(self.due.get(kind, math.inf), now + wait)

    def wait(self, kind: str, now: float) -> float:
        """Seconds for which `kind` can wait; infinite if the node has it as it should be."""
        view, known = self.views.get(kind), self.node.get(kind)
        if view is None:
            return SETTLE if known else math.inf
        if content(view) in (self.sent.get(kind), self.refused.get(kind)) or self.untried(view, now):
            return math.inf
        if known is None:
            return TOGETHER if view.status is TRUE else SETTLE
        if known.status is not view.status:
            return TOGETHER
        return self.update_interval if kind in self.sent else SETTLE

    def untried(self, view: ConditionView, now: float) -> bool:
        """Whether nothing was found out since the start yet, but may be soon: what the node has stays until then."""
        if view.type in self.sent:
            return False
        early = now < self.started + self.grace.get(view.type, SHORTEST_GRACE)
        return is_of_this_exporter(view) or (view.reason in UNTRIED and early)

    def all(self, now: float) -> list[str]:
        """Every condition that can be sent."""
        mine = [kind for kind, view in self.views.items() if not self.untried(view, now)]
        kinds = [*mine, *(kind for kind in self.node if kind not in self.views)]
        return [kind for kind in kinds if kind not in self.refused or kind in self.due]

    def since(self, view: ConditionView) -> int:
        """Since when the node has had this status: a restart of the agent is no transition."""
        known = self.node.get(view.type)
        if known and known.status is view.status:
            return known.since
        return max(int(view.last_transition_time.timestamp()), known.since if known else 0)

    def entry(self, kind: str) -> dict[str, Any]:
        """`kind` as it stands in a patch."""
        view = self.views.get(kind)
        if view is None:
            return {"$patch": "delete", "type": kind}
        return {
            "type": kind,
            "status": view.status,
            "reason": view.reason,
            "message": cut(view.message, self.longest_message),
            "lastHeartbeatTime": rfc3339(view.last_update_time),
            "lastTransitionTime": rfc3339(datetime.fromtimestamp(self.since(view), UTC)),
        }

    def after(self, kinds: Iterable[str]) -> dict[str, Known]:
        """What the node will have of ours when a patch with `kinds` was taken."""
        node = dict(self.node)
        for kind in kinds:
            if view := self.views.get(kind):
                node[kind] = Known(view.status, self.since(view))
            else:
                node.pop(kind, None)
        return node

    def taken(self, kinds: Iterable[str], now: float) -> None:
        """The API server has taken `kinds` as they are now."""
        kinds = tuple(kinds)
        self.node = self.after(kinds)
        for kind in kinds:
            self.refused.pop(kind, None)
            if view := self.views.get(kind):
                self.sent[kind] = content(view)
            else:
                self.sent.pop(kind, None)
            self.judge(kind, now)

    def refuse(self, kind: str) -> None:
        """The API server does not want `kind` as it is: others must not wait for it."""
        self.due.pop(kind, None)
        if view := self.views.get(kind):
            self.refused[kind] = content(view)

    def stop(self) -> None:
        """The agent ends: nobody will know any more."""
        for kind in self.sent:
            self.views[kind] = msgspec.structs.replace(
                self.views[kind],
                status=ConditionStatus.UNKNOWN,
                reason="AgentStopped",
                message="node-doctor was stopped",
                last_transition_time=datetime.now(UTC),
                last_update_time=datetime.now(UTC),
            )


def content(view: ConditionView) -> Content:
    """What makes a condition another one."""
    return view.status, view.reason, view.message


def is_of_this_exporter(view: ConditionView) -> bool:
    """Whether it only says that the API can't be reached: where it could be written, it would be over."""
    return (
        view.type == "ExporterUnavailable" and view.status is TRUE and view.message.startswith("kubernetes: ")
    )

"""What the Kubernetes exporter asks for, and when: its core, with numbers for time."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from kubernetes_support import Cluster, Simulation, event, second, view

from nodedoctor.bus.messages import ExporterState
from workers.exporters.kubernetes.annotations import LARGEST, OWNED, STATUS, UPDATED, read_owned, status_text
from workers.exporters.kubernetes.conditions import UNTRIED
from workers.exporters.kubernetes.pace import LONGEST, Bucket, Lane
from workers.exporters.kubernetes.request import Request, cut
from workers.kubernetes import (
    APIError,
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ServerError,
    TLSError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreachableError,
)


def started(**options: str) -> Simulation:
    """An exporter whose node has one condition, which is fine."""
    return Simulation(**options).have(view("DiskSpaceLow")).run(20)


def types(patch: dict[str, Any]) -> list[str]:
    return [condition["type"] for condition in patch["status"]["conditions"]]


def test_conditions_come_to_the_node_and_the_kubelets_stay() -> None:
    one = started()
    assert one.cluster.conditions["DiskSpaceLow"] == {
        "type": "DiskSpaceLow",
        "status": "False",
        "reason": "Good",
        "message": "",
        "lastHeartbeatTime": second(0),
        "lastTransitionTime": second(0),
    }
    assert one.cluster.node
    assert one.cluster.node["status"]["conditions"][0]["type"] == "Ready"
    assert [types(patch) for patch in one.patches()] == [["DiskSpaceLow"]]


def test_a_transition_is_sent_within_milliseconds_and_several_at_once_in_one_patch() -> None:
    one = started()
    one.have(*(view(kind) for kind in ("DiskSpaceLow", "A", "B"))).run(40)
    one.tell(view("A", "True", 40)).run(40.002)
    one.tell(view("B", "True", 40)).run(40.02)
    assert [types(p) for p in one.patches(since=39)] == [["A", "B"]]
    assert one.asked[-1][0] == pytest.approx(40.005)


def test_what_changes_back_at_once_is_not_sent() -> None:
    one = started().tell(view("DiskSpaceLow", "True", 20), view("DiskSpaceLow", "False", 20.001)).run(30)
    assert one.patches(since=20) == []


def test_a_change_of_a_message_alone_waits_for_the_update_interval() -> None:
    one = started(update_interval="10s")
    one.have(view("DiskSpaceLow", message="/var is nearly full")).run(29.9)
    assert one.patches(since=20) == []
    one.run(30.1)
    assert one.cluster.conditions["DiskSpaceLow"]["message"] == "/var is nearly full"
    assert one.cluster.conditions["DiskSpaceLow"]["lastTransitionTime"] == second(0)


def test_the_transition_time_moves_with_the_status_only() -> None:
    one = started().tell(view("DiskSpaceLow", "True", 50)).run(60)
    assert one.cluster.conditions["DiskSpaceLow"]["lastTransitionTime"] == second(50)
    one.have(view("DiskSpaceLow", "True", 50, reason="Worse")).run(90)
    assert one.cluster.conditions["DiskSpaceLow"]["reason"] == "Worse"
    assert one.cluster.conditions["DiskSpaceLow"]["lastTransitionTime"] == second(50)


@pytest.mark.parametrize("reason", UNTRIED)
def test_a_restart_is_neither_a_transition_nor_healthy_nor_unknown(reason: str) -> None:
    """An agent that said at its start that all is well hid what was wrong, and one that said Unknown moved the time."""
    one = started().tell(view("DiskSpaceLow", "True", 50)).run(60)
    two = Simulation(one.cluster, at=100).have(view("DiskSpaceLow", "Unknown", 100, reason=reason)).run(110)
    assert one.cluster.conditions["DiskSpaceLow"]["status"] == "True"
    assert two.patches() == []
    two.tell(view("DiskSpaceLow", "True", 110)).run(130)
    assert one.cluster.conditions["DiskSpaceLow"]["lastTransitionTime"] == second(50)
    assert not any("get" in request.method.lower() for _, request in two.asked), "and nothing is read"


def test_what_is_not_observed_for_long_after_a_start_is_unknown() -> None:
    """A monitor that never came up again left its last verdict on the node for months."""
    one = started().tell(view("DiskSpaceLow", "True", 50)).run(60)
    two = Simulation(one.cluster, at=100)
    for now in range(100, 200, 10):
        two.have(view("DiskSpaceLow", "Unknown", 100)).run(now + 10)
    assert one.cluster.conditions["DiskSpaceLow"]["status"] == "Unknown"
    assert one.cluster.conditions["DiskSpaceLow"]["lastTransitionTime"] == second(100)


def test_a_condition_that_is_not_configured_any_more_is_taken_away() -> None:
    one = started().have(view("DiskSpaceLow"), view("Old", "True")).run(40)
    assert set(one.cluster.conditions) == {"DiskSpaceLow", "Old"}
    one.have(view("DiskSpaceLow")).run(60)
    assert set(one.cluster.conditions) == {"DiskSpaceLow"}


def test_an_upgrade_takes_away_what_the_old_version_left_and_nothing_else() -> None:
    cluster = Simulation().have(view("Old", "True"), view("Kept")).run(20).cluster
    assert cluster.node
    cluster.node["status"]["conditions"].append({"type": "Foreign", "status": "True"})
    Simulation(cluster, at=100).have(view("Kept", at=100)).run(130)
    assert set(cluster.conditions) == {"Kept", "Foreign"}
    assert set(json.loads(cluster.annotations[OWNED])) == {"Kept"}


def test_nothing_is_taken_away_before_the_broker_has_told_what_there_is() -> None:
    cluster = started().cluster
    two = Simulation(cluster, at=100).run(1000)
    assert set(cluster.conditions) == {"DiskSpaceLow"}
    assert two.patches() == []


def test_an_idle_node_costs_at_most_fifteen_requests_an_hour_and_no_read() -> None:
    for seed in range(8):
        one = Simulation(seed=seed)
        for now in range(0, 3 * 3600, 30):
            one.have(*(view(f"C{n}") for n in range(30))).run(now + 30)
        for hour in range(3):
            during = [request for at, request in one.asked if hour * 3600 <= at < hour * 3600 + 3600]
            assert 9 <= len(during) <= 15
            assert {request.method for request in during} == {"PATCH"}


def test_heartbeats_of_many_nodes_do_not_meet() -> None:
    times = []
    for seed in range(200):
        one = Simulation(seed=seed).have(view("A")).run(10)
        one.run(310)
        times.append(one.asked[-1][0])
    spread = [sum(start <= at < start + 60 for at in times) for start in range(10, 310, 60)]
    assert min(spread) > 15


def test_a_heartbeat_repairs_what_somebody_changed() -> None:
    one = Simulation().have(view("A"), view("B")).run(20)
    assert one.cluster.node
    one.cluster.node["status"]["conditions"] = [{"type": "A", "status": "True"}]
    one.have(view("A"), view("B")).run(20 + 1.2 * 300 + 1)
    assert {kind: c["status"] for kind, c in one.cluster.conditions.items()} == {"A": "False", "B": "False"}


def test_the_next_patch_after_the_resync_interval_carries_everything() -> None:
    one = Simulation(heartbeat_interval="1h").have(view("A"), view("B")).run(20)
    one.tell(view("A", "True", 20)).run(30)
    assert types(one.patches()[-1]) == ["A"]
    one.run(100).tell(view("A", "False", 100)).run(110)
    assert sorted(types(one.patches()[-1])) == ["A", "B"]


def test_a_flapping_node_costs_at_most_a_request_a_second() -> None:
    one = Simulation().have(*(view(f"C{n}") for n in range(40))).run(20)
    steps = 20_000
    for step in range(steps):
        now = 20 + step / 1000
        kind, status = f"C{step % 40}", ("True", "False")[step // 40 % 2]
        one.now = max(one.now, now)
        one.tell(view(kind, status, now)).happen(event(kind, f"{kind} is {status}", now)).run(now)
    assert one.count(since=20) <= 20
    one.run(200)
    assert all(
        c["status"] == ("True", "False")[(steps // 40 - 1) % 2] for c in one.cluster.conditions.values()
    )


def test_nobody_else_changing_the_node_goes_unnoticed_but_it_is_no_duel() -> None:
    one = Simulation().have(view("A")).run(20)
    del one.cluster.annotations[OWNED]
    one.tell(view("A", "True", 30)).run(60)
    assert OWNED in one.cluster.annotations
    duel = Simulation().have(view("A")).run(20)
    serve = duel.cluster.serve

    def serve_without(request: Request) -> Any:
        serve(request)
        duel.cluster.annotations.pop(OWNED, None)
        return serve(Request("node-patch", "PATCH", "", {}))

    duel.cluster.serve = serve_without  # type: ignore[method-assign]
    for now in range(20, 3620, 10):
        duel.have(view("A")).run(now + 10)
    assert duel.count(since=20) <= 15


def test_a_node_that_is_made_anew_gets_everything_anew() -> None:
    one = Simulation().have(view("A", "True", 5), view("B")).run(20)
    one.cluster.register("u2")
    one.tell(view("A", "False", 21)).run(30)
    assert set(one.cluster.conditions) == {"A", "B"}
    assert set(json.loads(one.cluster.annotations[OWNED])) == {"A", "B"}


def test_a_node_that_is_not_there_yet_is_waited_for() -> None:
    cluster = Cluster()
    cluster.node = None
    one = Simulation(cluster).have(view("A", "True")).run(30)
    assert one.sync.state()[0] is ExporterState.UNAVAILABLE
    assert one.cluster.events == {}
    cluster.register("u1")
    one.run(50)
    assert cluster.conditions["A"]["status"] == "True"
    assert one.sync.state() == (ExporterState.RUNNING, "")
    assert one.count() < 15


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("x"),
        DeadlineError("x"),
        TLSError("x"),
        UnauthorizedError("x"),
        ConflictError("x"),
        ServerError("x"),
        TooManyRequestsError("x", 0.0),
        TooLargeError("x"),
    ],
    ids=lambda error: error.result,
)
def test_while_the_server_fails_the_pauses_grow_and_then_the_newest_state_is_sent(error: APIError) -> None:
    one = started()
    one.refuse = lambda request: error if request.operation == "node-patch" else None
    for step in range(600):
        one.now = max(one.now, 20 + step)
        one.tell(view("DiskSpaceLow", ("True", "False")[step % 2], 20 + step))
        one.happen(event("Again", at=20 + step)).run(21 + step)
    tries = [at for at, _ in one.asked if at > 20]
    assert 8 < len(tries) < 25
    assert max(after - before for before, after in pairwise(tries)) <= LONGEST
    assert one.sync.state()[0] is ExporterState.UNAVAILABLE
    assert "behind since 2026-01-01T00:00:2" in one.sync.state()[1]
    one.refuse = lambda _: None
    one.tell(view("DiskSpaceLow", "True", 620)).run(620 + LONGEST + 10)
    assert one.cluster.conditions["DiskSpaceLow"]["status"] == "True"
    assert one.sync.state() == (ExporterState.RUNNING, "")
    (told,) = one.cluster.events.values()
    assert told["count"] == 600


def test_one_failure_is_not_told_as_an_outage() -> None:
    one = started()
    one.refuse = lambda _: ServerError("x") if len(one.asked) == 3 else None
    one.tell(view("DiskSpaceLow", "True", 20)).run(20.1)
    assert one.sync.state() == (ExporterState.RUNNING, "")
    one.run(22)
    assert one.cluster.conditions["DiskSpaceLow"]["status"] == "True"


def test_the_server_says_how_long_to_wait() -> None:
    one = started()
    one.refuse = lambda _: TooManyRequestsError("x", 40.0) if len(one.asked) == 3 else None
    one.tell(view("DiskSpaceLow", "True", 20)).run(100)
    assert 60 <= one.asked[-1][0] <= 80.1


def test_a_right_that_is_missing_is_named_and_asked_for_seldom(caplog: pytest.LogCaptureFixture) -> None:
    one = Simulation().have(view("A"))
    one.refuse = lambda _: ForbiddenError("patch", "nodes/status")
    one.run(3600)
    assert 10 <= one.count() <= 30
    assert one.sync.state()[0] is ExporterState.UNAVAILABLE
    assert "not allowed to patch nodes/status" in one.sync.state()[1]
    assert len(caplog.records) == 1


def test_events_that_are_forbidden_do_not_stop_the_conditions() -> None:
    one = started()
    one.refuse = lambda r: ForbiddenError("create", "events") if r.operation == "event-create" else None
    one.happen(event("X")).tell(view("DiskSpaceLow", "True", 20)).run(60)
    assert one.cluster.conditions["DiskSpaceLow"]["status"] == "True"
    state, text = one.sync.state()
    assert state is ExporterState.RUNNING
    assert "create events" in text


def test_one_condition_that_is_refused_does_not_hide_the_others() -> None:
    one = Simulation().have(view("A"), view("B"), view("C"))

    def refuse(request: Request) -> APIError | None:
        bad = any(c["type"] == "B" for c in request.body.get("status", {}).get("conditions", ()))
        return InvalidError("B") if bad else None

    one.refuse = refuse
    one.run(100)
    assert set(one.cluster.conditions) == {"A", "C"}
    asked = one.count()
    one.have(view("A"), view("B"), view("C")).run(200)
    assert one.count() == asked, "and it is not tried again as long as it is the same"
    one.refuse = lambda _: None
    one.have(view("A"), view("B", message="better"), view("C")).run(300)
    assert set(one.cluster.conditions) == {"A", "B", "C"}
    one.run(900)
    assert sorted(types(one.patches()[-1])) == ["A", "B", "C"], "heartbeats have it, too"


def test_a_patch_that_is_too_large_is_sent_in_fewer_words() -> None:
    one = Simulation().have(view("A", "True", message="x" * 900), view("B", "True", message="y" * 900))

    def refuse(request: Request) -> APIError | None:
        return TooLargeError("x") if len(json.dumps(request.body)) > 1500 else None

    one.refuse = refuse
    one.run(30)
    assert {c["status"] for c in one.cluster.conditions.values()} == {"True"}
    assert STATUS not in one.cluster.annotations


def test_that_the_api_cannot_be_reached_is_not_written_to_it() -> None:
    """Each agent of a cluster would otherwise write twice when the API server is back."""
    kind = "ExporterUnavailable"
    one = Simulation().have(view(kind), view("A")).run(20)
    one.tell(view(kind, "True", 30, message="kubernetes: unreachable")).run(100)
    one.have(view(kind, "True", 30, message="kubernetes: unreachable"), view("A")).run(200)
    assert one.cluster.conditions[kind]["status"] == "False"
    one.tell(view(kind, "True", 30, message="http: port 8080 is taken")).run(210)
    assert one.cluster.conditions[kind]["status"] == "True"


def test_the_annotations_tell_the_state_and_change_with_it_only() -> None:
    one = Simulation().have(view("A", "True"), view("B"), view("C", "Unknown", reason="NoRight")).run(20)
    assert json.loads(one.cluster.annotations[STATUS]) == {
        "health": "unhealthy",
        "version": "0.1",
        "problems": [{"type": "A", "reason": "Bad"}],
        "unknown": ["C"],
    }
    at = one.cluster.annotations[UPDATED]
    one.run(1000)
    assert one.count(since=20) > 2
    assert one.cluster.annotations[UPDATED] == at
    assert all("metadata" not in patch for patch in one.patches(since=20))
    one.tell(view("A", "False", 1000)).run(1001)
    assert one.cluster.annotations[UPDATED] == second(1000)
    assert json.loads(one.cluster.annotations[STATUS])["health"] == "healthy"


def test_the_status_annotation_stays_below_four_kilobytes() -> None:
    problems = [{"type": f"Problem{n:050}", "reason": "R" * 60} for n in range(200)]
    text = status_text("unhealthy", "0.1", problems, [f"U{n}" for n in range(300)])
    said = json.loads(text)
    assert len(text.encode()) <= LARGEST
    assert said["problems"]
    assert len(said["problems"]) + len(said["unknown"]) + said["more"] == 500


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"A": 1}', '{"A": "X1", "B": "T", "C": "Tx", "D": "T1e9"}', '{"A": "T99999999999999"}'],
)
def test_an_annotation_that_somebody_else_wrote_is_no_harm(text: str) -> None:
    assert read_owned(text) == {}


@pytest.mark.parametrize(
    ("on_stop", "status", "reason"), [("leave", "True", "Bad"), ("unknown", "Unknown", "AgentStopped")]
)
def test_what_the_node_has_after_a_stop_is_a_choice(on_stop: str, status: str, reason: str) -> None:
    one = Simulation(on_stop=on_stop).have(view("A", "True")).run(20)
    request = one.sync.last_words(20, one.sync.snapshot.timestamp)  # type: ignore[union-attr]
    if request:
        one.answer(request)
    assert one.cluster.conditions["A"]["status"] == status
    assert one.cluster.conditions["A"]["reason"] == reason


def test_a_stop_sends_what_was_not_sent_yet_unless_the_server_is_away() -> None:
    one = started().tell(view("DiskSpaceLow", "True", 20))
    request = one.sync.last_words(20, one.sync.snapshot.timestamp)  # type: ignore[union-attr]
    assert request
    assert types(request.body) == ["DiskSpaceLow"]
    one.refuse = lambda _: UnreachableError("x")
    one.run(30)
    assert one.sync.last_words(30, one.sync.snapshot.timestamp) is None  # type: ignore[union-attr]


def test_a_bucket_gives_what_it_has_and_then_its_rate() -> None:
    bucket = Bucket(2, 0.5)
    assert [bucket.take(0), bucket.take(0), bucket.take(0)] == [True, True, False]
    assert bucket.due(0) == pytest.approx(2)
    assert not bucket.take(1.9)
    assert bucket.take(bucket.due(1.9))
    assert [bucket.take(100), bucket.take(100), bucket.take(100)] == [True, True, False]


def test_the_pauses_after_failures_are_doubled_and_spread() -> None:
    lane = Lane(random.Random(1))
    pauses = []
    for _ in range(12):
        lane.failed(ServerError("x"), 0.0, None)  # type: ignore[arg-type]
        pauses.append(lane.free_at)
    wanted = [0.5 * 2**n for n in range(8)] + [120.0] * 4
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, wanted, strict=True))
    assert len(set(pauses)) == 12
    lane.failed(NotFoundError("x"), 0.0, None)  # type: ignore[arg-type]
    assert lane.free_at <= 15


def test_a_text_is_cut_between_characters() -> None:
    assert cut("abc") == "abc"
    assert len(cut("é" * 1000).encode()) <= 1024
    assert cut("é" * 1000).endswith("é…")
    assert cut("\ud800") == "?"

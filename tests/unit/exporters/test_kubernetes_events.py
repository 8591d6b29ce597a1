"""Events in the Kubernetes API: each once, repeats counted, never a flood."""

from __future__ import annotations

import pytest
from kubernetes_support import Simulation, event, second, view

from workers.exporters.kubernetes import events
from workers.exporters.kubernetes.events import SUPPRESSED
from workers.exporters.kubernetes.request import Request
from workers.kubernetes import APIError, InvalidError, ServerError


def started() -> Simulation:
    return Simulation().have(view("DiskSpaceLow")).run(20)


def told(one: Simulation) -> dict[str, int]:
    """Counts by reason, as the API has them."""
    found: dict[str, int] = {}
    for made in one.cluster.events.values():
        found[made["reason"]] = found.get(made["reason"], 0) + made["count"]
    return found


def test_an_event_looks_as_the_kubelet_writes_it() -> None:
    one = started().happen(event("OOMKilling", "killed a", at=19)).run(21)
    (made,) = one.cluster.events.values()
    name = made.pop("metadata")["name"]
    assert name.startswith("n1.")
    assert made == {
        "apiVersion": "v1",
        "kind": "Event",
        "involvedObject": {"kind": "Node", "name": "n1", "uid": "n1"},
        "type": "Warning",
        "reason": "OOMKilling",
        "message": "killed a",
        "count": 1,
        "firstTimestamp": second(19),
        "lastTimestamp": second(19),
        "source": {"component": "node-doctor", "host": "n1"},
        "reportingComponent": "node-doctor",
        "reportingInstance": "n1",
    }
    assert one.asked[-1][1].path == "/api/v1/namespaces/default/events"


@pytest.mark.parametrize(
    ("severity", "kind"), [("info", "Normal"), ("warning", "Warning"), ("error", "Warning")]
)
def test_what_is_no_problem_is_normal(severity: str, kind: str) -> None:
    one = started().happen(event("X", severity=severity)).run(21)
    assert [made["type"] for made in one.cluster.events.values()] == [kind]


def test_repeats_are_one_event_with_a_count_and_are_told_more_and_more_seldom() -> None:
    one = started()
    for now in range(20, 620):
        one.happen(event("X", at=now)).run(now + 1)
    one.run(1300)
    (made,) = one.cluster.events.values()
    assert (made["count"], made["firstTimestamp"], made["lastTimestamp"]) == (600, second(20), second(619))
    assert sum(r.operation == "event-patch" for _, r in one.asked) <= 8


def test_an_event_that_the_api_has_forgotten_is_told_anew() -> None:
    """Events are collected after an hour; a patch of what is gone is no reason to be silent."""
    one = started().happen(event("X", at=20), event("X", at=20.5)).run(40)
    one.cluster.events.clear()
    one.happen(event("X", at=7200), event("X", at=7201)).run(8000)
    (made,) = one.cluster.events.values()
    assert (made["count"], made["firstTimestamp"]) == (2, second(7201))
    one.happen(event("X", at=8001)).run(9000)
    assert told(one) == {"X": 3}


def test_an_event_whose_answer_was_lost_is_not_told_twice() -> None:
    one = started()
    serve, lost = one.cluster.serve, []

    def serve_and_lose(request: Request) -> object:
        answer = serve(request)
        if request.operation == "event-create" and not lost:
            lost.append(request)
            raise ServerError("x")
        return answer

    one.cluster.serve = serve_and_lose  # type: ignore[method-assign, assignment]
    one.happen(event("X")).run(60)
    assert told(one) == {"X": 1}
    assert sum(r.operation == "event-create" for _, r in one.asked) == 2


def test_a_restart_of_the_exporter_tells_nothing_again() -> None:
    happened = (event("Old", at=10), event("New", at=95))
    one = Simulation().have(view("A"), events=happened[:1]).run(20).happen(happened[1]).run(100)
    assert told(one) == {"Old": 1, "New": 1}
    two = Simulation(one.cluster, at=100).have(view("A"), events=happened).run(200)
    assert told(two) == {"Old": 1, "New": 1}
    assert sum(r.operation == "event-create" for _, r in two.asked) == 1, (
        "only the newest may not be known yet"
    )


def test_what_happened_before_the_first_snapshot_of_a_new_agent_is_told() -> None:
    one = Simulation(at=100).have(view("A"), events=(event("Boot", at=5),), started=99).run(130)
    assert told(one) == {"Boot": 1}


def test_an_event_of_the_stream_that_is_in_the_snapshot_too_is_one() -> None:
    one = started().happen(event("X", at=20)).have(view("DiskSpaceLow"), events=(event("X", at=20),)).run(60)
    assert told(one) == {"X": 1}


def test_one_noisy_reason_silences_no_other_and_a_summary_tells_of_the_rest() -> None:
    """Spam used up what there was for everybody, and the event that mattered was dropped without a trace."""
    one = started()
    for number in range(1000):
        one.happen(event("Noise", f"line {number}", at=20 + number / 100)).run(20 + number / 100)
    one.happen(event("Important", at=30)).run(200)
    counts = told(one)
    assert counts["Important"] == 1
    assert counts["Noise"] <= 10
    assert counts["Noise"] + counts[SUPPRESSED] == 1000
    (summary,) = [made for made in one.cluster.events.values() if made["reason"] == SUPPRESSED]
    assert "Noise" in summary["message"]
    assert one.sync.events.dropped == counts[SUPPRESSED]
    for number in range(100):
        one.happen(event("Noise", f"more {number}", at=200)).run(200)
    one.run(400)
    summaries = [made for made in one.cluster.events.values() if made["reason"] == SUPPRESSED]
    assert len(summaries) == 1
    assert summaries[0]["count"] == one.sync.events.dropped


def test_while_the_server_is_away_a_bounded_number_waits() -> None:
    one = started()
    one.refuse = lambda _: ServerError("x")
    for number in range(5000):
        one.happen(event(f"R{number}", at=20)).run(20 + number / 100)
    assert one.sync.events.waiting() <= events.MOST_WAITING
    one.refuse = lambda _: None
    one.run(2000)
    assert sum(told(one).values()) == 5000


def test_the_number_of_series_is_bounded() -> None:
    one = started()
    for number in range(2000):
        one.happen(event(f"R{number}", at=20 + number * 7)).run(27 + number * 7)
    assert len(one.sync.events.series) <= events.MOST_SERIES
    assert len(one.sync.events.reasons) <= events.MOST_REASONS
    assert told(one) == {f"R{number}": 1 for number in range(2000)}


def test_an_event_that_the_server_does_not_take_stops_no_other() -> None:
    one = started()

    def refuse(request: Request) -> APIError | None:
        return InvalidError("bad") if request.body.get("reason") == "Bad" else None

    one.refuse = refuse
    one.happen(event("Bad"), event("Good")).run(60)
    assert told(one) == {"Good": 1}
    assert one.sync.events.dropped == 1


def test_long_texts_and_names_fit() -> None:
    one = started()
    one.sync.events.node = "n" * 253
    one.happen(event("R" * 300, "m" * 5000)).run(60)
    (made,) = one.cluster.events.values()
    assert (len(made["reason"].encode()), len(made["message"].encode())) == (128, 1024)
    assert len(made["metadata"]["name"]) <= 253


def test_events_and_patches_together_stay_below_one_a_second() -> None:
    one = started()
    for number in range(3000):
        one.happen(event(f"R{number}", at=20)).run(20 + number / 50)
    assert one.count(since=20) <= 30

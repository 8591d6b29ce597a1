"""What the Kubernetes exporter costs the API server, and how soon it tells."""

from __future__ import annotations

import heapq
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # where the double of the API server is

from api_support import APIServer
from kubernetes_support import Simulation, event, snapshot, view, wall

from benchmarks.agents import running
from benchmarks.figures import show, spread
from benchmarks.logs import write_kmsg
from nodedoctor.bus.messages import ConditionView
from nodedoctor.config.model import KubernetesExporter
from workers.exporters.kubernetes.request import Answer, Metadata, Request
from workers.exporters.kubernetes.sync import Sync
from workers.kubernetes import UnreachableError

NODE = "test-node"
AGENTS, EACH = 500, 10
"""So many are simulated, each for so many: a day of all 5,000 takes seven minutes."""
DAY = 24 * 3600.0
ROLLOUT, ROLLOUT_LASTS = 6 * 3600.0, 1800.0
OUTAGE, OUTAGE_LASTS = 12 * 3600.0, 600.0
LINES = 20
PACE = 2.7
"""Seconds between two lines: the exporter keeps to its own budget of patches."""


def thirty() -> tuple[ConditionView, ...]:
    """As many conditions as an agent with everything has."""
    return tuple(view(f"Condition{n:02}", message="") for n in range(30))


def size(body: object) -> int:
    """Bytes of a body."""
    return len(json.dumps(body, separators=(",", ":")))


def idle() -> None:
    """Requests of a healthy node."""
    counts, first = [], []
    for seed in range(20):
        one = Simulation(seed=seed).have(*thirty()).run(5 * 3600)
        counts.append(one.count(since=3600) / 4)
        first.append(one.count() - one.count(since=3600))
    show("requests an hour, healthy node", f"{statistics.mean(counts):.1f}", "<= 15")
    show("requests in the first hour after a start", f"{statistics.mean(first):.1f}", "<= 15")
    show("bytes of the first patch, 30 conditions", f"{size(one.patches()[0]):,}")
    show("bytes of a heartbeat, 30 conditions", f"{size(one.patches()[-1]):,}")
    one.sync.whole_at = one.now
    one.tell(view("Condition07", "True", one.now, message="/var is fuller than 95 %")).run(one.now + 1)
    show("bytes of one transition, with the annotations", f"{size(one.patches()[-1]):,}")


def flapping() -> None:
    """Requests while 1,000 transitions a second come, each with an event."""
    one = Simulation().have(*thirty()).run(60)
    for step in range(120_000):
        now = 60 + step / 1000
        one.now = max(one.now, now)
        kind, status = f"Condition{step % 30:02}", ("True", "False")[step // 30 % 2]
        one.tell(view(kind, status, now)).happen(event(kind, f"{kind} is now {status}", now)).run(now)
    for seconds in (10, 60, 120):
        count = sum(60 < at <= 60 + seconds for at, _ in one.asked)
        what = f"requests a second, 1,000 transitions a second for {seconds} s"
        show(what, f"{count / seconds:.2f}", "<= 1")


class Fleet:
    """Many agents and one API server that is away for a while; requests are counted by the second."""

    def __init__(self) -> None:
        self.seconds: Counter[int] = Counter()
        self.agents: dict[int, Sync] = {}
        self.annotations: dict[int, dict[str, str]] = {}
        self.queue: list[tuple[float, int, Sync]] = []

    def start(self, number: int, now: float) -> None:
        """Agent `number` starts, perhaps again; the process that it had before is gone."""
        sync = Sync(f"n{number}", KubernetesExporter(), now, random.Random(number * 7919 + int(now)))
        sync.on_snapshot(snapshot(now, *(view(f"C{n}") for n in range(10))), now)
        self.agents[number] = sync
        self.wake(number, now)

    def wake(self, number: int, now: float) -> None:
        """Something has happened to agent `number`: it is asked when it is due."""
        sync = self.agents[number]
        heapq.heappush(self.queue, (max(now, sync.due(now)), number, sync))

    def run(self, until: float) -> None:
        """Let time pass until `until`."""
        while self.queue and self.queue[0][0] <= until:
            now, number, sync = heapq.heappop(self.queue)
            if self.agents[number] is not sync:
                continue
            request = sync.next(now, wall(now))
            if request is not None:
                self.answer(number, sync, request, now)
                self.wake(number, now)

    def answer(self, number: int, sync: Sync, request: Request, now: float) -> None:
        """Grant or refuse one request."""
        self.seconds[int(now)] += 1
        if OUTAGE <= now < OUTAGE + OUTAGE_LASTS:
            sync.on_error(request, UnreachableError("away"), now, wall(now))
            return
        has = self.annotations.setdefault(number, {})
        if request.operation == "node-patch":
            has.update(request.body.get("metadata", {}).get("annotations", {}))
        sync.on_answer(request, Answer(Metadata(f"u{number}", dict(has))), now)

    def trouble(self, number: int, now: float) -> None:
        """One condition of agent `number` turns True."""
        self.agents[number].on_condition(view("C3", "True", now), now)
        self.agents[number].on_event(event("Bad", "C3 is now True", now), now)
        self.wake(number, now)


def fleet() -> None:
    """A day of a large cluster: a roll-out in the morning, the API server away for ten minutes at noon."""
    logging.disable()
    one = Fleet()
    for number in range(AGENTS):
        one.start(number, random.Random(number).uniform(0, 600))
    one.run(ROLLOUT)
    for number in range(AGENTS):
        when = ROLLOUT + ROLLOUT_LASTS * number / AGENTS
        one.run(when)
        one.start(number, when)
    one.run(OUTAGE)
    for number in range(0, AGENTS, 10):
        one.trouble(number, OUTAGE)
    one.run(DAY)
    logging.disable(logging.NOTSET)
    for what, begin, length in (
        ("idle", 2 * 3600.0, 3600.0),
        ("roll-out in 30 minutes", ROLLOUT, ROLLOUT_LASTS),
        ("API server away, one of ten has news", OUTAGE, OUTAGE_LASTS),
        ("the first second of it", OUTAGE, 1.0),
        ("the first minute of its return", OUTAGE + OUTAGE_LASTS, 60.0),
        ("the next four minutes", OUTAGE + OUTAGE_LASTS + 60, 240.0),
        ("two hours later", OUTAGE + 2 * 3600.0, 3600.0),
    ):
        rates = [one.seconds[second] for second in range(int(begin), int(begin + length))]
        show(f"5,000 agents, {what}", f"{statistics.mean(rates) * EACH:.1f}/s")
    show("5,000 agents, requests in a day", f"{sum(one.seconds.values()) * EACH:,}")


def rules() -> list[dict[str, str]]:
    """Forty rules; a few of them set a condition each."""
    bad = [
        {
            "name": f"bad{n}",
            "pattern": f"nd-k8s-{n}-bad",
            "type": "permanent",
            "condition": f"Bench{n}Bad",
            "reason": "BenchLine",
        }
        for n in range(LINES)
    ]
    return [*({"name": f"r{n}", "pattern": f"nothing-like-{n}-[a-z]+"} for n in range(40 - LINES)), *bad]


def latency() -> None:
    """From a line of the kernel's log to the node's condition, over everything that is between."""
    config = {"source": "kmsg", "rules": rules()}
    entry = json.dumps([{"name": "log", "type": "log-pattern", "interval": "1s", "config": config}])
    lines, requests = [], []
    with tempfile.TemporaryDirectory() as folder, APIServer() as api:
        api.add_node(NODE)
        with running(entry, settings__kubeconfig=str(api.kubeconfig(Path(folder)))) as agent:
            tap = agent.tap("condition.Bench")
            time.sleep(8)
            for number in range(LINES):
                asked, began = len(api.asked), time.monotonic()
                write_kmsg([f"nd-k8s-{number}-bad {os.getpid()}"])
                tap.recv_multipart()
                told = time.monotonic()
                while api.conditions(NODE).get(f"Bench{number}Bad", {}).get("status") != "True":
                    time.sleep(0.0005)
                lines.append(time.monotonic() - began)
                requests.append(api.asked[asked].at - told)
                time.sleep(PACE)
            tap.close()
    show(
        f"transition on the bus -> request at the API, {LINES} runs", spread(requests, "ms", 1000), "<= 20 ms"
    )
    show(f"kernel line -> node condition at the API, {LINES} runs", spread(lines, "ms", 1000), "<= 50 ms")


def main() -> None:
    """Print the figures."""
    idle()
    flapping()
    latency()
    fleet()


if __name__ == "__main__":
    main()

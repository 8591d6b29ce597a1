"""Random faults for a minute, under load: afterwards everything is as before, and nothing has leaked."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from tests_support import Agent, eventually

MONITORS = ", ".join(f"{{name: n{i}, type: noop, interval: 500ms, timeout: 300ms}}" for i in range(15))
BAD = "{name: bad, type: misbehaviour, interval: 1s, timeout: 500ms, failureThreshold: 1, config: {way: bad}}"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_killed_or_stopped_comes_back(agent: Callable[..., Agent], seed: int) -> None:
    chance = random.Random(seed)
    one = agent(f"[{MONITORS}, {BAD}]").ready()
    one.becomes("Misbehaving", "True")
    supervisor = psutil.Process(one.process.pid)
    descriptors = supervisor.num_fds()
    end = time.monotonic() + float(os.environ.get("CHAOS_SECONDS", "60"))
    while time.monotonic() < end:
        # After many deaths all may be waiting for their next start.
        victim = chance.choice(supervisor.children(recursive=True) or [None])
        try:
            if victim is None:
                time.sleep(0.1)
                continue
            victim.send_signal(
                chance.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV])
            )
        except psutil.NoSuchProcess:
            continue
        time.sleep(chance.uniform(0.0, 0.5))
    one.processes()
    # A process may have to wait for up to a minute after so many deaths.
    eventually("it is ready again", lambda: one.get("/ready")[0] == 200, 120)
    eventually(
        "every monitor reports",
        lambda: {m["state"] for m in one.status()["monitors"]} <= {"ok", "problem"},
        120,
    )
    assert one.condition("Misbehaving")["status"] == "True"
    assert supervisor.num_fds() <= descriptors + 2
    assert len(supervisor.children()) == 15 + 1 + 3

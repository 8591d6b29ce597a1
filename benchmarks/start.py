"""From the start of the command until every monitor has reported."""

from __future__ import annotations

import time

from benchmarks.agents import running
from benchmarks.figures import show, spread
from tests.tests_support import eventually


def main() -> None:
    """Print the figure."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        with running(wait=False) as agent:
            eventually("ready", lambda agent=agent: agent.get("/ready")[0] == 200)
            times.append(time.monotonic() - began)
    show("start -> every monitor has reported, 5 starts", spread(times, "s"), "<= 3 s")


if __name__ == "__main__":
    main()

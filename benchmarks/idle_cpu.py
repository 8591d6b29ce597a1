"""CPU of the whole agent on an idle node, default configuration."""

from __future__ import annotations

import sys
import time

from benchmarks.agents import running
from benchmarks.figures import show
from tests.tests_support import Agent


def cpu(agent: Agent) -> dict[str, float]:
    """Seconds of CPU by process."""
    return {" ".join(p.cmdline()): sum(p.cpu_times()[:2]) for p in agent.processes()}


def main(seconds: float = 60.0) -> None:
    """Print the figure, and the processes that use most."""
    with running() as agent:
        time.sleep(5)
        before = cpu(agent)
        time.sleep(seconds)
        used = {
            name: (value - before.get(name, value)) / seconds * 1000 for name, value in cpu(agent).items()
        }
    show(f"CPU, idle, {seconds:g} s", f"{sum(used.values()):.1f} millicores", "<= 10 millicores")
    for name, value in sorted(used.items(), key=lambda pair: -pair[1])[:4]:
        show(f"    {name}", f"{value:.1f} millicores")


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 60.0)

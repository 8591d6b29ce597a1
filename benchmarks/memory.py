"""Memory of the whole agent, and of each further monitor: proportional set size, which counts shared pages once."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.agents import noops, running
from benchmarks.figures import show
from tests.tests_support import Agent


def pss(agent: Agent) -> float:
    """MB of all processes; proc_pid_smaps(5)."""
    total = 0
    for process in agent.processes():
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def main() -> None:
    """Print the figures."""
    with running() as agent:
        time.sleep(15)
        show("memory, whole agent, default configuration", f"{pss(agent):.1f} MB", "<= 100 MB")
    sizes = {}
    for number in (10, 25, 50, 100):
        with running(noops(number)) as agent:
            time.sleep(12)
            sizes[number] = pss(agent)
            show(f"memory, whole agent, {number} monitors", f"{sizes[number]:.1f} MB")
    show("memory of each further monitor, 10 to 100", f"{(sizes[100] - sizes[10]) / 90:.2f} MB", "<= 2.5 MB")


if __name__ == "__main__":
    main()

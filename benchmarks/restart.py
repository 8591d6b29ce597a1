"""From SIGKILL of a monitor to its next status at the broker: 50 monitors, each killed once."""

from __future__ import annotations

import time

from benchmarks.agents import noops, running
from benchmarks.figures import show, spread
from tests.tests_support import kill


def main() -> None:
    """Print the figure."""
    with running(noops(50, "60s")) as agent:
        tap = agent.tap("status.")
        time.sleep(0.5)
        pids = {m["name"]: m["pid"] for m in agent.status()["monitors"]}
        times = []
        for name, pid in pids.items():
            began = time.monotonic()
            kill(pid)
            while tap.recv_multipart()[0] != f"status.{name}".encode():
                pass
            times.append(time.monotonic() - began)
            time.sleep(0.1)
        tap.close()
    show("killed monitor -> its next status, 50 kills", spread(times, "ms", 1000), "<= 250 ms")


if __name__ == "__main__":
    main()

"""From a line in the kernel's log to its event on the bus, and to /metrics. Needs root."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.agents import running
from benchmarks.figures import show, spread

SERIES = 'events_total{monitor="klog",reason="Bench",severity="warning"}'


def main() -> None:
    """Print the figures."""
    rule = "{name: bench, pattern: 'nd-bench-[0-9]+', reason: Bench}"
    monitors = f"[{{name: klog, type: log-pattern, config: {{ruleSets: [kernel], rules: [{rule}]}}}}]"
    bus, metrics = [], []
    with running(monitors) as agent:
        tap = agent.tap("event.klog")
        time.sleep(0.5)
        for number in range(200):
            began = time.monotonic()
            Path("/dev/kmsg").write_text(f"<4>nd-bench-{os.getpid()}{number:04}\n")
            tap.recv_multipart()
            bus.append(time.monotonic() - began)
            time.sleep(0.02)
        for number in range(30):
            before = agent.metric(SERIES)
            began = time.monotonic()
            Path("/dev/kmsg").write_text(f"<4>nd-bench-{os.getpid()}9{number:04}\n")
            while agent.metric(SERIES) == before:
                pass
            metrics.append(time.monotonic() - began)
            time.sleep(0.02)
        tap.close()
    show("kernel line -> event on the bus, 200 lines", spread(bus, "ms", 1000), "<= 10 ms")
    show("kernel line -> /metrics, one scrape of it included", spread(metrics, "ms", 1000), "<= 10 ms")


if __name__ == "__main__":
    main()

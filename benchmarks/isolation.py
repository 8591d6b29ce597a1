"""What 5 hanging checks do to the pace of 20 others."""

from __future__ import annotations

import socket
import time
from itertools import pairwise

import zmq

from benchmarks.agents import running
from benchmarks.figures import percentile, show
from nodedoctor.bus.messages import envelope_decoder, status_decoder
from tests.tests_support import Agent

SECONDS = 20.0


def intervals(agent: Agent) -> list[float]:
    """Seconds between each two checks of each of the 20 monitors."""
    tap = agent.tap("status.n")
    times: dict[str, list[float]] = {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if tap.poll(200, zmq.POLLIN):
            status = status_decoder.decode(envelope_decoder.decode(tap.recv_multipart()[1]).data)
            times.setdefault(status.source, []).append(status.timestamp.timestamp())
    tap.close()
    return [after - before for series in times.values() for before, after in pairwise(series)]


def main() -> None:
    """Print the figures."""
    server = socket.create_server(("127.0.0.1", 0), backlog=1000)
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    good = ", ".join(f"{{name: n{i}, type: noop, interval: 1s, timeout: 500ms}}" for i in range(20))
    hang = ", ".join(
        f"{{name: h{i}, type: http-health-check, interval: 1s, timeout: 500ms, config: {{url: '{url}', requestTimeout: 60s}}}}"
        for i in range(5)
    )
    for what, monitors in (("alone", f"[{good}]"), ("while 5 hang", f"[{good}, {hang}]")):
        with running(monitors, wait=False) as agent:
            time.sleep(5)
            gaps = intervals(agent)
        late = percentile([abs(gap - 1.0) for gap in gaps], 0.99) * 1000
        show(
            f"pace of 20 monitors, 1 s, {what} ({len(gaps)} checks)",
            f"p99 {late:.0f} ms off",
            "jitter alone: 100 ms",
        )
    server.close()


if __name__ == "__main__":
    main()

"""Throughput and latency of the broker: statuses of one worker, as fast as given."""

from __future__ import annotations

import multiprocessing
import time

import zmq

from benchmarks.agents import running
from benchmarks.figures import show, spread
from nodedoctor.bus.messages import envelope_decoder
from nodedoctor.bus.sockets import Publisher
from nodedoctor.types import Condition, ConditionStatus, Metric, Result, Status, utc_now
from tests.tests_support import Agent

SECONDS = 5


def publish(address: str, rate: int) -> None:
    """Send `rate` statuses a second for SECONDS."""
    publisher = Publisher(zmq.Context(), node="n", epoch=1).connect(address)
    while not publisher.renewed():
        time.sleep(0.01)
    began = time.monotonic()
    for number in range(rate * SECONDS):
        condition = Condition("N0Unhealthy", ConditionStatus.FALSE, "Fine", "", utc_now())
        metrics = tuple(Metric("some_value_ratio", float(i), {"path": f"/{i}"}) for i in range(3))
        status = Status("n0", 1, number + 10, utc_now(), Result.OK, 0.01, (condition,), (), metrics)
        publisher.send("status.n0", status)
        ahead = began + number / rate - time.monotonic()
        if ahead > 0.001:
            time.sleep(ahead)
    publisher.close()


def measure(agent: Agent, rate: int) -> tuple[list[float], float]:
    """Latencies in seconds on the way over the broker, and seconds that all took."""
    tap = agent.tap("status.n0")
    time.sleep(0.3)
    sender = multiprocessing.Process(target=publish, args=(f"ipc://{agent.run_dir}/status.sock", rate))
    sender.start()
    latencies, first, last = [], 0.0, 0.0
    while tap.poll(2000):
        envelope = envelope_decoder.decode(tap.recv_multipart()[1])
        last = time.time()
        first = first or last
        latencies.append(last - envelope.timestamp.timestamp())
    sender.join()
    tap.close()
    return latencies, last - first


def main() -> None:
    """Print the figures."""
    for rate in (1, 1000, 10_000):
        with running("[{name: n0, type: noop, interval: 100s}]") as agent:
            latencies, took = measure(agent, rate)
            lost = agent.metric('status_lost_total{source="n0"}')
        got = len(latencies) / took if took else 0.0
        show(
            f"broker, {rate} statuses/s: arrived {got:.0f}/s, lost {lost:.0f}", spread(latencies, "ms", 1000)
        )


if __name__ == "__main__":
    main()

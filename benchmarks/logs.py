"""What a line of a log costs: CPU of its worker at a steady pace, time to its event on the bus, memory of the rules."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import yaml

from benchmarks.agents import running
from benchmarks.figures import show, spread
from tests.journal_support import private_journal
from workers.monitors.logs.rules import rule_set

Write = Callable[[list[str]], None]
"""Appends lines to a log."""
SECONDS = 3
SERIES = 'events_total{monitor="log",reason="Bench",severity="warning"}'
TEXT = "usb 1-1.{0}: new high-speed USB device number {0} using xhci_hcd, idVendor=0x1d6b, bcdDevice= 6.{0}"
DEVICES = ("nvme", "mce", "edac", "thermal", "xfs", "btrfs", "nfs", "md", "scsi", "iwlwifi")


def rules(number: int) -> list[dict[str, str]]:
    """So many rules: the kernel's own, more of their kind, and last the one that is looked for."""
    own = [{"name": rule.name, "pattern": rule.pattern} for rule in rule_set("kernel")]
    more = [
        {
            "name": f"r{i}",
            "pattern": rf"{DEVICES[i % 10]}{i}: (?:error|timeout|reset) on (?P<device>\S+) after \d+ ms",
        }
        for i in range(number)
    ]
    bench = {"name": "bench", "pattern": "nd-bench-[0-9]+", "reason": "Bench"}
    return [*[*own, *more][: number - 1], bench]


def monitor(number: int, log: dict[str, object]) -> str:
    """A monitor of `log` with so many rules."""
    config = {**log, "rules": rules(number)}
    config["rules"][-1]["eventsPerMinute"] = 100_000  # type: ignore[index]
    entry = {"name": "log", "type": "log-pattern", "config": config}
    return yaml.safe_dump([entry], default_flow_style=True, width=10**6)


def write_kmsg(lines: list[str]) -> None:
    """Lines for the kernel's log, which takes ten from one open file before it limits their rate (printk_devkmsg)."""
    for first in range(0, len(lines), 10):
        with Path("/dev/kmsg").open("wb", buffering=0) as kernel:
            kernel.writelines(f"<6>{line}\n".encode() for line in lines[first : first + 10])


@contextmanager
def logs(name: str) -> Iterator[tuple[dict[str, object], Write]]:
    """The options of a log of that kind, and how to write to it."""
    if name == "kmsg":
        yield {"source": "kmsg"}, write_kmsg
        return
    with ExitStack() as stack:
        if name == "journal":
            journal = stack.enter_context(private_journal())
            yield {"source": "journal", "path": str(journal.folder)}, journal.write_lines
            return
        file = stack.enter_context(tempfile.NamedTemporaryFile("w"))

        def write(lines: list[str]) -> None:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()

        yield {"source": "file", "path": file.name}, write


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, to the nanosecond: clock ticks blame whoever wakes with them; proc_pid_schedstat(5)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def reader_of(pid: int) -> int:
    """The program that the monitor's process `pid` reads from; itself if there is none."""
    return next((child.pid for child in psutil.Process(pid).children()), pid)


def cost(name: str, rate: int, number: int) -> None:
    """CPU per line at a pace of `rate` lines a second with `number` rules."""
    with logs(name) as (log, write), running(monitor(number, log)) as agent:
        write(["warm up"] * 10)
        time.sleep(1)
        pids = [agent.monitor("log")["pid"]]
        pids.append(reader_of(pids[0]))
        before = [cpu_of(pid) for pid in pids]
        began, pieces = time.monotonic(), SECONDS * 100
        for piece in range(pieces):
            write([TEXT.format(i) for i in range(rate // 100)])
            time.sleep(max(0.0, began + (piece + 1) / 100 - time.monotonic()))
        paced = rate * SECONDS / (time.monotonic() - began)
        time.sleep(1)
        own, reader = ((cpu_of(p) - b) / (rate * SECONDS) * 1e6 for p, b in zip(pids, before, strict=True))
    budget = "<= 8 us" if (name, number) == ("kmsg", 40) else ""
    besides = f" (+ {reader:.1f} us of journalctl)" if name == "journal" else ""
    show(f"CPU per line, {name}, {number} rules, {paced:.0f} lines/s", f"{own:.2f} us{besides}", budget)


def latency(name: str) -> None:
    """Time from a line to its event on the bus."""
    times = []
    with logs(name) as (log, write), running(monitor(40, log)) as agent:
        tap = agent.tap("event.log")
        write(["warm up"])
        time.sleep(1)
        for number in range(200):
            began = time.monotonic()
            write([f"nd-bench-{os.getpid()}{number:04}"])
            tap.recv_multipart()
            times.append(time.monotonic() - began)
            time.sleep(0.03)
        tap.close()
    show(f"line -> event on the bus, {name}, 200 lines", spread(times, "ms", 1000), "<= 10 ms")


def scraped() -> None:
    """Time from a line of the kernel's log to /metrics."""
    times = []
    with running(monitor(40, {"source": "kmsg"})) as agent:
        for number in range(30):
            before = agent.metric(SERIES)
            began = time.monotonic()
            write_kmsg([f"nd-bench-{os.getpid()}9{number:04}"])
            while agent.metric(SERIES) == before:
                pass
            times.append(time.monotonic() - began)
            time.sleep(0.03)
    show("kernel line -> /metrics, one scrape of it included", spread(times, "ms", 1000), "<= 10 ms")


def memory() -> None:
    """What the rules add to the memory of their process."""
    sizes = {}
    for number in (1, 40, 400):
        with running(monitor(number, {"source": "kmsg"})) as agent:
            write_kmsg([TEXT.format(i) for i in range(1000)])
            time.sleep(2)
            sizes[number] = psutil.Process(agent.monitor("log")["pid"]).memory_full_info().uss / 2**20
    for number in (40, 400):
        show(f"memory of {number} rules", f"{sizes[number] - sizes[1]:.2f} MB")


def main() -> None:
    """Print the figures."""
    for name in ("kmsg", "journal", "file"):
        latency(name)
    scraped()
    for name in ("kmsg", "journal", "file"):
        for rate in (2_000, 20_000):
            for number in (40, 400):
                cost(name, rate, number)
    memory()


if __name__ == "__main__":
    main()

"""What network interfaces sent and received."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from nodedoctor.patterns import compile_pattern
from workers.monitors.system.stats.source import Found, Source, counter

COLUMNS = {
    "rx_bytes": "Bytes received",
    "rx_packets": "Packets received",
    "rx_errors": "Errors while receiving",
    "rx_dropped": "Packets dropped while receiving",
    "rx_fifo": "FIFO errors while receiving",
    "rx_frame": "Framing errors",
    "rx_compressed": "Compressed packets received",
    "rx_multicast": "Multicast frames received",
    "tx_bytes": "Bytes sent",
    "tx_packets": "Packets sent",
    "tx_errors": "Errors while sending",
    "tx_dropped": "Packets dropped while sending",
    "tx_fifo": "FIFO errors while sending",
    "tx_collisions": "Collisions",
    "tx_carrier": "Losses of the carrier",
    "tx_compressed": "Compressed packets sent",
}
"""In the order of the file."""
METRICS = tuple(counter(f"net_{name}", text, "interface_name") for name, text in COLUMNS.items())


def sources(proc: Path, exclude: str) -> tuple[Source, ...]:
    """The file below /proc that these metrics are read from.

    Args:
        proc: The folder of the host's processes.
        exclude: A pattern (RE2); interfaces in whose name it is found are left out. Empty: none are.
    """
    pattern = compile_pattern(exclude) if exclude else None
    return (Source(proc / "net/dev", METRICS, partial(read, proc, pattern)),)


def read(proc: Path, pattern: Any) -> Found:  # noqa: ANN401 - re2 has no types
    """The counters of each interface since it was made; proc_pid_net(5)."""
    for line in table(proc).split(b"\n")[2:-1]:
        interface, _, numbers = line.strip().rpartition(b":")
        if pattern and pattern.search(interface):
            continue
        name = interface.decode(errors="backslashreplace")
        for metric, number in zip(METRICS, numbers.split(), strict=True):
            yield metric(int(number), interface_name=name)


def table(proc: Path) -> bytes:
    """The table of PID 1, whose network is the host's; this process's where PID 1 may not be looked at."""
    try:
        return (proc / "1/net/dev").read_bytes()
    except OSError:
        return (proc / "self/net/dev").read_bytes()

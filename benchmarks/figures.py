"""How figures are printed: what, how much, the budget, and on which machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def machine() -> str:
    """The processor, the number of them, the kernel and the Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def show(what: str, figure: str, budget: str = "") -> None:
    """One line."""
    print(f"{what:<62} {figure:>24}  {budget}", flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], unit: str, scale: float = 1.0) -> str:
    """Median and 99th percentile."""
    median, high = statistics.median(values) * scale, percentile(values, 0.99) * scale
    return f"{median:.2f} {unit} (p99 {high:.2f})"

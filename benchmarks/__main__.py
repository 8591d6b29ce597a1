"""`python -m benchmarks [NAME...]`, in the root of the repository: all of them, or some by name."""

from __future__ import annotations

import importlib
import sys

from benchmarks.figures import machine

NAMES = ("memory", "idle_cpu", "start", "restart", "isolation", "broker", "logs", "monitors", "kubernetes")


def main() -> None:
    """Run them one after the other."""
    print(machine())
    for name in sys.argv[1:] or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()

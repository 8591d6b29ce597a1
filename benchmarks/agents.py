"""A real agent for one benchmark."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.tests_support import Agent

DEFAULT = yaml.safe_dump(
    yaml.safe_load(Path("etc/config.yaml").read_text())["monitors"], default_flow_style=True, width=10**6
)


@contextmanager
def running(monitors: str = DEFAULT, *, wait: bool = True, **settings: str) -> Iterator[Agent]:
    """An agent with these monitors, the default ones if none are named; ready, and ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="nd-") as folder:
        agent = Agent(Path(folder) / "a", monitors, {"settings__updateInterval": "10s", **settings})
        try:
            yield agent.ready() if wait else agent
        finally:
            agent.end()


def noops(number: int, interval: str = "10s") -> str:
    """The configuration of `number` monitors that check nothing."""
    return "[" + ", ".join(f"{{name: n{i}, type: noop, interval: {interval}}}" for i in range(number)) + "]"

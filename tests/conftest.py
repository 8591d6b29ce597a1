"""What tests share: a real agent, started and ended for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_support import Agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents; ends them, and fails if one has left a process behind."""
    started: list[Agent] = []

    def start(monitors: str = "[]", *words: str, **settings: str) -> Agent:
        one = Agent(tmp_path / f"a{len(started)}", monitors, settings, words)
        started.append(one)
        return one

    yield start
    for one in started:
        one.end()
    left = [line for one in started for line in one.left_behind()]
    assert not left

"""Network namespaces of the test's own, and monitors that look at them from inside."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NUMBERS = itertools.count()
CODE = """
import sys
import msgspec
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import (Finding)
from nodedoctor.registry import monitor_type
from nodedoctor.types import Event, Metric

kind = monitor_type(sys.argv[1])
options = msgspec.convert(msgspec.json.decode(sys.argv[2]), kind.options_type)
assert list(options.faults()) == [], list(options.faults())
monitor = kind("inside", options, Host())
for _ in sys.stdin:
    seen = {"findings": [], "events": [], "metrics": [], "undetermined": ""}
    places = {Finding: "findings", Event: "events", Metric: "metrics"}
    try:
        for item in monitor.check():
            seen[places[type(item)]].append(item)
    except Undetermined as error:
        seen["undetermined"] = f"{error.reason}: {error}"
    print(msgspec.json.encode(seen).decode(), flush=True)
"""


def ip(*words: str, namespace: str = "") -> str:
    """Run the program of this name, in a namespace if one is given; what it prints."""
    inside = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *inside, *words], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def network_namespace() -> Iterator[str]:
    """The name of a new one with nothing but lo in it; skips where none can be made, but in CI."""
    if os.geteuid() and os.environ.get("CI") != "true":
        pytest.skip("a network namespace takes root")
    name = f"nd{os.getpid()}x{next(NUMBERS)}"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "del", name)


class Inside:
    """A monitor that checks, when it is asked to, in a network namespace; ip netns gives it the right /sys."""

    def __init__(self, namespace: str, kind: str, **options: Any) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", CODE, kind, json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def check(self) -> dict[str, Any]:
        """What one check finds."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen

    def bad(self, condition: str) -> list[str]:
        """What is bad of a condition, by one check; it must have been looked at."""
        findings = [f for f in self.check()["findings"] if f["type"] == condition]
        assert findings
        return [f["message"] for f in findings if f["bad"]]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

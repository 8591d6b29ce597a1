"""Monitors that misbehave in every way, as somebody's plug-in might; the tests' own entry points name them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator

from nodedoctor.monitor import ConditionType, EventReason, Gauge, Monitor, Observation, Options

HAPPENED = EventReason("SomethingHappened")


class MisbehaviourOptions(Options, frozen=True):
    """Which way to misbehave while the file `while_exists` is there; always without one."""

    way: str = "none"
    while_exists: str = ""
    condition: str = "Misbehaving"


class Misbehaviour(Monitor[MisbehaviourOptions]):
    """Fine, unless told otherwise."""

    kind, options_type = "misbehaviour", MisbehaviourOptions
    metrics = (Gauge("misbehaviour_value", "A value"),)
    events = (HAPPENED,)

    @classmethod
    def conditions_of(cls, name: str, options: MisbehaviourOptions) -> tuple[ConditionType, ...]:
        return (ConditionType(options.condition, "Misbehaves", "Behaves"),)

    def check(self) -> Iterator[Observation]:
        wanted = not self.options.while_exists or os.path.exists(self.options.while_exists)  # noqa: PTH110
        way = self.options.way if wanted else "none"
        (condition,) = self.conditions_of(self.name, self.options)
        match way:
            case "raise":
                msg = "this check is broken"
                raise ValueError(msg)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)
            case "deaf":
                # Blocks in C, so that no signal handler of Python's runs.
                ctypes.PyDLL(None).sleep(3600)
            case "eat":
                yield HAPPENED(f"ate {len(bytearray(1 << 30))}")
            case "grow":
                self.eaten = getattr(self, "eaten", b"") + os.urandom(8 << 20)
            case "exit":
                os._exit(3)
            case "bad":
                yield condition.when(True, "it is bad")
                return
            case "event":
                yield HAPPENED("it happened")
        yield condition.when(False, "")

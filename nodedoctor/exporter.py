"""What an exporter is made of: a class that serves the broker's state somewhere, in a process of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from nodedoctor.bus.messages import ExporterState, Snapshot
from nodedoctor.config.model import Config


class Agent(Protocol):
    """What an exporter has of the rest of the agent. Usable from several threads."""

    def snapshot(self) -> Snapshot | None:
        """The broker's state, fresh if it answers in time, else the newest that was seen; None before the first."""

    def age(self) -> float:
        """Seconds since the broker last answered; infinite before the first answer."""

    def report(self, state: ExporterState, message: str = "", requests: dict[str, int] | None = None) -> None:
        """Tell the broker how this exporter fares; repeated to it by itself until the next call."""


class Context(msgspec.Struct, frozen=True):
    """Where an exporter runs. `connect` makes its link to the broker; call it in the process that uses it."""

    run_dir: Path
    config: Config
    connect: Callable[[], Agent]


O = TypeVar("O", bound=msgspec.Struct)  # noqa: E741 - options


class Exporter(ABC, Generic[O]):
    """Serves the state somewhere. `options_type` is the class of its options in configuration."""

    options_type: ClassVar[type[msgspec.Struct]]
    capabilities: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: O, context: Context) -> None:
        self.options = options
        self.context = context

    @abstractmethod
    def run(self) -> None:
        """Serve until SIGTERM. An exporter that can't do its work yet reports it and tries again; it does not end."""

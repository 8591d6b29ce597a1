"""What is configured of processes."""

from __future__ import annotations

from collections.abc import Iterator

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options, Percent
from nodedoctor.patterns import compile_pattern


class Required(Options, frozen=True):
    """A process that must run."""

    name: str
    """Its name as `ps -o comm` shows it: at most 15 characters."""
    pattern: str = ""
    """Only those count in whose command line RE2 finds this; empty: the name is enough."""
    minimum: int = 1
    """Fewer are a problem."""
    maximum: int | None = None
    """More are a problem; none: any number is fine."""
    maximum_restarts: int | None = None
    """More starts within `restartsWithin` are a problem; none: they are not counted."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Names that no process can have, patterns that are none, and numbers that can never be right."""
        if len(self.name.encode()) > 15:
            yield "name", f"found {self.name!r}, allowed: at most 15 bytes"
        if self.minimum < 0:
            yield "minimum", f"found {self.minimum}, allowed: 0 or more"
        if self.maximum is not None and self.maximum < self.minimum:
            yield "maximum", f"found {self.maximum}, allowed: minimum or more"
        if self.maximum_restarts is not None and self.maximum_restarts < 0:
            yield "maximumRestarts", f"found {self.maximum_restarts}, allowed: 0 or more"
        try:
            compile_pattern(self.pattern)
        except ValueError as error:
            yield "pattern", str(error)


class ProcessOptions(Options, frozen=True):
    """What is too long, too many, and what must run."""

    d_state_for: Duration = "2m"
    """A process that every check of so long has found in uninterruptible sleep is stuck."""
    ignored: tuple[str, ...] = ()
    """Names of processes, kernel threads among them, that may sleep so for ever."""
    zombie_threshold: int = 20
    """So many zombies are a problem."""
    zombies_for: Duration = "2m"
    """A younger zombie does not count: its parent may still wait for it."""
    pids_threshold: Percent = 90
    """Percent of the threads that the machine can have that is a problem."""
    files_threshold: Percent = 90
    """Percent of the files that the machine can have open that is a problem."""
    process_files_threshold: Percent = 90
    """Percent of the files that one process can have open (its soft RLIMIT_NOFILE) that is a problem."""
    process_files_from: int = 256
    """A process with fewer open files is not compared with its limit, unless it is required: it saves time."""
    restarts_within: Duration = "10m"
    """For how long the start of a required process counts."""
    required: tuple[Required, ...] = ()
    """Processes that must run."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Numbers that can never be right."""
        if self.zombie_threshold < 1:
            yield "zombieThreshold", f"found {self.zombie_threshold}, allowed: 1 or more"
        if self.process_files_from < 0:
            yield "processFilesFrom", f"found {self.process_files_from}, allowed: 0 or more"
        if seconds(self.restarts_within) <= 0:
            yield "restartsWithin", f"found {self.restarts_within!r}, allowed: more than 0"
        for index, wanted in enumerate(self.required):
            for option, fault in wanted.faults():
                yield f"required[{index}].{option}", fault

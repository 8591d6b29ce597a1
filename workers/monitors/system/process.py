"""Whether processes are stuck, not waited for, missing, or too many."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation, Options, Percent
from nodedoctor.types import Severity

STUCK = ConditionType("ProcessesStuck", reason="UninterruptibleSleep", ok_reason="NoProcessStuck")
ZOMBIES = ConditionType(
    "ZombiesHigh", reason="ChildrenNotWaitedFor", ok_reason="FewZombies", severity=Severity.WARNING
)
PIDS = ConditionType("PIDsLow", reason="ThreadsNearLimit", ok_reason="PIDsAvailable")
FILES = ConditionType("FileDescriptorsLow", reason="OpenFilesNearLimit", ok_reason="FileDescriptorsAvailable")
MISSING = ConditionType(
    "ProcessMissing",
    reason="ProcessNotRunning",
    ok_reason="ProcessesRun",
    reasons=("ProcessNotRunning", "TooManyProcesses"),
)
PROCESSES = Gauge("processes", "Processes by state, as proc_pid_stat(5) calls it", ("state",))
THREADS = Gauge("threads", "Threads of the whole machine")
THREADS_LIMIT = Gauge("threads_limit", "Threads that the machine can have")
OPEN_FILES = Gauge("open_files", "Open files of the whole machine")
OPEN_FILES_LIMIT = Gauge("open_files_limit", "Files that can be open at once on the whole machine")
KTHREADD = 2
PF_KTHREAD = 0x00200000
GONE = (FileNotFoundError, ProcessLookupError)
MOST_NAMED = 10
"""Names that a message lists at most."""


class Required(Options, frozen=True):
    """A process that must run."""

    name: str
    """Its name as `ps -o comm` shows it: at most 15 characters."""
    minimum: int = 1
    """Fewer are a problem."""
    maximum: int | None = None
    """More are a problem; none: any number is fine."""


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
    required: tuple[Required, ...] = ()
    """Processes that must run."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Numbers that can never be right."""
        if self.zombie_threshold < 1:
            yield "zombieThreshold", f"found {self.zombie_threshold}, allowed: 1 or more"
        for index, wanted in enumerate(self.required):
            if len(wanted.name.encode()) > 15:
                yield f"required[{index}].name", f"found {wanted.name!r}, allowed: at most 15 bytes"
            if wanted.minimum < 0:
                yield f"required[{index}].minimum", f"found {wanted.minimum}, allowed: 0 or more"
            if wanted.maximum is not None and wanted.maximum < wanted.minimum:
                yield f"required[{index}].maximum", f"found {wanted.maximum}, allowed: minimum or more"


class Task(msgspec.Struct, frozen=True):
    """One process; `started` is in clock ticks since boot and tells apart two that had the same `pid`."""

    pid: int
    name: str
    state: str
    parent: int
    flags: int
    started: int

    @property
    def key(self) -> tuple[int, int, str]:
        """The process in this state."""
        return self.pid, self.started, self.state


class ProcessMonitor(Monitor[ProcessOptions]):
    """Finds processes in uninterruptible sleep, zombies, missing processes, and tables that are nearly full.

    Reads /proc/PID/stat (proc_pid_stat(5)), /proc/loadavg, and file-nr, pid_max and threads-max of proc_sys_fs(5) and
    proc_sys_kernel(5). A process is stuck only if every check found it so: one that writes much sleeps often, not long.
    """

    kind, options_type = "process-health-check", ProcessOptions
    conditions = (STUCK, ZOMBIES, PIDS, FILES, MISSING)
    metrics = (PROCESSES, THREADS, THREADS_LIMIT, OPEN_FILES, OPEN_FILES_LIMIT)

    def __init__(self, name: str, options: ProcessOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.since: dict[tuple[int, int, str], float] = {}

    def check(self) -> Iterator[Observation]:
        """Look at the tables of the machine, then at each process."""
        yield from self.check_pids()
        yield from self.check_files()
        found = tasks(self.host.proc)
        if not any(task.pid == KTHREADD and task.flags & PF_KTHREAD for task in found):
            text = "not all processes can be seen: set hostPID: true, or mount /proc without hidepid"
            raise Undetermined(text, "ProcessesHidden")
        now = time.monotonic()
        self.since = {t.key: self.since.get(t.key, now) for t in found if t.state in "DZ"}
        for state, number in Counter(task.state for task in found).items():
            yield PROCESSES(number, state=state)
        yield from self.check_stuck(found, now)
        yield from self.check_zombies(found, now)
        yield from self.check_required(found)

    def number(self, name: str) -> int:
        """A kernel parameter."""
        return int((self.host.proc / "sys" / name).read_text())

    def check_pids(self) -> Iterator[Observation]:
        """Whether the machine can soon have no further thread."""
        threads = int((self.host.proc / "loadavg").read_text().split()[3].partition("/")[2])
        limit = min(self.number("kernel/pid_max"), self.number("kernel/threads-max"))
        yield THREADS(threads)
        yield THREADS_LIMIT(limit)
        share = self.options.pids_threshold
        text = f"more than {share:g} % of the threads that pid_max and threads-max allow exist"
        yield PIDS.when(100 * threads >= share * limit, text)

    def check_files(self) -> Iterator[Observation]:
        """Whether the machine can soon open no further file."""
        used, _, limit = (int(word) for word in (self.host.proc / "sys/fs/file-nr").read_text().split())
        yield OPEN_FILES(used)
        yield OPEN_FILES_LIMIT(limit)
        share = self.options.files_threshold
        yield FILES.when(100 * used >= share * limit, f"more than {share:g} % of fs.file-max are open")

    def lasting(self, found: list[Task], state: str, least: str, now: float) -> list[Task]:
        """The processes that are in `state` for `least` or longer."""
        return [t for t in found if t.state == state and now - self.since[t.key] >= seconds(least)]

    def check_stuck(self, found: list[Task], now: float) -> Iterator[Observation]:
        """Who sleeps and can't be woken."""
        stuck = self.lasting(found, "D", self.options.d_state_for, now)
        names = [task.name for task in stuck if task.name not in self.options.ignored]
        yield STUCK.when(bool(names), f"{len(names)} stuck in uninterruptible sleep: {listed(names)}")

    def check_zombies(self, found: list[Task], now: float) -> Iterator[Observation]:
        """Who does not wait for its children."""
        zombies = self.lasting(found, "Z", self.options.zombies_for, now)
        names = {task.pid: task.name for task in found}
        parents = [names.get(task.parent, "?") for task in zombies]
        limit = self.options.zombie_threshold
        text = f"{limit} zombies or more, not waited for by {listed(parents)}"
        yield ZOMBIES.when(len(zombies) >= limit, text)

    def check_required(self, found: list[Task]) -> Iterator[Observation]:
        """Who must run and does not, or too often. A zombie runs no more."""
        running = Counter(task.name for task in found if task.state not in "ZX")
        yield MISSING.when(False, "")
        for wanted in self.options.required:
            name, number = wanted.name, running[wanted.name]
            yield MISSING.when(number < wanted.minimum, f"fewer than {wanted.minimum} of {name} run")
            if wanted.maximum is not None:
                text = f"more than {wanted.maximum} of {name} run"
                yield MISSING.when(number > wanted.maximum, text, "TooManyProcesses")


def listed(names: list[str]) -> str:
    """The names, each once and in a stable order, cut to a few."""
    distinct = sorted(set(names))
    return ", ".join(distinct[:MOST_NAMED]) + (", …" if len(distinct) > MOST_NAMED else "")


def tasks(proc: Path) -> list[Task]:
    """The processes that can be seen; those that end meanwhile, and those that may not be read, are left out."""
    found = []
    for name in os.listdir(proc):  # noqa: PTH208 - a third of the time that Path takes
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - likewise
                    found.append(task(file.read(4096).decode(errors="replace")))
            except (*GONE, PermissionError):
                continue
    return found


def task(stat: str) -> Task:
    """The process that the text of /proc/PID/stat tells of; its name may hold spaces and parentheses."""
    head, _, tail = stat.rpartition(")")
    pid, _, name = head.partition(" (")
    words = tail.split()
    return Task(int(pid), name, words[0], int(words[1]), int(words[6]), int(words[19]))

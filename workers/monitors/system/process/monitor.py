"""Whether processes are stuck, not waited for, missing, or too many."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Gauge, Monitor, Observation
from nodedoctor.patterns import compile_pattern
from nodedoctor.types import Severity
from nodedoctor.words import listed
from workers.monitors.system.process.limits import files_limit, groups_near_limit, open_files
from workers.monitors.system.process.options import ProcessOptions, Required
from workers.monitors.system.process.tasks import KTHREADD, PF_KTHREAD, Task, command_line, tasks

STUCK = ConditionType("ProcessesStuck", reason="UninterruptibleSleep", ok_reason="NoProcessStuck")
ZOMBIES = ConditionType(
    "ZombiesHigh", reason="ChildrenNotWaitedFor", ok_reason="FewZombies", severity=Severity.WARNING
)
PIDS = ConditionType(
    "PIDsLow",
    reason="ThreadsNearLimit",
    ok_reason="PIDsAvailable",
    reasons=("ThreadsNearLimit", "GroupNearLimit"),
)
FILES = ConditionType(
    "FileDescriptorsLow",
    reason="OpenFilesNearLimit",
    ok_reason="FileDescriptorsAvailable",
    reasons=("OpenFilesNearLimit", "ProcessNearLimit"),
)
MISSING = ConditionType(
    "ProcessMissing",
    reason="ProcessNotRunning",
    ok_reason="ProcessesRun",
    reasons=("ProcessNotRunning", "TooManyProcesses", "ProcessKeepsRestarting"),
)
PROCESSES = Gauge("processes", "Processes by state, as proc_pid_stat(5) calls it", ("state",))
THREADS = Gauge("threads", "Threads of the whole machine")
THREADS_LIMIT = Gauge("threads_limit", "Threads that the machine can have")
OPEN_FILES = Gauge("open_files", "Open files of the whole machine")
OPEN_FILES_LIMIT = Gauge("open_files_limit", "Files that can be open at once on the whole machine")


class ProcessMonitor(Monitor[ProcessOptions]):
    """Finds processes in uninterruptible sleep, zombies, missing processes, and tables that are nearly full.

    Reads /proc/PID/stat (proc_pid_stat(5)), limits and fd there, /proc/loadavg, file-nr, pid_max and threads-max of
    proc_sys_fs(5) and proc_sys_kernel(5), and pids.max of slices and services (cgroups(7)). A process is stuck only if every check found it so: one that writes much sleeps often, not long.
    """

    kind, options_type = "process-health-check", ProcessOptions
    conditions = (STUCK, ZOMBIES, PIDS, FILES, MISSING)
    metrics = (PROCESSES, THREADS, THREADS_LIMIT, OPEN_FILES, OPEN_FILES_LIMIT)

    def __init__(self, name: str, options: ProcessOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.since: dict[tuple[int, int, str], float] = {}
        self.patterns = [compile_pattern(wanted.pattern) for wanted in options.required]
        self.known: dict[int, set[tuple[int, int]]] = {}
        self.starts: dict[int, list[float]] = {}

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
        chosen = [self.matching(found, index) for index in range(len(self.patterns))]
        yield from self.check_process_files(found, [task for some in chosen for task in some])
        yield MISSING.when(False, "")
        for index, wanted in enumerate(self.options.required):
            yield from self.check_required(wanted, len(chosen[index]))
            yield from self.check_restarts(index, wanted, chosen[index], now)

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
        for group in groups_near_limit(self.host.sys / "fs/cgroup", share):
            text = f"control group {group} has more than {share:g} % of the threads that its pids.max allows"
            yield PIDS.when(True, text, "GroupNearLimit")

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

    def matching(self, found: list[Task], index: int) -> list[Task]:
        """The processes that a required one stands for. A zombie runs no more."""
        wanted, pattern = self.options.required[index], self.patterns[index]
        named = [task for task in found if task.name == wanted.name and task.state not in "ZX"]
        if not wanted.pattern:
            return named
        return [task for task in named if pattern.search(command_line(self.host.proc, task.pid))]

    def check_process_files(self, found: list[Task], required: list[Task]) -> Iterator[Observation]:
        """Who can soon open no further file. Only of a required process it matters that it can't be looked at."""
        proc, share, least = (
            self.host.proc,
            self.options.process_files_threshold,
            self.options.process_files_from,
        )
        needed = {task.pid for task in required}
        for task in found:
            if task.flags & PF_KTHREAD or task.state in "ZX":
                continue
            used = open_files(proc, task.pid)
            if used is None:
                if task.pid in needed and (proc / str(task.pid)).exists():
                    text = f"the open files of {task.name} can't be counted: Linux 6.2 or CAP_SYS_PTRACE is needed"
                    yield FILES.unknown(text, "OpenFilesHidden")
            elif used >= least or task.pid in needed:
                limit = files_limit(proc, task.pid)
                text = (
                    f"{task.name} has more than {share:g} % of the files open that its RLIMIT_NOFILE allows"
                )
                yield FILES.when(limit is not None and 100 * used >= share * limit, text, "ProcessNearLimit")

    def check_required(self, wanted: Required, number: int) -> Iterator[Observation]:
        """Whether so many as must run do."""
        name = f"{wanted.name} ({wanted.pattern})" if wanted.pattern else wanted.name
        yield MISSING.when(number < wanted.minimum, f"fewer than {wanted.minimum} of {name} run")
        if wanted.maximum is not None:
            text = f"more than {wanted.maximum} of {name} run"
            yield MISSING.when(number > wanted.maximum, text, "TooManyProcesses")

    def check_restarts(
        self, index: int, wanted: Required, chosen: list[Task], now: float
    ) -> Iterator[Observation]:
        """Whether it was started too often lately; those that the first check finds are not new."""
        keys = {(task.pid, task.started) for task in chosen}
        fresh = keys - self.known.get(index, keys)
        self.known[index] = keys
        within = self.options.restarts_within
        starts = [at for at in self.starts.get(index, ()) if now - at < seconds(within)]
        self.starts[index] = starts + [now] * len(fresh)
        if wanted.maximum_restarts is not None:
            text = f"{wanted.name} was started more than {wanted.maximum_restarts} times within {within}"
            too_often = len(self.starts[index]) > wanted.maximum_restarts
            yield MISSING.when(too_often, text, "ProcessKeepsRestarting")

"""What to do with the agent's processes: which to start, to end, to set aside. No process is touched here.

Restarts follow systemd and OTP: exponential backoff with jitter, forgotten after a healthy period, and never the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from enum import IntEnum, StrEnum

import msgspec

from nodedoctor.bus.messages import WorkerState
from workers.process import RECYCLED


class Role(IntEnum):
    """What a worker is for; the order is that of an orderly stop."""

    MONITOR = 0
    EXPORTER = 1
    BROKER = 2


class Policy(msgspec.Struct, frozen=True):
    """Times in seconds. A worker that dies sooner than `healthy` after its start waits longer each time.

    Attributes:
        first: The wait after the first death; doubled with each further one, up to `longest`.
        longest: The longest wait.
        healthy: How long a process must run for its predecessors' deaths to be forgotten.
        looping: Deaths in a row that make a crash loop.
        grace: From SIGTERM to SIGKILL for a process that hangs.
        unkillable: From SIGKILL until a process that is still there counts as stuck.
        most_stuck: Stuck processes of one worker at which it is paused.
        stopping: From SIGTERM to SIGKILL in an orderly stop, by role.
    """

    first: float = 0.1
    longest: float = 60.0
    healthy: float = 60.0
    looping: int = 5
    grace: float = 0.5
    unkillable: float = 1.0
    most_stuck: int = 3
    stopping: tuple[float, float, float] = (2.5, 2.5, 1.0)


class Start(msgspec.Struct, frozen=True):
    """Fork a process for this worker."""

    name: str
    generation: int


class Terminate(msgspec.Struct, frozen=True):
    """Send SIGTERM to this process."""

    name: str
    generation: int


class Kill(msgspec.Struct, frozen=True):
    """Send SIGKILL to this process."""

    name: str
    generation: int


class Tell(msgspec.Struct, frozen=True):
    """The state of this worker has changed."""

    name: str


Action = Start | Terminate | Kill | Tell


class Exited(msgspec.Struct, frozen=True):
    """This process is gone: with an exit code, or by a signal when the code is negative."""

    name: str
    generation: int
    code: int


class Overdue(msgspec.Struct, frozen=True):
    """This process has missed its deadline."""

    name: str
    generation: int


class Ready(msgspec.Struct, frozen=True):
    """The broker has bound its sockets."""


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Stop(msgspec.Struct, frozen=True):
    """End everything; said again: at once."""


Happening = Exited | Overdue | Ready | Tick | Stop


class Phase(StrEnum):
    """Where a worker's newest process is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    TERMINATING = "terminating"
    KILLED = "killed"
    PAUSED = "paused"
    STOPPED = "stopped"


class Worker:
    """One worker through all its processes. `due` is when something is to be done about it by itself."""

    def __init__(self, name: str, role: Role) -> None:
        self.name = name
        self.role = role
        self.phase = Phase.WAITING
        self.generation = 0
        self.started = 0.0
        self.due: float | None = None
        self.deaths = 0
        self.restarts: Counter[str] = Counter()
        self.stuck: set[int] = set()
        self.hung = False
        self.last_exit = ""

    @property
    def state(self) -> WorkerState:
        """Its state as everybody is told."""
        if self.hung and self.phase in {Phase.RUNNING, Phase.TERMINATING, Phase.KILLED}:
            return WorkerState.HUNG
        return {
            Phase.WAITING: WorkerState.WAITING,
            Phase.PAUSED: WorkerState.PAUSED,
            Phase.STOPPED: WorkerState.STOPPED,
        }.get(self.phase, WorkerState.RUNNING)

    @property
    def alive(self) -> bool:
        """Whether its newest process is there, as far as is known."""
        return self.phase in {Phase.RUNNING, Phase.TERMINATING, Phase.KILLED}


class Plan:
    """Decides. `on` takes what has happened and the time, and gives what is to be done, in order."""

    def __init__(
        self,
        workers: Iterable[tuple[str, Role]],
        policy: Policy | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.workers = {name: Worker(name, role) for name, role in workers}
        self.policy = policy or Policy()
        self.uniform = uniform
        self.ready = False
        self.stopping: Role | None = None

    @property
    def done(self) -> bool:
        """Whether everything has ended after a stop."""
        return self.stopping is not None and all(w.phase is Phase.STOPPED for w in self.workers.values())

    @property
    def due(self) -> float | None:
        """When `on(Tick())` has something to do, or None if nothing waits for time."""
        return min((w.due for w in self.workers.values() if w.due is not None), default=None)

    def begin(self, now: float) -> list[Action]:
        """The first actions: the broker starts, all others wait for it."""
        return self.start_role(Role.BROKER, now)

    def on(self, happening: Happening, now: float) -> list[Action]:
        """What to do after `happening` at the time `now`."""
        match happening:
            case Ready():
                return self.on_ready(now)
            case Exited(name, generation, code):
                return self.on_exit(self.workers[name], generation, code, now)
            case Overdue(name, generation):
                return self.on_overdue(self.workers[name], generation, now)
            case Tick():
                due = [w for w in self.workers.values() if w.due is not None and w.due <= now]
                return [action for worker in due for action in self.on_due(worker, now)]
            case Stop():
                return self.on_stop(now)

    def on_ready(self, now: float) -> list[Action]:
        """The broker listens: the others may start. Later brokers find them running."""
        if self.ready or self.stopping is not None:
            return []
        self.ready = True
        return [*self.start_role(Role.EXPORTER, now), *self.start_role(Role.MONITOR, now)]

    def start_role(self, role: Role, now: float) -> list[Action]:
        """Start all workers of `role`."""
        return [action for w in self.workers.values() if w.role is role for action in self.start(w, now)]

    def start(self, worker: Worker, now: float) -> list[Action]:
        """A new process for `worker`."""
        worker.generation += 1
        worker.phase, worker.started, worker.hung = Phase.RUNNING, now, False
        worker.due = now + self.policy.healthy if worker.deaths else None
        return [Start(worker.name, worker.generation), Tell(worker.name)]

    def on_exit(self, worker: Worker, generation: int, code: int, now: float) -> list[Action]:
        """A process is gone: an old one that was stuck, one that was told to end, or one that died."""
        if generation in worker.stuck:
            worker.stuck.discard(generation)
            if worker.phase is Phase.PAUSED:
                return self.start(worker, now)
            return [Tell(worker.name)]
        if generation != worker.generation:
            return []
        if self.stopping is not None:
            return self.stopped(worker, now)
        reason = "hang" if worker.hung else reason_of(code)
        worker.last_exit = "hung, was killed" if worker.hung else describe(code)
        return self.restart(worker, reason, now)

    def restart(self, worker: Worker, reason: str, now: float) -> list[Action]:
        """Start `worker` again, at once or after a wait that grows with each death in a row."""
        worker.restarts[reason] += 1
        if now - worker.started >= self.policy.healthy:
            worker.deaths = 0
        wait = self.wait(worker.deaths if reason == "crash" else worker.deaths - 1)
        worker.deaths += 0 if reason == "memory" else 1
        if wait == 0 or reason == "memory":
            return self.start(worker, now)
        worker.phase, worker.due = Phase.WAITING, now + wait
        return [Tell(worker.name)]

    def wait(self, deaths: int) -> float:
        """Seconds to wait after `deaths` earlier ones; none for less than zero."""
        if deaths < 0:
            return 0.0
        longest = min(self.policy.longest, self.policy.first * 2.0 ** min(deaths, 32))
        return longest * self.uniform(0.5, 1.0)

    def on_overdue(self, worker: Worker, generation: int, now: float) -> list[Action]:
        """A process hangs: ask it to end, then kill it."""
        if generation != worker.generation or worker.phase is not Phase.RUNNING or self.stopping is not None:
            return []
        worker.phase, worker.hung, worker.due = Phase.TERMINATING, True, now + self.policy.grace
        return [Terminate(worker.name, generation), Tell(worker.name)]

    def on_due(self, worker: Worker, now: float) -> list[Action]:
        """Something was to be done about `worker` by now."""
        worker.due = None
        match worker.phase:
            case Phase.WAITING:
                return self.start(worker, now)
            case Phase.RUNNING:
                worker.deaths = 0
                return [Tell(worker.name)]
            case Phase.TERMINATING:
                worker.phase, worker.due = Phase.KILLED, now + self.policy.unkillable
                return [Kill(worker.name, worker.generation)]
            case Phase.KILLED:
                return self.set_aside(worker, now)
        return []

    def set_aside(self, worker: Worker, now: float) -> list[Action]:
        """A process survived SIGKILL: go on without it, unless too many of them are there already."""
        if self.stopping is not None:
            return self.stopped(worker, now)
        worker.stuck.add(worker.generation)
        worker.last_exit = "hung, does not die of SIGKILL"
        if len(worker.stuck) < self.policy.most_stuck:
            return self.restart(worker, "hang", now)
        worker.restarts["hang"] += 1
        worker.phase = Phase.PAUSED
        return [Tell(worker.name)]

    def on_stop(self, now: float) -> list[Action]:
        """End the monitors, then the exporters, then the broker: the last state reaches everybody."""
        if self.stopping is not None:
            return self.kill_all(now)
        return self.stop_role(Role.MONITOR, now)

    def stop_role(self, role: Role, now: float) -> list[Action]:
        """Ask all workers of `role` to end; go on to the next role if there is none."""
        self.stopping = role
        actions: list[Action] = []
        for worker in self.workers.values():
            if worker.role is role and worker.alive:
                worker.phase, worker.due = Phase.TERMINATING, now + self.policy.stopping[role]
                actions.append(Terminate(worker.name, worker.generation))
            elif worker.role is role:
                worker.phase, worker.due = Phase.STOPPED, None
        return [*actions, *self.next_role(now)]

    def next_role(self, now: float) -> list[Action]:
        """The next role's turn, if everybody of this one has ended."""
        role = self.stopping
        if (
            role is None
            or role is Role.BROKER
            or any(w.alive for w in self.workers.values() if w.role is role)
        ):
            return []
        return self.stop_role(Role(role + 1), now)

    def stopped(self, worker: Worker, now: float) -> list[Action]:
        """`worker` has ended in an orderly stop, or can't be ended."""
        worker.phase, worker.due = Phase.STOPPED, None
        return [Tell(worker.name), *self.next_role(now)]

    def kill_all(self, now: float) -> list[Action]:
        """No more patience: kill whatever is left."""
        actions: list[Action] = []
        for worker in self.workers.values():
            if worker.alive:
                worker.phase, worker.due = Phase.KILLED, now + self.policy.unkillable
                actions.append(Kill(worker.name, worker.generation))
        return actions


def reason_of(code: int) -> str:
    """Why a process ended, as `_worker_restarts_total` counts it."""
    if code == RECYCLED:
        return "memory"
    return "exit" if code == 0 else "crash"


def describe(code: int) -> str:
    """`code` for people, in words that stay the same when it happens again."""
    if code == RECYCLED:
        return "replaced: it had grown"
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code}"

"""The supervisor: forks the agent's processes, watches them, and does what the plan says.

It has one thread, no ZeroMQ context, and waits for nothing that a worker could hold up.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from multiprocess import process as processes
from multiprocess.context import ForkContext
from setproctitle import setproctitle

from nodedoctor.bus.messages import WorkerRecord, WorkerState, encoder
from nodedoctor.duration import seconds
from nodedoctor.roster import Roster
from nodedoctor.types import utc_now
from supervisor.broker.loop import run_broker
from supervisor.orphans import kill_orphans
from supervisor.plan import (
    Action,
    Exited,
    Happening,
    Kill,
    Overdue,
    Plan,
    Policy,
    Ready,
    Role,
    Start,
    Stop,
    Tell,
    Terminate,
    Tick,
)
from workers.deadlines import Deadlines, Slot
from workers.export import run_exporter
from workers.life import run_monitor
from workers.privileges import adopt_orphans
from workers.process import Place, WorkerMemoryBytes, automatic_memory
from workers.resources import Usage, usage

FIRST_DEADLINE = 30.0
"""Seconds that a new process has to come to its first wait."""
BEAT = 5.0
"""Seconds between signs of life to the broker, when there is nothing else to tell."""
OVERSLEPT = 1.0
"""Seconds of lateness from which the whole agent must have been stopped, not one worker."""
RECOVERY = 2.0
"""Seconds that workers then have to come back before their deadlines count again."""
PLACES = 4096
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)

logger = logging.getLogger(__name__)


class Process(Protocol):
    """What is used of multiprocess.Process, which has no types."""

    pid: int
    exitcode: int | None

    def start(self) -> None:
        """Fork."""


context: Any = ForkContext()


class Child:
    """One process, known by a descriptor: its number may be somebody else's by the time of a signal."""

    def __init__(self, name: str, generation: int, process: Process, place: int, slot: Slot) -> None:
        self.name = name
        self.generation = generation
        self.process = process
        self.pid = process.pid
        self.place = place
        self.slot = slot
        self.since: datetime = utc_now()
        self.pidfd = os.pidfd_open(process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone already needs none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


class Supervisor:
    """Only `wait` blocks, only `Plan` decides, only `act` touches processes."""

    def __init__(
        self, roster: Roster, version: str, run_dir: Path, state_dir: Path, policy: Policy | None = None
    ) -> None:
        self.roster = roster
        self.version = version
        self.run_dir = run_dir
        self.state_dir = state_dir
        self.monitors = {f"monitor {spec.name}": spec for spec in roster.monitors}
        self.exporters = {f"exporter {spec.name}": spec for spec in roster.exporters}
        names = [("broker", Role.BROKER), *((name, Role.EXPORTER) for name in self.exporters)]
        self.plan = Plan([*names, *((name, Role.MONITOR) for name in self.monitors)], policy)
        self.memory: WorkerMemoryBytes = automatic_memory(roster.config.settings, len(self.plan.workers) + 1)
        self.deadlines = Deadlines(PLACES)
        self.children: dict[tuple[str, int], Child] = {}
        self.selector = selectors.DefaultSelector()
        self.records = -1
        self.resend = False
        self.since = utc_now()
        self.beat_at = 0.0
        self.lenient_until = 0.0
        self.update_interval = seconds(roster.config.settings.update_interval)
        self.usage: Usage = usage()
        self.used_at = time.monotonic()

    def run(self) -> None:
        """Keep every worker running until SIGTERM, then end them."""
        setproctitle("node-doctor: supervisor")
        adopt_orphans()
        with self.signals():
            # What was imported stays in pages that all forks share, which the collector would otherwise touch.
            gc.collect()
            gc.freeze()
            self.act_all(self.plan.begin(time.monotonic()))
            while not self.plan.done:
                for happening in self.wait():
                    self.act_all(self.plan.on(happening, time.monotonic()))
        kill_orphans(set())
        # At exit it would join every child, and wait for ever for one that even SIGKILL did not end.
        processes._children.clear()  # noqa: SLF001 - there is no public way

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Have signals arrive as bytes in a pipe, which the selector watches."""
        self.wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self.on_signals)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, ignore) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)

    def wait(self) -> Iterator[Happening]:
        """Sleep until a process ends, a signal comes or a time is reached, and yield what happened."""
        until = self.nearest()
        ready = self.selector.select(max(0.0, until - time.monotonic()))
        now = time.monotonic()
        if now - until > OVERSLEPT:
            self.lenient_until = now + RECOVERY
        for key, _ in ready:
            yield from key.data()
        yield Tick()
        if now >= self.lenient_until:
            yield from self.overdue(now)
        self.beat(now)

    def nearest(self) -> float:
        """When the next thing is to be done by itself, in terms of CLOCK_MONOTONIC."""
        times = [child.slot.deadline for child in self.children.values() if self.watched(child)]
        times = [max(deadline, self.lenient_until) for deadline in times]
        if self.plan.due is not None:
            times.append(self.plan.due)
        return min([*times, self.beat_at + BEAT])

    def watched(self, child: Child) -> bool:
        """Whether `child` is its worker's newest process, and not on its way out already."""
        worker = self.plan.workers[child.name]
        return child.generation == worker.generation and not worker.hung and self.plan.stopping is None

    def overdue(self, now: float) -> Iterator[Overdue]:
        """Yield the processes that have missed their deadlines."""
        for child in list(self.children.values()):
            if self.watched(child) and child.slot.deadline < now:
                self.log_overdue(child, now)
                yield Overdue(child.name, child.generation)

    def log_overdue(self, child: Child, now: float) -> None:
        """Say which check hangs, for how long, and where in the kernel, as far as that can be read."""
        started = child.slot.started
        doing = (
            f"check {child.slot.check} runs since {now - started:.1f} s" if started else "it does not wake up"
        )
        logger.warning("%s (pid %d) hangs: %s", child.name, child.pid, doing, extra={"action": "kill"})

    def on_signals(self) -> Iterator[Happening]:
        """Act on the signals that came; each is one byte in the pipe."""
        for number in os.read(self.wakeup, 512):
            if number in {signal.SIGTERM, signal.SIGINT}:
                logger.info("stopping: %s", signal.Signals(number).name)
                yield Stop()
            elif number == signal.SIGUSR1:
                self.dump()
            elif number == signal.SIGHUP:
                logger.warning("SIGHUP: this version can't reload its configuration; restart it instead")
        self.kill_orphans()

    def on_exit(self, child: Child) -> Iterator[Happening]:
        """A pidfd is readable: its process is gone."""
        code = child.process.exitcode
        if code is None:
            return
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self.children[child.name, child.generation]
        self.deadlines.give_back(child.place)
        if child.name == "broker" and self.records >= 0:
            os.close(self.records)
            self.records = -1
        level = logging.INFO if code == 0 or self.plan.stopping is not None else logging.WARNING
        logger.log(
            level,
            "%s (pid %d) ended: %s",
            child.name,
            child.pid,
            f"code {code}" if code >= 0 else f"signal {-code}",
        )
        yield Exited(child.name, child.generation, code)

    def kill_orphans(self) -> None:
        """Kill what dead workers have left to this process: at each SIGCHLD, and at each beat for what came later."""
        kill_orphans({child.pid for child in self.children.values()})

    def act_all(self, actions: list[Action]) -> None:
        """Do all of `actions`, in order."""
        for action in actions:
            self.act(action)

    def act(self, action: Action) -> None:
        """Do one thing that the plan wants done."""
        match action:
            case Start(name, generation):
                self.start(name, generation)
            case Terminate(name, generation):
                self.children[name, generation].signal(signal.SIGTERM)
            case Kill(name, generation):
                self.children[name, generation].signal(signal.SIGKILL)
            case Tell(name):
                self.tell(name)

    def start(self, name: str, generation: int) -> None:
        """Fork a process for the worker `name`."""
        number = self.deadlines.take()
        slot = self.deadlines.slot(number)
        slot.reset(time.monotonic() + FIRST_DEADLINE)
        place = Place(
            name, generation, os.getpid(), self.run_dir, self.state_dir, self.roster, slot, self.memory
        )
        if name == "broker":
            process, after = self.broker(place)
        elif name in self.monitors:
            process, after = context.Process(target=run_monitor, args=(place, self.monitors[name])), None
        else:
            process, after = context.Process(target=run_exporter, args=(place, self.exporters[name])), None
        # Until the child has its own handlers, a signal to it would be written to our pipe and taken for ours.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        child = Child(name, generation, process, number, slot)
        self.children[name, generation] = child
        self.selector.register(child.pidfd, selectors.EVENT_READ, lambda: self.on_exit(child))
        if after:
            after()

    def broker(self, place: Place) -> tuple[Process, Callable[[], None]]:
        """The broker's process, and what to do once it is forked: close its ends, tell it everything."""
        read, self.records = os.pipe()
        os.set_blocking(self.records, False)
        ready, ready_write = os.pipe()

        def after() -> None:
            os.close(read)
            os.close(ready_write)
            self.selector.register(ready, selectors.EVENT_READ, lambda: self.on_ready(ready))
            self.resend = True

        return context.Process(target=run_broker, args=(place, self.version, read, ready_write)), after

    def on_ready(self, ready: int) -> Iterator[Happening]:
        """The broker listens, or has died before it did."""
        listens = os.read(ready, 1) != b""
        self.selector.unregister(ready)
        os.close(ready)
        if listens:
            yield Ready()

    def tell(self, name: str) -> None:
        """Have the broker know the worker `name` as it is now."""
        self.send(self.record(name))

    def send(self, record: WorkerRecord) -> None:
        """Have the broker know `record`, with all the others if it misses any."""
        if self.resend:
            self.tell_all()
        else:
            self.write(record)

    def tell_all(self) -> None:
        """Have the broker know every worker: it is new, or an earlier record did not fit into the pipe."""
        self.resend = False
        self.write(self.own_record())
        for name, worker in self.plan.workers.items():
            if worker.generation:
                self.write(self.record(name))

    def beat(self, now: float) -> None:
        """Tell the broker that the supervisor lives."""
        if now - self.beat_at < BEAT:
            return
        self.beat_at = now
        if now - self.used_at >= self.update_interval:
            self.usage, self.used_at = usage(), now
        self.send(self.own_record())
        self.kill_orphans()

    def write(self, record: WorkerRecord) -> None:
        """Write one record to the broker without waiting; what does not fit is told again later, whole."""
        if self.records < 0:
            return
        try:
            os.write(self.records, encoder.encode(record) + b"\n")
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EPIPE}:
                raise
            self.resend = True

    def record(self, name: str) -> WorkerRecord:
        """The worker `name` as everybody may know it."""
        worker = self.plan.workers[name]
        child = self.children.get((name, worker.generation))
        return WorkerRecord(
            name=name,
            state=worker.state,
            generation=worker.generation,
            pid=child.pid if child else 0,
            since=child.since if child else utc_now(),
            restarts=dict(worker.restarts),
            stuck=len(worker.stuck),
            crash_looping=worker.deaths >= self.plan.policy.looping,
            last_exit=worker.last_exit,
        )

    def own_record(self) -> WorkerRecord:
        """The supervisor itself."""
        return WorkerRecord(
            name="supervisor",
            state=WorkerState.RUNNING,
            generation=1,
            pid=os.getpid(),
            since=self.since,
            memory=self.usage.memory,
            cpu=self.usage.cpu,
        )

    def dump(self) -> None:
        """Log the state of every worker."""
        now = time.monotonic()
        for name, worker in self.plan.workers.items():
            child = self.children.get((name, worker.generation))
            doing = (
                f"check {child.slot.check}, deadline in {child.slot.deadline - now:.1f} s"
                if child
                else "no process"
            )
            record = self.record(name)
            logger.info(
                "%s: %s, pid %d, generation %d, restarts %s, stuck %d, %s",
                name,
                record.state,
                record.pid,
                record.generation,
                record.restarts,
                record.stuck,
                doing,
            )


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Let the byte in the wakeup pipe be all that a signal does."""

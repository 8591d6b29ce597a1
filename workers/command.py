"""Runs a command so that nothing of it is left afterwards, whatever it does and however its caller ends.

A *keeper* process stands between the caller and the command. It is a subreaper (prctl(2)), so everything that the
command leaves behind becomes its child, daemons that called setsid(2) included; it kills them all when the command
has ended, when its time is over, or when the caller is gone, which it sees by the end of a pipe. It also reads what
the command prints: the caller need not wait, and gets the whole result through a second pipe.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from workers.privileges import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, adopt_orphans, prctl
from workers.process import close_descriptors

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STDERR_KEPT = 4096
ERROR_KEPT = 1024
CHUNK = 1 << 16
LONGEST_WAIT = 86400.0
"""Seconds: more does not fit into poll(2)."""
NOT_STARTED = 127
LIMITS = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_NPROC, 512))


class User(msgspec.Struct, frozen=True):
    """Whom a command runs as."""

    uid: int
    gid: int


class Command(msgspec.Struct, frozen=True):
    """What is to be run, as `start` describes it."""

    argv: Sequence[str]
    timeout: float
    max_output: int
    user: User | None
    environment: Mapping[str, str]


class Completed(msgspec.Struct, frozen=True):
    """How a command ended. `code` is negative for a signal; outputs are cut to what was asked for.

    Attributes:
        code: Exit code, minus the signal's number, or None when it was killed for its time.
        stdout: What it printed; when it was killed for its time, until then.
        duration: In seconds.
        error: Why it has no result: what prevented its start, or that its keeper was killed; else empty.
    """

    code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool
    duration: float
    error: str = ""

    @property
    def timed_out(self) -> bool:
        """Whether its time was over before it ended."""
        return self.code is None


def user_named(name: str) -> User:
    """The user `name` of the machine.

    Raises:
        KeyError: there is none of that name.
    """
    entry = pwd.getpwnam(name)
    return User(entry.pw_uid, entry.pw_gid)


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    max_output: int,
    user: User | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run `argv` as `start` does, and wait for its end."""
    running = start(argv, timeout=timeout, max_output=max_output, user=user, environment=environment)
    with contextlib.closing(running):
        return running.wait()


def start(
    argv: Sequence[str],
    *,
    timeout: float,
    max_output: int,
    user: User | None = None,
    environment: Mapping[str, str] | None = None,
) -> Running:
    """Let `argv` run for at most `timeout` seconds and keep `max_output` bytes of what it prints.

    Args:
        argv: The program, by its path, and its arguments; no shell is involved.
        timeout: In seconds, for the command itself; the rest takes a few milliseconds more.
        max_output: Bytes of stdout that are kept; the rest is read and thrown away.
        user: Whom to become; None stays who this is.
        environment: Added to PATH, LANG and HOME, which is all that the command gets otherwise.

    Raises:
        OSError: there is no process or descriptor left for a keeper.
    """
    command = Command(argv, timeout, max_output, user, environment or {})
    with contextlib.ExitStack() as if_it_fails:
        result, result_write = pipe(if_it_fails)
        alive_read, alive = pipe(if_it_fails)
        keeper = os.fork()
        if keeper == 0:
            keep(command, result_write, alive_read)
        if_it_fails.pop_all()
    os.close(result_write)
    os.close(alive_read)
    return Running(keeper, result, alive)


def pipe(closing: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe's end to read and its end to write, both to be closed by `closing`."""
    ends = os.pipe()
    for end in ends:
        closing.callback(os.close, end)
    return ends


class Running:
    """A command that was started: `completed` has its result after its `fileno` had input; in the end, `close` it."""

    def __init__(self, keeper: int, result: int, alive: int) -> None:
        self.keeper = keeper
        self.result = result
        self.alive: int | None = alive
        self.report = bytearray()
        os.set_blocking(result, False)

    def fileno(self) -> int:
        """A descriptor to poll for input."""
        return self.result

    def completed(self) -> Completed | None:
        """How it ended, or None while it runs."""
        ended = False
        with contextlib.suppress(BlockingIOError):  # that was all for now
            while data := os.read(self.result, CHUNK):
                self.report += data
            ended = True
        try:
            return msgspec.msgpack.decode(self.report, type=Completed)
        except msgspec.DecodeError:
            return without_result("its keeper was killed") if ended else None

    def wait(self) -> Completed:
        """How it ended, once it has."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        while (completed := self.completed()) is None:
            poll.poll()
        return completed

    def end(self) -> None:
        """Have it killed with all that it started; `close` waits until that is done."""
        if self.alive is not None:
            os.close(self.alive)
            self.alive = None

    def close(self) -> None:
        """End it and let go of it, also when this process was told to end in the middle."""
        self.end()
        # A keeper that has more to tell than fits into the pipe would wait for this process, which waits for it.
        os.close(self.result)
        os.waitpid(self.keeper, 0)


def without_result(error: str) -> Completed:
    """What there is to say of a command of which no more than this is known."""
    return Completed(NOT_STARTED, b"", b"", truncated=False, duration=0.0, error=error)


def keep(command: Command, result: int, alive: int) -> NoReturn:
    """Be the keeper; never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        close_descriptors((result, alive))
        os.setsid()
        adopt_orphans()
        try:
            completed = attended(command, alive)
        except OSError as failure:
            completed = without_result(failure.strerror or str(failure))
        with open(result, "wb") as report:
            report.write(msgspec.msgpack.encode(completed))
    finally:
        os._exit(0)


class Stream:
    """A pipe that is read without waiting; the first `bound` bytes are kept."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.kept = bytearray()
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)

    def take(self) -> bool:
        """Read what is there; whether that was anything."""
        try:
            data = os.read(self.read_end, CHUNK)
        except BlockingIOError:
            return False
        self.kept += data[: max(0, self.bound - len(self.kept))]
        return data != b""


def attended(command: Command, alive: int) -> Completed:
    """Run `command` until it ends, its time is over or the caller is gone, and then kill what is left of it.

    Raises:
        OSError: there is no process or descriptor left for it.
    """
    began = time.monotonic()
    # One byte more than is kept shows that something was cut off.
    out, err, error = Stream(command.max_output + 1), Stream(STDERR_KEPT), Stream(ERROR_KEPT)
    pid = os.fork()
    if pid == 0:
        become_command(command, (out.write_end, err.write_end, error.write_end))
    for stream in (out, err, error):
        os.close(stream.write_end)
    code = await_end(pid, began + command.timeout, alive, (out, err, error))
    kill_descendants(pid)
    for stream in (out, err, error):
        while stream.take():
            pass
    return Completed(
        code,
        bytes(out.kept[: command.max_output]),
        bytes(err.kept),
        truncated=len(out.kept) > command.max_output,
        duration=time.monotonic() - began,
        error=error.kept.decode(errors="replace"),
    )


def await_end(pid: int, deadline: float, alive: int, streams: Sequence[Stream]) -> int | None:
    """Read `streams` until the command `pid` ends; its exit code, or None at `deadline` or when the caller is gone."""
    pidfd = os.pidfd_open(pid)
    by_descriptor = {stream.read_end: stream for stream in streams}
    poll = select.poll()
    for descriptor in (pidfd, alive, *by_descriptor):
        poll.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poll.poll(min(left, LONGEST_WAIT) * 1000))
        if pidfd in ready:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if alive in ready:
            return None
        for descriptor, events in ready.items():
            if events & select.POLLIN:
                by_descriptor[descriptor].take()
            else:
                poll.unregister(descriptor)
    return None


def become_command(command: Command, descriptors: tuple[int, int, int]) -> NoReturn:
    """Turn this fork into the command; what prevents it is written to the last of `descriptors`."""
    out, err, error = descriptors
    user = command.user
    try:
        # Opening a program on a dead network mount may hang for ever: nothing else must hang with it.
        close_descriptors(descriptors)
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):  # two of them can't be changed
                signal.signal(number, signal.SIG_DFL)
        for limit, value in LIMITS:
            hard = resource.getrlimit(limit)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (bound, bound))
        program = os.open(command.argv[0], os.O_RDONLY | os.O_CLOEXEC)
        if user is not None:
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        # After the change of user, which would undo it.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir("/")
        execute(program, command.argv, {"PATH": PATH, "LANG": "C", "HOME": "/", **command.environment})
    except (OSError, ValueError) as failure:
        os.write(error, (getattr(failure, "strerror", None) or str(failure)).encode())
    finally:
        os._exit(NOT_STARTED)


def execute(program: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Become the program `argv[0]`, by its path or, where a folder above it is closed to this user, as it was opened.

    Raises:
        OSError: it can't be executed.
    """
    try:
        os.execve(argv[0], list(argv), environment)  # noqa: S606 - no shell is wanted
    except PermissionError:
        os.set_inheritable(program, True)
        os.execve(program, list(argv), environment)  # noqa: S606 - no shell is wanted


def kill_descendants(pid: int) -> None:
    """Kill the command's group and everything else that has become this process's child, until nothing is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left of the group
        os.killpg(pid, signal.SIGKILL)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(1000):
        for child in children.read_text().split():
            with contextlib.suppress(ProcessLookupError, PermissionError):  # setuid programs are beyond us
                os.kill(int(child), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)

"""Runs a command so that nothing of it is left afterwards, whatever it does and however its caller ends.

A *keeper* process stands between the caller and the command. It is a subreaper (prctl(2)), so everything that the
command leaves behind becomes its child, daemons that called setsid(2) included; it kills them all when the command
has ended, when its time is over, or when the caller is gone, which it sees by the end of a pipe.
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
CHUNK = 1 << 16
LONGEST_WAIT = 86400.0
"""Seconds: more does not fit into poll(2)."""
NOT_STARTED = 127
LIMITS = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_NPROC, 512))


class User(msgspec.Struct, frozen=True):
    """Whom a command runs as."""

    uid: int
    gid: int


class Completed(msgspec.Struct, frozen=True):
    """How a command ended. `code` is negative for a signal; outputs are cut to what was asked for.

    Attributes:
        code: Exit code, minus the signal's number, or None when it was killed for its time.
        error: Why it could not be started; empty if it was.
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
    """Run `argv` for at most `timeout` seconds and keep `max_output` bytes of what it prints.

    Args:
        argv: The program, by its path, and its arguments; no shell is involved.
        timeout: In seconds, for the command itself; the rest takes a few milliseconds more.
        max_output: Bytes of stdout that are kept; the rest is read and thrown away.
        user: Whom to become; None stays who this is.
        environment: Added to PATH, LANG and HOME, which is all that the command gets otherwise.
    """
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    result_read, result_write = os.pipe()
    alive_read, alive_write = os.pipe()
    began = time.monotonic()
    keeper = os.fork()
    if keeper == 0:
        keep(argv, timeout, user, environment or {}, (out_write, err_write, result_write, alive_read))
    for descriptor in (out_write, err_write, result_write, alive_read):
        os.close(descriptor)
    try:
        stdout, stderr, report = collect(result_read, out_read, err_read, max_output)
    finally:
        # Its end tells the keeper to make an end, also when this process was told to end in the middle.
        os.close(alive_write)
        os.waitpid(keeper, 0)
        for descriptor in (out_read, err_read, result_read):
            os.close(descriptor)
    code, error = interpret(report)
    kept, truncated = stdout[:max_output], len(stdout) > max_output
    return Completed(code, kept, stderr, truncated, time.monotonic() - began, error)


def interpret(report: bytes) -> tuple[int | None, str]:
    """The keeper's one line: a code, `timeout`, or `error` and a text."""
    word, _, text = report.decode(errors="replace").partition(" ")
    match word:
        case "code":
            return int(text), ""
        case "error":
            return NOT_STARTED, text
    return None, ""


def collect(result: int, out: int, err: int, max_output: int) -> tuple[bytes, bytes, bytes]:
    """Read both outputs until the keeper has told the result; one byte more than `max_output` shows a cut."""
    kept: dict[int, bytearray] = {out: bytearray(), err: bytearray(), result: bytearray()}
    bounds = {out: max_output + 1, err: STDERR_KEPT, result: 1024}
    poll = select.poll()
    for descriptor in kept:
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        for descriptor in (out, err):
            if descriptor in ready and not drain(descriptor, kept[descriptor], bounds[descriptor]):
                poll.unregister(descriptor)
        if result in ready and not drain(result, kept[result], bounds[result]):
            for descriptor in (out, err):
                while drain(descriptor, kept[descriptor], bounds[descriptor], once=True):
                    pass
            return bytes(kept[out]), bytes(kept[err]), bytes(kept[result])


def drain(descriptor: int, kept: bytearray, bound: int, *, once: bool = False) -> bool:
    """Read what is there, keep up to `bound` bytes of all; False at the end, or if `once` and nothing was there."""
    try:
        data = os.read(descriptor, CHUNK)
    except BlockingIOError:
        return not once
    kept += data[: max(0, bound - len(kept))]
    return data != b""


def keep(
    argv: Sequence[str],
    timeout: float,
    user: User | None,
    environment: Mapping[str, str],
    descriptors: tuple[int, int, int, int],
) -> NoReturn:
    """Be the keeper; never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        out, err, result, alive = descriptors
        close_descriptors(descriptors)
        os.setsid()
        adopt_orphans()
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            become_command(argv, user, environment, (out, err, error_write))
        for descriptor in (out, err, error_write):
            os.close(descriptor)
        error = os.read(error_read, 1024)
        report = b"error " + error if error else await_end(pid, timeout, alive)
        kill_descendants(pid)
        os.write(result, report)
    finally:
        os._exit(0)


def become_command(
    argv: Sequence[str], user: User | None, environment: Mapping[str, str], descriptors: tuple[int, int, int]
) -> NoReturn:
    """Turn this fork into the command; what prevents it is written to the last of `descriptors`."""
    out, err, error = descriptors
    try:
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
        program = os.open(argv[0], os.O_RDONLY | os.O_CLOEXEC)
        if user is not None:
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        # After the change of user, which would undo it.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir("/")
        execute(program, argv, {"PATH": PATH, "LANG": "C", "HOME": "/", **environment})
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


def await_end(pid: int, timeout: float, alive: int) -> bytes:
    """Wait for the command `pid`, for its time and for the caller; the line to report."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(alive, select.POLLIN)
    ready = dict(poll.poll(min(timeout, LONGEST_WAIT) * 1000))
    if pidfd not in ready:
        return b"timeout"
    _, status = os.waitpid(pid, 0)
    return f"code {os.waitstatus_to_exitcode(status)}".encode()


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

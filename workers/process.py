"""The first lines of every forked process: undo what it inherited, then become what it is."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from setproctitle import setproctitle

from nodedoctor import log
from nodedoctor.config.model import Settings
from nodedoctor.roster import Roster
from workers.deadlines import Slot
from workers.privileges import die_with_parent, prefer_for_oom_kill

RECYCLED = 75
"""Exit code of a worker that ends because it has grown; sysexits.h EX_TEMPFAIL: to be started again."""

logger = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """What a process is told by the supervisor that forked it. `generation` counts this worker's processes from 1."""

    name: str
    generation: int
    parent: int
    run_dir: Path
    state_dir: Path
    roster: Roster
    slot: Slot
    memory: WorkerMemoryBytes


class WorkerMemoryBytes(msgspec.Struct, frozen=True):
    """How far a worker may grow: beyond `soft` it is replaced between checks, at `hard` allocations fail."""

    soft: int
    hard: int


def become(place: Place, keep: Iterable[int] = (), oom_points: int = 300) -> None:
    """Turn a fresh fork into the process that `place` names.

    It dies with the supervisor, stands in a process group of its own, has default signal handlers but for
    SIGTERM, which ends it orderly, and no descriptors but the standard ones and `keep`.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    os.setpgid(0, 0)
    die_with_parent(place.parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    close_descriptors(keep)
    os.environ.pop("NOTIFY_SOCKET", None)
    setproctitle(f"node-doctor: {place.name}")
    log.become(place.name)
    prefer_for_oom_kill(oom_points)
    threading.excepthook = end_with_thread


def end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave whatever runs, through its `finally` blocks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def end_with_thread(args: threading.ExceptHookArgs) -> NoReturn:
    """A thread that ended unforeseen leaves a process that looks alive: end it, and be replaced."""
    exception = args.exc_value or args.exc_type()
    logger.error("a thread ended by %s", args.exc_type.__name__, exc_info=exception)
    os._exit(1)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close all but the standard descriptors and `keep`; close_range(2)."""
    lowest = 3
    for descriptor in sorted({number for number in keep if number >= lowest}):
        os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, 1 << 20)


def automatic_memory(settings: Settings, workers: int) -> WorkerMemoryBytes:
    """The bounds of each of `workers` processes: as configured, else a share of the container's limit.

    All hard bounds together stay below the container's: with memory.oom.group (cgroup v2), which the kubelet
    sets, one process that runs out of memory takes the whole container with it.
    """
    mebibyte = 1 << 20
    limit = container_limit()
    share = limit * 3 // 4 // max(workers, 1) if limit else 256 * mebibyte
    hard = settings.worker_memory.hard_mebibytes * mebibyte or min(256 * mebibyte, max(share, 24 * mebibyte))
    soft = settings.worker_memory.soft_mebibytes * mebibyte or hard // 2
    return WorkerMemoryBytes(min(soft, hard), hard)


def container_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The memory limit of the cgroup that is mounted at `root`, in bytes; None without one (cgroup v2, then v1)."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None

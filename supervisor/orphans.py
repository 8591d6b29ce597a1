"""What workers leave behind comes to the supervisor, as the nearest subreaper; prctl(2) PR_SET_CHILD_SUBREAPER."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

logger = logging.getLogger(__name__)


def kill_orphans(known: set[int]) -> None:
    """Kill and reap this process's children that it did not fork itself.

    A dead worker's processes come at any time and without notice: this is called whenever the supervisor wakes up.
    """
    for pid in children() - known:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            # It may take a moment to die; the next call finds it again.
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG):
                    logger.info("reaped the orphan %d", pid)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)


def children() -> set[int]:
    """The ids of this process's children, dead ones that wait to be reaped included; proc(5)."""
    me = os.getpid()
    return {int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()}

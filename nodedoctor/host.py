"""Where a monitor finds the machine that it looks at, from inside a container too."""

from __future__ import annotations

from collections import deque
from pathlib import Path, PurePosixPath

import msgspec

MOUNTED = Path("/host")
"""Where a container has the host's root by custom."""
MOST_LINKS = 40
"""Symbolic links that are followed for one path, as the kernel does; path_resolution(7)."""


class Host(msgspec.Struct, frozen=True):
    """The places of one machine; tests give other folders."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    state: Path | None = None
    """A folder for what must survive a restart, or None while there is none."""
    root: Path = Path("/")
    """The machine's own root: where files and sockets are that belong to it and not to the agent's container."""
    kubeconfig: str = ""
    """The kubeconfig file to reach the API server with; a pod's credentials come first, $KUBECONFIG last."""

    def path(self, name: str) -> Path:
        """Where the machine's file with the absolute path `name` is, with its links followed below `root`.

        A link such as /var/run -> /run would otherwise lead into the agent's own container.

        Raises:
            OSError: a folder on the way can't be looked into, or links lead in a circle.
        """
        if self.root == Path("/"):
            return Path(name)
        here, left, links = self.root, deque(parts(name)), 0
        while left:
            part = left.popleft()
            if part == "..":
                here = here if here == self.root else here.parent
                continue
            following = here / part
            if not following.is_symlink():
                here = following
                continue
            links += 1
            if links > MOST_LINKS:
                raise OSError(40, "too many symbolic links", name)
            target = str(following.readlink())
            here = self.root if target.startswith("/") else here
            left.extendleft(reversed(parts(target)))
        return here


def parts(name: str) -> tuple[str, ...]:
    """The names that a path is made of, without the root."""
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def root_of_host(configured: str) -> Path:
    """The node's root: the `configured` one, else what is mounted at /host and looks like a root, else this one."""
    if configured:
        return Path(configured)
    return MOUNTED if (MOUNTED / "etc").is_dir() and (MOUNTED / "proc").is_dir() else Path("/")

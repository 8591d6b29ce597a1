"""How much the agent itself is held back by the CPU limit of its control group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec


class Throttling(msgspec.Struct, frozen=True):
    """Scheduling periods since the group was made: all, those in which it was held back, and for how many seconds."""

    periods: int
    throttled: int
    seconds: float


def own_throttling(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Throttling | None:
    """That of this process's control group; None if it has no CPU controller.

    Both versions of cgroups call the file cpu.stat; https://docs.kernel.org/scheduler/sched-bwc.html.
    """
    for file in places((proc / "self/cgroup").read_text(), cgroups):
        if file.is_file():
            found = throttling(file.read_text())
            if found:
                return found
    return None


def places(groups: str, cgroups: Path) -> Iterator[Path]:
    """Where cpu.stat may be, given the text of /proc/self/cgroup; a container sees its own group as the top."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            for top in (cgroups / controllers, cgroups / "cpu"):
                yield top / path.lstrip("/") / "cpu.stat"
                yield top / "cpu.stat"


def throttling(stat: str) -> Throttling | None:
    """What the text of cpu.stat says; None if it counts no periods, as at the top of version 2."""
    values = {name: int(number) for name, number in (line.split() for line in stat.splitlines())}
    if "nr_periods" not in values:
        return None
    seconds = values["throttled_usec"] / 1e6 if "throttled_usec" in values else values["throttled_time"] / 1e9
    return Throttling(values["nr_periods"], values["nr_throttled"], seconds)

"""How much the agent itself is held back by the CPU limits of its control group and of those around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec


class Throttling(msgspec.Struct, frozen=True):
    """Scheduling periods since the group was made: all, those in which it was held back, and for how many seconds."""

    periods: int
    throttled: int
    seconds: float

    def share(self, before: Throttling) -> float:
        """The share of periods since `before` in which it was held back, 0 to 1."""
        periods = self.periods - before.periods
        return (self.throttled - before.throttled) / periods if periods > 0 else 0.0


def own_throttling(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> dict[Path, Throttling]:
    """That of this process's control group and of those around it, by file; empty without a CPU controller.

    A limit of the pod or of a slice holds back all that is in it, and only that group counts it. A container may see
    none but its own. Both versions of cgroups call the file cpu.stat; https://docs.kernel.org/scheduler/sched-bwc.html.
    """
    files = [file for file in places((proc / "self/cgroup").read_text(), cgroups) if file.is_file()]
    found = {file: throttling(file.read_text()) for file in files}
    return {file: one for file, one in found.items() if one}


def places(groups: str, cgroups: Path) -> Iterator[Path]:
    """Where cpu.stat may be, given the text of /proc/self/cgroup; a container sees its own group as the top."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path.lstrip("/"))
        tops = (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups,)
        if not controllers or "cpu" in controllers.split(","):
            yield from (top / group / "cpu.stat" for top in tops for group in (own, *own.parents))


def throttling(stat: str) -> Throttling | None:
    """What the text of cpu.stat says; None if it counts no periods, as at the top of version 2."""
    values = {name: int(number) for name, number in (line.split() for line in stat.splitlines())}
    if "nr_periods" not in values:
        return None
    seconds = values["throttled_usec"] / 1e6 if "throttled_usec" in values else values["throttled_time"] / 1e9
    return Throttling(values["nr_periods"], values["nr_throttled"], seconds)

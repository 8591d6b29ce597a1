"""The node's mount table, from inside a container too."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from nodedoctor.host import Host

READ_ONLY_BY_NATURE = {"squashfs", "iso9660", "erofs", "cramfs", "romfs", "udf", "overlay"}
"""These close themselves whatever the mount asks for: overlay does so without an upper folder, and only then."""


class Mount(msgspec.Struct, frozen=True):
    """One line of mountinfo: its number, the file system's device, where, what, and the options of both."""

    number: int
    device: str
    point: str
    filesystem: str
    options: frozenset[str]
    super_options: frozenset[str]
    source: str = ""
    copied: bool = False
    """It is a container's copy of the node's mount: its own options say nothing of the node's."""

    @property
    def closed(self) -> bool:
        """Whether the file system itself refuses writes.

        After an error ext4 says `ro`, since Linux 6.15 `emergency_ro` (in 6.12 to 6.14 neither: the kernel's log
        tells).
        """
        return not self.super_options.isdisjoint({"ro", "emergency_ro"})

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, for whatever reason."""
        return self.closed or (not self.copied and "ro" in self.options)

    @property
    def failed(self) -> bool:
        """Whether the kernel refuses writes to what was mounted for them.

        After an error the kernel closes the file system and leaves the mount's own option as it was. A person who
        mounts or remounts read-only sets both; a read-only bind mount has only its own; mount(8).
        """
        if self.filesystem in READ_ONLY_BY_NATURE:
            return False
        return "emergency_ro" in self.super_options or (self.closed and "ro" not in self.options)


def node_mounts(host: Host) -> list[Mount]:
    """The node's mounts with the node's paths, wherever this process looks from.

    A container sees the table of the node's PID 1 if it shares the node's processes or has its /proc below the node's
    root. Without both it has its own table alone, which tells of what is mounted below that root.
    """
    if host.root == Path("/"):
        return mount_table(host.proc)
    own = read_table(host.proc / "self/mountinfo")
    numbers = {mount.number for mount in own}
    for proc in (host.root / "proc", host.proc):
        table = read_table(proc / "1/mountinfo")
        # Numbers are given once for all namespaces.
        if table and numbers.isdisjoint(mount.number for mount in table):
            return table
    return [mount for mount in (copy_of(mount, host.root) for mount in own) if mount]


def copy_of(mount: Mount, root: Path) -> Mount | None:
    """A mount of this container with the node's path; None if it is the container's own."""
    point = Path(mount.point)
    if not point.is_relative_to(root):
        return None
    return msgspec.structs.replace(mount, point=str(Path("/") / point.relative_to(root)), copied=True)


def mount_table(proc: Path) -> list[Mount]:
    """The mounts of PID 1, or this process's where PID 1 may not be looked at; empty without either."""
    return read_table(proc / "1/mountinfo") or read_table(proc / "self/mountinfo")


def read_table(path: Path) -> list[Mount]:
    """The mounts in one mountinfo; none if it may not be read."""
    try:
        text = path.read_text(errors="surrogateescape")
    except (PermissionError, FileNotFoundError):
        return []
    # A name may hold what splitlines() takes for the end of a line; only a real newline is escaped.
    return [parse_mount(line) for line in text.split("\n") if line]


def parse_mount(line: str) -> Mount:
    """One line of mountinfo; its path has blanks as octal escapes, its source may be empty."""
    left, right = line.split(" - ", 1)
    number, _, device, _, point, options = left.split(" ")[:6]
    filesystem, source, super_options = right.split(" ", 2)
    path = point.encode(errors="surrogateescape").decode("unicode_escape").encode("latin-1")
    return Mount(
        number=int(number),
        device=device,
        point=path.decode(errors="surrogateescape"),
        filesystem=filesystem,
        options=frozenset(options.split(",")),
        super_options=frozenset(super_options.split(",")),
        source=source,
    )


def node_path(host: Host, path: str) -> str:
    """The node's own name for `path`, without symbolic links."""
    if host.root == Path("/"):
        return os.path.realpath(path)
    return str(Path("/") / host.path(path).relative_to(host.root))


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount on which `path`, without links, lies: the longest point above it, the last of several at one point."""
    above = [m for m in mounts if path == m.point or path.startswith(m.point.rstrip("/") + "/")]
    return max(enumerate(above), key=lambda pair: (len(pair[1].point), pair[0]), default=(0, None))[1]

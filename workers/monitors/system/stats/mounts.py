"""File systems that lie on devices, and what the kernel calls these devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodedoctor.host import Host
from workers.monitors.system.stats.source import printable

RAM = "1:"
"""The number of RAM disks begins so; https://docs.kernel.org/admin-guide/devices.html."""


class Mount(msgspec.Struct, frozen=True):
    """A mounted file system that lies on a device; `point` can be opened by this process."""

    device: str
    point: Path
    filesystem: str
    options: str


def mounts(host: Host) -> list[Mount]:
    """The host's mounts, or those that this process has where it may not enter the root of PID 1 (ptrace(2)).

    In a container the latter have the host's file systems, too, if the host's root is mounted there.

    Raises:
        OSError: there is no mount table.
    """
    types = on_devices(host.proc)
    try:
        return list(mounts_of(host, "1", types))
    except OSError:
        return list(mounts_of(host, "self", types))


def mounts_of(host: Host, process: str, types: set[str]) -> Iterator[Mount]:
    """What `process` has mounted of `types`; of several mounts at one point the last one, which hides the others."""
    root = host.proc / process / "root"
    root.stat()
    table = (host.proc / process / "mountinfo").read_text(errors="surrogateescape")
    fields = [line.split(" ") for line in table.split("\n") if line]
    for words in {words[4]: words for words in fields}.values():
        filesystem, source = words[words.index("-", 6) + 1 :][:2]
        if filesystem in types:
            yield Mount(
                device=device_name(host, words[2], unescaped(source)),
                point=root / unescaped(words[4]).lstrip("/"),
                filesystem=filesystem,
                options=words[5],
            )


def on_devices(proc: Path) -> set[str]:
    """The types of file systems that lie on devices, as ZFS does although the kernel does not say so."""
    lines = (proc / "filesystems").read_text().splitlines()
    return {"zfs", *(line.strip() for line in lines if not line.startswith("nodev"))}


def unescaped(text: str) -> str:
    """`text` of mountinfo, where blanks are octal escapes; proc_pid_mountinfo(5)."""
    raw = text.encode(errors="surrogateescape").decode("unicode_escape").encode("latin-1")
    return raw.decode(errors="surrogateescape")


def device_name(host: Host, number: str, source: str) -> str:
    """What /proc/diskstats calls the device of a mount, else what was mounted.

    Args:
        host: The machine.
        number: As in `8:1`. That of btrfs is none of a device: its source counts, which may be a symbolic link.
        source: As in `/dev/sda1`.
    """
    path = source.removeprefix("/dev/")
    for link in (host.sys / "dev/block" / number, host.dev / path):
        try:
            return kernel_name(os.path.realpath(link, strict=True))
        except OSError:
            continue
    return printable(path)


def kernel_name(path: str | Path) -> str:
    """The name of a device whose folder below /sys is `path`: there a slash in it is written as `!`."""
    return Path(path).name.replace("!", "/")


def whole_disks(sys: Path) -> set[str]:
    """The names of all devices that are no part of another and not made of others, as `lsblk -d` lists them.

    That leaves out RAM disks, loop devices without a file and hidden paths to a device, too; lsblk(8).

    Raises:
        OSError: /sys/block can't be read.
    """
    return {kernel_name(folder) for folder in (sys / "block").iterdir() if is_whole(folder)}


def is_whole(folder: Path) -> bool:
    """Whether the device with this folder is listed."""
    number, size, hidden = (attribute(folder, name) for name in ("dev", "size", "hidden"))
    empty = folder.name.startswith("loop") and size == "0"
    made_of_others = any((folder / "slaves").glob("*"))
    return not (empty or made_of_others or number.startswith(RAM) or hidden == "1")


def attribute(folder: Path, name: str) -> str:
    """What the kernel says of a device; empty if it does not, as before Linux 4.15 of `hidden`."""
    try:
        return (folder / name).read_text().strip()
    except OSError:
        return ""

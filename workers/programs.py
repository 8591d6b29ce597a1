"""Other people's programs: which of them may be run, as whom, with what, and what they print."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nodedoctor.errors import Undetermined
from workers.command import User, user_named


def program_faults(path: str, args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what no program can be started with, as (option, what is wrong)."""
    if not path.startswith("/"):
        yield "path", f"found {path!r}, allowed: an absolute path"
    for option, text in (("path", path), *((f"args[{i}]", arg) for i, arg in enumerate(args))):
        if "\0" in text:
            yield option, "holds a NUL"


def environment_faults(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what can't be a variable, as (option, what is wrong)."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            yield (
                "environment",
                f"found {name!r}: a variable's name is not empty and has no =, and none has a NUL",
            )


def user_to_become(name: str) -> User | None:
    """Whom to run a program as if it is to be `name`; None: as this process, which is him or can become nobody else.

    Raises:
        Undetermined: there is no such user.
    """
    if os.geteuid() != 0 or name == "root":
        return None
    try:
        return user_named(name)
    except KeyError:
        text = f"there is no user {name!r} on this machine; set config.user"
        raise Undetermined(text, "PluginNotExecutable") from None


def trusted(path: Path) -> Path:
    """The file that `path` leads to, which is the one to run: nobody but root could have put it, or a folder, there.

    Raises:
        Undetermined: it is missing, or others could replace it while this process may do more than they.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        places = [(place, place.stat()) for place in (real, *real.parents)]
    except OSError as error:
        raise Undetermined(f"{path}: {error.strerror}", "PluginNotExecutable") from None
    for place, mode in places if os.geteuid() == 0 else ():
        # In a sticky folder nobody can replace another's file.
        shared = mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode.st_mode & stat.S_ISVTX
        if mode.st_uid != 0 or shared:
            where = "it" if place == path else place
            text = f"{path}: {where} belongs to or can be written by others than root: chown root, chmod go-w"
            raise Undetermined(text, "PluginNotTrusted")
    return real


def printable(output: bytes, *, also: str = "") -> str:
    """`output` as a message: trimmed, valid Unicode, without control characters but those in `also`."""
    text = output.decode(errors="replace").strip()
    return "".join(character if character.isprintable() or character in also else " " for character in text)

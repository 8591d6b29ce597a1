"""Other people's checks: a program whose exit code is the verdict."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.words import condition_name
from workers.command import Completed, User, run, user_named

CODE = Gauge("plugin_exit_code", "Exit code of the last run, negative for a signal; absent after a time-out")
DURATION = Gauge("plugin_duration_seconds", "How long the last run took")
OK, PROBLEM = 0, 1


class PluginOptions(Options, frozen=True):
    """What to run, and how to read it."""

    path: str
    """Absolute path of the program. As root, neither it nor its folder may be writable by others."""
    args: tuple[str, ...] = ()
    user: str = "nobody"
    """Whom to run it as when the agent is root; else it runs as the agent."""
    max_output_length: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    """Bytes of stdout that become the message."""
    plugin_timeout: Duration = "5s"
    """After it the program and everything that it started are killed."""
    environment: dict[str, str] = {}
    """Variables for it, besides PATH, LANG and HOME."""
    condition: ConditionName | None = None
    """The condition's name; by default it is made of the monitor's: gpu-check gives GpuUnhealthy."""
    reason: str = "PluginFoundProblem"
    """The condition's reason while it is True."""
    ok_reason: str = "PluginFoundNothing"
    """The condition's reason while it is False."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What no program can be started with."""
        if not self.path.startswith("/"):
            yield "path", f"found {self.path!r}, allowed: an absolute path"
        if seconds(self.plugin_timeout) <= 0:
            yield "pluginTimeout", f"found {self.plugin_timeout!r}, allowed: more than 0"
        for option, text in (("path", self.path), *((f"args[{i}]", arg) for i, arg in enumerate(self.args))):
            if "\0" in text:
                yield option, "holds a NUL"
        for name, value in self.environment.items():
            if not name or "=" in name or "\0" in name + value:
                yield (
                    "environment",
                    f"found {name!r}: a variable's name is not empty and has no =, and none has a NUL",
                )


class PluginMonitor(Monitor[PluginOptions]):
    """Runs a program: exit code 0 is fine, 1 a problem, 2 and everything else unknown; stdout is the message."""

    kind, options_type = "custom-plugin", PluginOptions
    metrics = (CODE, DURATION)
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_READ_SEARCH")
    timeout = 15.0

    @classmethod
    def conditions_of(cls, name: str, options: PluginOptions) -> tuple[ConditionType, ...]:
        """One condition, named by the options or for the monitor."""
        kind = options.condition or condition_name(name)
        return (ConditionType(kind, options.reason, options.ok_reason),)

    def check(self) -> Iterator[Observation]:
        """Run it once."""
        (condition,) = self.conditions_of(self.name, self.options)
        path = trusted(Path(self.options.path))
        completed = run(
            (str(path), *self.options.args),
            timeout=seconds(self.options.plugin_timeout),
            max_output=self.options.max_output_length,
            user=self.user(),
            environment=self.options.environment,
        )
        yield DURATION(completed.duration)
        if completed.code is not None and not completed.error:
            yield CODE(completed.code)
        yield self.finding(condition, completed)

    def user(self) -> User | None:
        """Whom to become.

        Raises:
            Undetermined: there is no such user.
        """
        if os.geteuid() != 0 or self.options.user == "root":
            return None
        try:
            return user_named(self.options.user)
        except KeyError:
            text = f"there is no user {self.options.user!r} on this machine; set config.user"
            raise Undetermined(text, "PluginNotExecutable") from None

    def finding(self, condition: ConditionType, completed: Completed) -> Finding:
        """What the run says of the condition."""
        message = printable(completed.stdout)
        if completed.error:
            return condition.unknown(
                f"{self.options.path} can't be run: {completed.error}", "PluginNotExecutable"
            )
        if completed.timed_out:
            text = f"Timeout when running plugin {self.options.path} ({self.options.plugin_timeout}) {message}".strip()
            return condition.unknown(text, "PluginTimeout")
        if completed.code in {OK, PROBLEM}:
            return condition.when(
                completed.code == PROBLEM, message or f"{self.options.path} reports a problem"
            )
        return condition.unknown(
            message or f"{self.options.path} ended with {completed.code}", "PluginUndetermined"
        )


def trusted(path: Path) -> Path:
    """The file that `path` leads to, which is the one to run: nobody but root could have put it, or a folder, there.

    Raises:
        Undetermined: it is missing, or others could replace it while this process may do more than they.
    """
    try:
        real = path.resolve(strict=True)
        places = [(place, place.stat()) for place in (real, *real.parents)]
    except OSError as error:
        raise Undetermined(f"{path}: {error.strerror}", "PluginNotExecutable") from None
    for place, mode in places if os.geteuid() == 0 else ():
        # In a sticky folder nobody can replace another's file.
        shared = mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode.st_mode & stat.S_ISVTX
        if mode.st_uid != 0 or shared:
            text = f"{place} belongs to or can be written by others than root: chown root, chmod go-w"
            raise Undetermined(text, "PluginNotTrusted")
    return real


def printable(output: bytes) -> str:
    """`output` as one message: trimmed, valid Unicode, without control characters."""
    text = output.decode(errors="replace").strip()
    return "".join(character if character.isprintable() else " " for character in text)

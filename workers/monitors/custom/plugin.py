"""Other people's checks: a program whose exit code is the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.words import condition_name
from workers.command import Completed, run
from workers.programs import environment_faults, printable, program_faults, trusted, user_to_become

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
        yield from program_faults(self.path, self.args)
        yield from environment_faults(self.environment)
        if seconds(self.plugin_timeout) <= 0:
            yield "pluginTimeout", f"found {self.plugin_timeout!r}, allowed: more than 0"


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
            user=user_to_become(self.options.user),
            environment=self.options.environment,
        )
        yield DURATION(completed.duration)
        if completed.code is not None and not completed.error:
            yield CODE(completed.code)
        yield self.finding(condition, completed)

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

"""Other people's checks: a program whose exit code or output is the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.words import condition_name
from workers.command import Completed, run
from workers.programs import environment_faults, printable, program_faults, trusted, user_to_become

CODE = Gauge("plugin_exit_code", "Exit code of the last run, negative for a signal; absent after a time-out")
DURATION = Gauge("plugin_duration_seconds", "How long the last run took")
VALUE = Gauge("plugin_value", "What the program's JSON says of itself in `metrics`", ("name",))
LONGEST_OUTPUT = 1 << 16
Level = Literal["ok", "warning", "critical", "unknown"]
EXIT_CODES: dict[int, Level] = {0: "ok", 1: "critical"}
GRADED_CODES: dict[int, Level] = {0: "ok", 1: "warning", 2: "critical"}
PREFIXES: dict[str, Level] = {
    "OK": "ok",
    "WARNING": "warning",
    "CRITICAL": "critical",
    "ERROR": "critical",
    "UNKNOWN": "unknown",
}
SYNONYMS: dict[Level, tuple[str, ...]] = {
    "ok": ("ok", "pass", "passed", "good", "healthy"),
    "warning": ("warn", "warning"),
    "critical": ("crit", "critical", "fail", "failed", "error"),
    "unknown": ("unknown",),
}
STATUSES = {word: level for level, words in SYNONYMS.items() for word in words}
Values = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,62}\Z")], float], Meta(max_length=32)
]


class Document(msgspec.Struct, frozen=True):
    """What a program prints as JSON."""

    status: str
    message: str | None = None
    metrics: msgspec.Raw = msgspec.Raw(b"{}")


class Report(msgspec.Struct, frozen=True):
    """What one run says."""

    level: Level
    message: str
    values: dict[str, float] = {}
    fault: str = ""
    """What of its output can't be understood."""


class PluginOptions(Options, frozen=True):
    """What to run, and how to read it."""

    path: str
    """Absolute path of the program. As root, neither it nor its folder may be writable by others."""
    args: tuple[str, ...] = ()
    user: str = "nobody"
    """Whom to run it as when the agent is root; else it runs as the agent."""
    output_format: Literal["exitCode", "simple", "json"] = "exitCode"
    """exitCode: 0 is fine, 1 a problem, all else unknown. The others know warnings: 0 is fine, 1 a warning, 2 a problem.
    There, output goes before: simple: a first line that begins with OK:, WARNING:, CRITICAL:, ERROR: or UNKNOWN:; json:
    {"status": "ok, warning, critical or unknown", "message": "...", "metrics": {"name": 1.5}}, 32 metrics at most.
    """
    max_output_length: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    """Bytes of stdout that become the message; of JSON, characters of its message."""
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
    """Runs a program: its exit code, its first line or its JSON is the verdict, what it prints the message.

    Exit codes with warnings are those of https://www.monitoring-plugins.org/doc/guidelines.html.
    """

    kind, options_type = "custom-plugin", PluginOptions
    metrics = (CODE, DURATION, VALUE)
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_READ_SEARCH")
    timeout = 15.0

    @classmethod
    def conditions_of(cls, name: str, options: PluginOptions) -> tuple[ConditionType, ...]:
        """One condition, named by the options or for the monitor."""
        kind = options.condition or condition_name(name)
        return (ConditionType(kind, options.reason, options.ok_reason, warning_reason="PluginWarns"),)

    def check(self) -> Iterator[Observation]:
        """Run it once."""
        (condition,) = self.conditions_of(self.name, self.options)
        path = trusted(Path(self.options.path))
        completed = run(
            (str(path), *self.options.args),
            timeout=seconds(self.options.plugin_timeout),
            max_output=self.longest_output(),
            user=user_to_become(self.options.user),
            environment=self.options.environment,
        )
        yield DURATION(completed.duration)
        if completed.code is not None and not completed.error:
            yield CODE(completed.code)
        if completed.error:
            text = f"{self.options.path} can't be run: {completed.error}"
            yield condition.unknown(text, "PluginNotExecutable")
        elif completed.code is None:
            message = self.cut(printable(completed.stdout))
            text = (
                f"Timeout when running plugin {self.options.path} ({self.options.plugin_timeout}) {message}"
            )
            yield condition.unknown(text.strip(), "PluginTimeout")
        else:
            report = read(completed.code, completed, self.options.output_format)
            yield from (VALUE(value, name=name) for name, value in report.values.items())
            yield self.finding(condition, report, completed.code)

    def longest_output(self) -> int:
        """Bytes of stdout that are read: a verdict that is cut is none."""
        longest = self.options.max_output_length
        return longest if self.options.output_format == "exitCode" else max(longest, LONGEST_OUTPUT)

    def cut(self, message: str) -> str:
        """`message` within what becomes one."""
        return message[: self.options.max_output_length]

    def finding(self, condition: ConditionType, report: Report, code: int) -> Finding:
        """What the run says of the condition."""
        said = (self.cut(report.message), report.fault and f"{self.options.path}: {report.fault}")
        message = "; ".join(text for text in said if text)
        match report.level:
            case "ok" if not report.fault:
                return condition.when(False, "")
            case "ok" | "warning":
                return condition.warn_when(True, message or f"{self.options.path} warns")
            case "critical":
                return condition.when(True, message or f"{self.options.path} reports a problem")
        return condition.unknown(message or f"{self.options.path} ended with {code}", "PluginUndetermined")


def read(code: int, completed: Completed, output_format: str) -> Report:
    """What a run says by its exit code and output. The output of one that a signal has ended does not count."""
    if output_format == "exitCode":
        return Report(EXIT_CODES.get(code, "unknown"), printable(completed.stdout))
    output = completed.stdout.strip()
    by_code = Report(GRADED_CODES.get(code, "unknown"), printable(output or completed.stderr))
    if code < 0:
        return by_code
    if output_format == "simple":
        return of_line(by_code)
    return of_json(output, by_code) if output else by_code


def of_line(otherwise: Report) -> Report:
    """What output says by its first words, `otherwise` if that is nothing."""
    word, colon, rest = otherwise.message.partition(":")
    return Report(PREFIXES[word], rest.strip()) if colon and word in PREFIXES else otherwise


def of_json(output: bytes, otherwise: Report) -> Report:
    """What output says as JSON; `otherwise`, with the fault, if it is none."""
    try:
        document = msgspec.json.decode(output, type=Document)
        level = STATUSES[document.status.strip().lower()]
    except KeyError:
        return msgspec.structs.replace(otherwise, fault="its JSON has an unknown status")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text = "its output is not the JSON that outputFormat asks for"
        return msgspec.structs.replace(otherwise, fault=text)
    message = printable((document.message or "").encode(errors="replace"))
    try:
        values = msgspec.json.decode(document.metrics, type=Values | None)
    except msgspec.MsgspecError as error:
        return Report(level, message, fault=f"its metrics are left out: {error}")
    return Report(level, message, values or {})

"""Other people's checks, several in one monitor: Node Problem Detector's custom-plugin-monitor."""

from __future__ import annotations

import contextlib
import logging
import math
import select
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from nodedoctor.config.model import ConditionName, Count
from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import (
    ConditionType,
    EventReason,
    Finding,
    Gauge,
    Monitor,
    Observation,
    Options,
    counter,
)
from nodedoctor.types import Event, Metric, Result, Severity
from workers.command import Completed, Running, start
from workers.programs import environment_faults, printable, program_faults, trusted, user_to_become

CODE = Gauge(
    "plugin_exit_code", "Exit code of the last run, negative for a signal; absent after a time-out", ("rule",)
)
DURATION = Gauge("plugin_duration_seconds", "How long the last run took", ("rule",))
RUNS = counter(
    "plugin_runs_total", "Runs by how they ended: ok, problem, unknown, timeout", ("rule", "result")
)
RESULTS = (Result.OK, Result.PROBLEM, Result.UNKNOWN, Result.TIMEOUT)
BY_CODE = {0: Result.OK, 1: Result.PROBLEM, None: Result.TIMEOUT}
STDOUT_READ = 4096

logger = logging.getLogger(__name__)


class DefaultCondition(Options, frozen=True):
    """What a condition says while it is False."""

    type: ConditionName
    reason: str = "PluginFoundNothing"
    """Its reason while it is Unknown, too."""
    message: str = ""


class PluginRule(Options, frozen=True):
    """A program to run, and what its result means."""

    path: str
    """Absolute path of the program. As root, neither it nor its folder may be writable by others."""
    reason: Annotated[str, Meta(min_length=1)]
    """Reason of the event or of the condition while it is True."""
    name: str = ""
    """Names the rule in metrics; by default the reason."""
    type: Literal["temporary", "permanent"] = "temporary"
    """temporary: each run that does not end with 0 is an event. permanent: the result sets the condition."""
    condition: ConditionName | None = None
    """The condition of a permanent rule, one of `conditions`; several rules may set one."""
    args: tuple[str, ...] = ()
    timeout: Duration | None = None
    """By default pluginTimeout, above which it can't be."""
    invoke_interval: Duration | None = None
    """By default that of all rules."""

    @property
    def label(self) -> str:
        """Its name, given or by its reason."""
        return self.name or self.reason

    @property
    def sets(self) -> str | None:
        """The condition that it sets."""
        return self.condition if self.type == "permanent" else None


class PluginRulesOptions(Options, frozen=True):
    """What to run, how often, and how to read it."""

    invoke_interval: Duration = "30s"
    """From one run of a rule to its next; the monitor's own interval says how often it reports what has not changed."""
    plugin_timeout: Duration = "5s"
    """After it a program and everything that it started are killed."""
    max_output_length: Annotated[int, Meta(ge=0)] = 80
    """Bytes of stdout, of which 4 KiB are read, that become the message."""
    concurrency: Count = 3
    """So many programs may run at once."""
    message_change_updates: bool = False
    """While a condition is True: whether a rule's new message takes the place of its first one."""
    skip_initial_status: bool = False
    """Whether a condition is Unknown, and not False, until its rules have run for the first time since the boot."""
    user: str = "nobody"
    """Whom to run them as when the agent is root; else they run as the agent."""
    environment: dict[str, str] = {}
    """Variables for them, besides PATH, LANG and HOME."""
    metrics_reporting: bool = True
    """Whether the reasons count in Node Problem Detector's metrics problem_counter and problem_gauge."""
    conditions: tuple[DefaultCondition, ...] = ()
    """The conditions of the permanent rules, and what they say while they are False."""
    rules: tuple[PluginRule, ...] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        """What no program can be started with, times that there are not, and names that stand twice or for nothing."""
        yield from environment_faults(self.environment)
        yield from time_faults("invokeInterval", self.invoke_interval)
        yield from time_faults("pluginTimeout", self.plugin_timeout)
        for index in repeated([condition.type for condition in self.conditions]):
            yield f"conditions[{index}].type", f"{self.conditions[index].type} stands in this list already"
        for index, rule in enumerate(self.rules):
            for option, fault in self.rule_faults(rule):
                yield f"rules[{index}].{option}", fault
        for index in repeated([rule.label for rule in self.rules]):
            text = f"there is a rule {self.rules[index].label!r} already; a rule is named for its reason by default"
            yield f"rules[{index}].name", text
        if not self.rules:
            yield "rules", "there is nothing to run"

    def rule_faults(self, rule: PluginRule) -> Iterator[tuple[str, str]]:
        """What is wrong with one rule."""
        yield from program_faults(rule.path, rule.args)
        yield from time_faults("timeout", rule.timeout)
        yield from time_faults("invokeInterval", rule.invoke_interval)
        if rule.timeout and seconds(rule.timeout) > seconds(self.plugin_timeout):
            yield (
                "timeout",
                f"found {rule.timeout!r}, must not be above pluginTimeout ({self.plugin_timeout})",
            )
        known = [condition.type for condition in self.conditions]
        if rule.type == "permanent" and rule.condition not in known:
            found = f"found {rule.condition!r}" if rule.condition else "a permanent rule needs it"
            yield (
                "condition",
                f"{found}; allowed: what stands in conditions ({', '.join(known) or 'nothing'})",
            )


def time_faults(option: str, duration: str | None) -> Iterator[tuple[str, str]]:
    """Yield a fault if `duration` is given and is 0."""
    if duration and seconds(duration) <= 0:
        yield option, f"found {duration!r}, allowed: more than 0"


def repeated(names: Sequence[str]) -> Iterator[int]:
    """The places of the names that stand further ahead already."""
    return (index for index, name in enumerate(names) if name in names[:index])


class Outcome(msgspec.Struct, frozen=True):
    """What one run says."""

    result: Result
    message: str

    @property
    def bad(self) -> bool | None:
        """Whether there is a problem; None: it is not known."""
        return {Result.OK: False, Result.PROBLEM: True}.get(self.result)


class Task:
    """One rule and its runs.

    Attributes:
        due: When it is to run next, on the monotonic clock.
        told: The outcome that it is known for; None before the first run has ended.
        completed: The last run, unless it could not be started.
        stderr: What the last run wrote there.
    """

    def __init__(self, rule: PluginRule, options: PluginRulesOptions, now: float) -> None:
        self.rule = rule
        self.options = options
        self.interval = seconds(rule.invoke_interval or options.invoke_interval)
        self.due = now
        self.told: Outcome | None = None
        self.completed: Completed | None = None
        self.stderr = b""

    def start(self, now: float) -> Running:
        """Start a run; the next one is due at the next multiple of the interval: what was missed is left out.

        Raises:
            Undetermined: the program can't be started, or must not be.
        """
        self.due += self.interval * (math.floor((now - self.due) / self.interval) + 1)
        path = trusted(Path(self.rule.path))
        try:
            return start(
                (str(path), *self.rule.args),
                timeout=seconds(self.rule.timeout or self.options.plugin_timeout),
                max_output=STDOUT_READ,
                user=user_to_become(self.options.user),
                environment=self.options.environment,
            )
        except OSError as error:
            raise Undetermined(f"{path}: {error.strerror}") from error

    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of a run: one that says the same as the last one does not change what is known."""
        news = self.told is None or self.told.bad is not outcome.bad
        if news or (outcome.bad and self.options.message_change_updates):
            self.told = outcome

    def finding(self, condition: ConditionType) -> Finding:
        """What this rule says of its condition."""
        if self.told is None and self.options.skip_initial_status:
            return condition.unknown("its rule has not run yet", "NotYetObserved")
        if self.told is None:
            return condition.when(False, "")
        if self.told.bad is None:
            return condition.unknown(self.told.message, condition.ok_reason)
        return condition.when(self.told.bad, self.told.message, self.rule.reason)


class PluginRulesMonitor(Monitor[PluginRulesOptions]):
    """Runs several programs, each at its own pace: exit code 0 is fine, 1 a problem, everything else unknown.

    A temporary rule makes an event of each run that is not fine. A permanent one sets its condition: True if one of
    the condition's rules says so, else Unknown if one of them can't tell, else False. What is printed is the message;
    the first one stays while the verdict does. A program that takes its time delays no other rule, while there are
    fewer at work than `concurrency`.
    """

    kind, options_type = "custom-plugin-rules", PluginRulesOptions
    metrics = (CODE, DURATION, RUNS)
    capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_READ_SEARCH")
    timeout = 15.0

    def __init__(self, name: str, options: PluginRulesOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.declared = self.conditions_of(name, options)
        if self.ran_before():
            options = msgspec.structs.replace(options, skip_initial_status=True)
        self.tasks = {rule.label: Task(rule, options, time.monotonic()) for rule in options.rules}
        self.running: dict[str, Running] = {}
        self.ends = select.epoll()
        self.runs = Counter({(label, result): 0 for label in self.tasks for result in RESULTS})

    @classmethod
    def conditions_of(cls, name: str, options: PluginRulesOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """The conditions of the options; one result is enough to change them."""
        return tuple(
            condition_type(default, [rule for rule in options.rules if rule.sets == default.type])
            for default in options.conditions
        )

    @classmethod
    def events_of(cls, name: str, options: PluginRulesOptions) -> tuple[EventReason, ...]:  # noqa: ARG003
        """The events of the temporary rules."""
        own = [EventReason(rule.reason) for rule in options.rules if rule.type == "temporary"]
        return tuple(dict.fromkeys(own))

    def ran_before(self) -> bool:
        """Whether an earlier process has run since the boot: what it found must not be denied by a default."""
        if self.host.state is None:
            return False
        file = self.host.state / f"plugins-{self.name}.boot"
        boot = (self.host.proc / "sys/kernel/random/boot_id").read_text()
        with contextlib.suppress(OSError):
            if file.read_text() == boot:
                return True
        with contextlib.suppress(OSError):  # a full or read-only disk is reported by others
            file.write_text(boot)
        return False

    def fileno(self) -> int:
        """Has input when a run has ended."""
        return self.ends.fileno()

    def wake_after(self) -> float | None:
        """When the next rule is due that can be started."""
        if len(self.running) >= self.options.concurrency:
            return None
        dues = [task.due for label, task in self.tasks.items() if label not in self.running]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def check(self) -> Iterator[Observation]:
        """Take the results that are there, start what is due, and say what holds."""
        yield from self.take_results()
        now = time.monotonic()
        due = [label for label, task in self.tasks.items() if task.due <= now]
        yield from self.start(sorted(due, key=lambda label: self.tasks[label].due))
        yield from self.report()

    def check_alone(self) -> Iterator[Observation]:
        """Run every rule once and wait for the results."""
        while waiting := [label for label, task in self.tasks.items() if task.told is None]:
            yield from self.start(waiting)
            if self.running:
                self.ends.poll()
            yield from self.take_results()
        yield from self.report()

    def start(self, waiting: Iterable[str]) -> Iterator[Event]:
        """Start those of the rules `waiting` that do not run yet, as far as there are places."""
        for label in waiting:
            if label in self.running:
                continue
            if len(self.running) >= self.options.concurrency:
                return
            task = self.tasks[label]
            try:
                running = task.start(time.monotonic())
            except Undetermined as error:
                task.completed = None
                yield from self.on_outcome(
                    task, Outcome(Result.UNKNOWN, f"Error in starting plugin: {error}")
                )
            else:
                self.running[label] = running
                self.ends.register(running, select.EPOLLIN)

    def take_results(self) -> Iterator[Event]:
        """Let go of the runs that have ended, and take what they say."""
        for label, running in list(self.running.items()):
            completed = running.completed()
            if completed is None:
                continue
            self.ends.unregister(running)
            del self.running[label]
            running.close()
            task = self.tasks[label]
            self.log_complaint(task, completed)
            task.completed = None if completed.error else completed
            outcome = outcome_of(task.rule.path, completed, self.options.max_output_length)
            yield from self.on_outcome(task, outcome)

    def on_outcome(self, task: Task, outcome: Outcome) -> Iterator[Event]:
        """What one run means: an event, or something to tell of a condition."""
        self.runs[task.rule.label, outcome.result] += 1
        task.tell(outcome)
        if task.rule.type == "temporary" and outcome.result is not Result.OK:
            yield EventReason(task.rule.reason)(outcome.message)

    def log_complaint(self, task: Task, completed: Completed) -> None:
        """Log what a run wrote to stderr, unless the last one wrote the same."""
        if completed.stderr and completed.stderr != task.stderr:
            level = logging.INFO if completed.code == 0 else logging.WARNING
            text = printable(completed.stderr)
            logger.log(level, "%s wrote to stderr: %s", task.rule.path, text, extra={"monitor": self.name})
        task.stderr = completed.stderr

    def report(self) -> Iterator[Finding | Metric]:
        """What holds now of every condition, and how the runs went."""
        for condition in self.declared:
            tasks = [task for task in self.tasks.values() if task.rule.sets == condition.type]
            for task in tasks:
                yield task.finding(condition)
            if not tasks:
                yield condition.when(False, "")
        for label, task in self.tasks.items():
            if task.completed:
                yield DURATION(task.completed.duration, rule=label)
            if task.completed and task.completed.code is not None:
                yield CODE(task.completed.code, rule=label)
        for (label, result), count in self.runs.items():
            yield RUNS(count, rule=label, result=result)

    def close(self) -> None:
        """End everything that runs, at once."""
        for running in self.running.values():
            running.end()
        for running in self.running.values():
            running.close()
        self.ends.close()


def condition_type(default: DefaultCondition, rules: Sequence[PluginRule]) -> ConditionType:
    """The condition that these permanent rules set."""
    reasons = tuple(dict.fromkeys(rule.reason for rule in rules))
    return ConditionType(
        default.type,
        reason=reasons[0] if reasons else default.reason,
        ok_reason=default.reason,
        ok_message=default.message,
        severity=Severity.WARNING,
        latched=True,
        reasons=reasons,
        unknown_is_found=True,
    )


def outcome_of(path: str, completed: Completed, length: int) -> Outcome:
    """What a run of the program at `path` says; the message is at most `length` bytes long.

    The texts are Node Problem Detector's, which people's alerts know.
    """
    if completed.error:
        return Outcome(Result.UNKNOWN, f"Error in starting plugin: {path}: {completed.error}")
    text = printable(completed.stdout, also="\n\t")
    if completed.truncated:
        # The last character may have been cut in two.
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    if completed.timed_out:
        text = f'Timeout when running plugin "{path}": state - signal: killed. output - "{text}"'
    return Outcome(BY_CODE.get(completed.code, Result.UNKNOWN), cut(text, length))


def cut(text: str, length: int) -> str:
    """The whole characters of `text` that fit into `length` bytes."""
    return text.encode()[:length].decode(errors="ignore")

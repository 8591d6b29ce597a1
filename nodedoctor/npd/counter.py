"""log-counter, a plugin that Node Problem Detector brings: a rule of a log that asks for several matches in a time."""

from __future__ import annotations

from typing import Any

import msgspec

from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.entries import Draft, label, unused, without_defaults
from nodedoctor.npd.files import CustomPluginFile, PluginRule
from nodedoctor.npd.flags import parse_flags
from nodedoctor.npd.goduration import ours, parse_go_duration
from nodedoctor.npd.logs import condition_of, time_of
from nodedoctor.patterns import compile_pattern

FLAGS = {
    "journald-source": "",
    "log-path": "",
    "lookback": "",
    "delay": "",
    "pattern": "",
    "revert-pattern": "",
    "count": "1",
}


class CounterOptions(msgspec.Struct, frozen=True):
    """What log-counter is asked for; durations in seconds."""

    journald_source: str
    log_path: str
    lookback: float
    delay: float
    pattern: str
    revert_pattern: str
    count: int


def counter_options(rule: PluginRule) -> CounterOptions:
    """What the arguments of `rule` ask for.

    Raises:
        ConfigurationError: an argument is wrong, or the counter could never count anything.
    """
    where = "log-counter"
    flags = {name: values[-1] for name, values in parse_flags(where, rule.args, FLAGS).items()}
    try:
        options = CounterOptions(
            journald_source=flags["journald-source"],
            log_path=flags["log-path"],
            lookback=parse_go_duration(flags["lookback"] or "0"),
            delay=parse_go_duration(flags["delay"] or "0"),
            pattern=flags["pattern"],
            revert_pattern=flags["revert-pattern"],
            count=count_of(flags["count"]),
        )
        compile_pattern(options.pattern)
        compile_pattern(options.revert_pattern)
    except ValueError as error:
        raise ConfigurationError([f"{where}: {error}"]) from None
    for flag, value in (("journald-source", options.journald_source), ("lookback", options.lookback)):
        if not value:
            raise ConfigurationError([f"{where}: without --{flag} it never finds anything"])
    return options


def count_of(text: str) -> int:
    """A number of matches.

    Raises:
        ValueError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--count={text}: allowed: a number above 0")
    return int(text)


def counter_draft(file: CustomPluginFile, rules: list[PluginRule]) -> Draft:
    """The monitor for counters of one log."""
    options = counter_options(rules[0])
    found: list[dict[str, Any]] = []
    for rule in rules:
        found.append(counter_rule(rule, {other["name"] for other in found}))
    used = {rule.condition for rule in rules}
    config = without_defaults(
        {
            "source": "journal",
            "path": options.log_path,
            "identifiers": [options.journald_source],
            "lookback": ours(options.lookback),
            "delay": time_of(options.delay),
            "conditions": [
                condition_of(condition) for condition in file.conditions if condition.type in used
            ],
            "rules": found,
        }
    )
    if not file.metrics_reporting:
        config["metricsReporting"] = False
    return Draft(file.source or "log-counter", "log-pattern", config)


def counter_rule(rule: PluginRule, taken: set[str]) -> dict[str, Any]:
    """One counter."""
    options = counter_options(rule)
    return without_defaults(
        {
            "name": unused(label(rule.reason), taken),
            "type": rule.type,
            "condition": rule.condition,
            "reason": rule.reason,
            "severity": "warning",
            "pattern": options.pattern or "(?:)",
            "revertPattern": options.revert_pattern,
            "match": "window",
            "count": options.count,
            "within": ours(options.lookback),
            "message": f"Found {{count}} matching logs, which meets the threshold of {options.count}",
        }
    )

"""custom-plugin-monitor files: programs to run, and what their ends mean."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.checker import Checker
from nodedoctor.npd.counter import counter_draft, counter_options
from nodedoctor.npd.entries import Draft, label, unused, without_defaults
from nodedoctor.npd.files import CustomPluginFile, PluginRule
from nodedoctor.npd.goduration import ours
from nodedoctor.npd.logs import condition_of

MARGIN = 5.0
"""Seconds that a monitor has beyond the time of its plugins."""
LEAST_INTERVAL = 30.0


def plugin_drafts(name: str, file: CustomPluginFile) -> list[Draft]:
    """The monitors for `file`: native ones for the plugins that Node Problem Detector brings, and one for the rest.

    Raises:
        ConfigurationError: the arguments of one of these plugins are wrong; with every fault.
    """
    writers: dict[str, set[str]] = defaultdict(set)
    faults = []
    for index, rule in enumerate(file.rules):
        try:
            writers[condition_written(rule)].add(writer_of(file, rule))
        except ConfigurationError as error:
            faults += [f"{name}: rules[{index}].args: {fault}" for fault in error.faults]
    if faults:
        raise ConfigurationError(faults)
    by_writer: dict[str, list[PluginRule]] = defaultdict(list)
    for rule in file.rules:
        alone = rule.type == "permanent" and len(writers[rule.condition]) == 1
        by_writer[writer_of(file, rule) if alone else ""].append(rule)
    return [draft for writer, rules in by_writer.items() for draft in drafts_by(writer, file, rules)]


def drafts_by(writer: str, file: CustomPluginFile, rules: list[PluginRule]) -> list[Draft]:
    """The monitors for these rules, which have one writer."""
    if writer.startswith("log-counter"):
        return [counter_draft(file, rules)]
    if writer.startswith("health-checker"):
        return [draft for rule in rules for draft in Checker(file, rule).drafts()]
    return [rules_draft(file, rules)]


def condition_written(rule: PluginRule) -> str:
    """The condition of a permanent rule; an event is no condition."""
    return rule.condition if rule.type == "permanent" else ""


def writer_of(file: CustomPluginFile, rule: PluginRule) -> str:
    """What tells apart who writes the condition of `rule`: a native monitor, or "" for whoever runs plugins.

    Raises:
        ConfigurationError: its arguments are wrong.
    """
    program = re.split(r"[/\\]", rule.path)[-1].removesuffix(".exe")
    if program == "log-counter":
        options = counter_options(rule)
        return f"log-counter {options.journald_source} {options.log_path} {options.lookback} {options.delay}"
    if program == "health-checker":
        Checker(file, rule)
        return f"health-checker {rule.condition} {' '.join(rule.args)}"
    return ""


def rules_draft(file: CustomPluginFile, rules: list[PluginRule]) -> Draft:
    """The monitor that runs these plugins."""
    settings = file.plugin_config
    used = {rule.condition for rule in rules if rule.type == "permanent"}
    elsewhere = {rule.condition for rule in file.rules if rule.type == "permanent"} - used
    config: dict[str, Any] = {
        "invokeInterval": ours(settings.invoke_interval),
        "pluginTimeout": ours(settings.timeout),
        "maxOutputLength": settings.max_output_length,
        "concurrency": settings.concurrency,
        # Node Problem Detector runs plugins as what it is itself.
        "user": "root",
        "rules": [],
    }
    conditions = [condition_of(c) for c in file.conditions if c.type not in elsewhere]
    if conditions:
        config["conditions"] = conditions
    for key, value in (
        ("messageChangeUpdates", settings.enable_message_change_based_condition_update),
        ("skipInitialStatus", settings.skip_initial_status),
    ):
        if value:
            config[key] = True
    if not file.metrics_reporting:
        config["metricsReporting"] = False
    for rule in rules:
        config["rules"].append(rule_of(rule, {other["name"] for other in config["rules"]}))
    timeout = settings.timeout + MARGIN
    interval = max(LEAST_INTERVAL, timeout + MARGIN)
    times = {"interval": ours(interval), "timeout": ours(timeout)}
    draft = Draft(file.source or "custom-plugin-monitor", "custom-plugin-rules", config, **times)
    if any(not Path(rule.path).is_absolute() for rule in rules):
        draft.notes.append(f"paths of programs that are not absolute are taken from {Path.cwd()}")
    return draft


def rule_of(rule: PluginRule, taken: set[str]) -> dict[str, Any]:
    """One plugin."""
    return without_defaults(
        {
            "name": unused(label(rule.reason), taken),
            "type": rule.type,
            "condition": rule.condition if rule.type == "permanent" else "",
            "reason": rule.reason,
            # A relative path is meant from where Node Problem Detector was started.
            "path": rule.path if "\\" in rule.path else str(Path(rule.path).absolute()),
            "args": list(rule.args),
            "timeout": "" if rule.timeout is None else ours(rule.timeout),
            "invokeInterval": "" if rule.invoke_interval is None else ours(rule.invoke_interval),
        }
    )

"""system-log-monitor files: a log, and what to look for in it."""

from __future__ import annotations

from typing import Any

from nodedoctor.npd.entries import Draft, label, unused, without_defaults
from nodedoctor.npd.files import Condition, LogRule, SystemLogFile
from nodedoctor.npd.goduration import ours

EVENTS_PER_MINUTE = 100
"""Node Problem Detector tells an event for each match; a storm must have a bound all the same."""
SOURCES = {"kmsg": "kmsg", "journald": "journal", "filelog": "file"}


def log_draft(file: SystemLogFile) -> Draft:
    """The monitor for `file`."""
    config = without_defaults(
        {
            "source": SOURCES[file.plugin],
            "path": "" if file.plugin == "kmsg" else file.log_path,
            **source_options(file),
            "lookback": time_of(file.lookback),
            "delay": time_of(file.delay),
            "bufferSize": file.buffer_size,
            "conditions": [condition_of(condition) for condition in file.conditions],
            "rules": rules_of(file.rules),
        }
    )
    if not file.metrics_reporting:
        config["metricsReporting"] = False
    draft = Draft(file.source or f"{file.plugin}-monitor", "log-pattern", config)
    draft.log = tuple(
        str(config.get(key))
        for key in ("source", "path", "identifiers", "skip", "timestamp", "messagePattern")
    )
    return draft


def source_options(file: SystemLogFile) -> dict[str, Any]:
    """What only one kind of log has."""
    if file.plugin == "journald":
        return {"identifiers": [file.plugin_config["source"]]}
    if file.plugin == "filelog":
        return {
            "skip": list(file.skip_list),
            "timestamp": file.plugin_config["timestamp"],
            "timestampFormat": file.plugin_config["timestampFormat"],
            "messagePattern": file.plugin_config["message"],
        }
    return {}


def condition_of(condition: Condition) -> dict[str, str]:
    """A condition's default."""
    return without_defaults(
        {"type": condition.type, "reason": condition.reason, "message": condition.message}
    )


def rules_of(rules: tuple[LogRule, ...]) -> list[dict[str, Any]]:
    """The rules, each with a name of its own."""
    found: list[dict[str, Any]] = []
    for rule in rules:
        suffix = rule.pattern_generated_message_suffix
        found.append(
            without_defaults(
                {
                    "name": unused(label(rule.reason), {other["name"] for other in found}),
                    "type": rule.type,
                    "condition": rule.condition if rule.type == "permanent" else "",
                    "reason": rule.reason,
                    "severity": "warning",
                    "pattern": rule.pattern,
                    "match": "window",
                    "message": f"{{line}}; {braced(suffix)}" if suffix else "",
                    "eventsPerMinute": EVENTS_PER_MINUTE,
                    "deduplicateWithin": "0s",
                }
            )
        )
    return found


def time_of(value: float) -> str:
    """`value` seconds as a duration; none is the default."""
    return ours(value) if value else ""


def braced(text: str) -> str:
    """`text` as a part of a message in which braces name groups."""
    return text.replace("{", "{{").replace("}", "}}")

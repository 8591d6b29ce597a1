"""The three kinds of Node Problem Detector's configuration files, as typed, immutable objects with its defaults.

https://github.com/kubernetes/node-problem-detector#usage
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from nodedoctor.config.schema import Fault, shown
from nodedoctor.config.text import PathOf, read_text
from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.fields import (
    METRICS,
    PLUGIN_CONFIG,
    Expression,
    Filled,
    Length,
    LinePattern,
    Lines,
    Positive,
    RuleType,
    Span,
    SpanOrDefault,
    TextOrDefault,
    TimeOrDefault,
)
from nodedoctor.npd.goduration import ours
from nodedoctor.npd.gojson import NOT_IN_FILE, Decoder, Members, Read, fields_of, folded, parse, unknown_key
from nodedoctor.npd.lint import pattern_notes
from nodedoctor.patterns import compile_pattern
from nodedoctor.words import did_you_mean

Misfit = tuple[PathOf, str, PathOf]
"""Where, what is wrong, and the path of the other value that it was judged by; () if there is none."""
STACKDRIVER = ("exportPeriod", "apiEndpoint", "gceMetadata", "metadataFetchTimeout", "metadataFetchInterval")
OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|.*\.(?:exe|ps1|bat|cmd)\Z", re.DOTALL | re.IGNORECASE)


class MonitorFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the three kinds."""

    notes: Annotated[tuple[str, ...], NOT_IN_FILE] = ()
    """A line for each thing that is odd, but that NPD takes."""


class Condition(msgspec.Struct, frozen=True):
    """A condition while nothing is wrong with it."""

    type: Filled
    reason: str = ""
    message: str = ""
    status: str = ""
    """NPD takes it, and starts with False all the same."""
    transition: str = ""
    """As status: NPD starts with the current time."""


class LogRule(msgspec.Struct, frozen=True, rename="camel"):
    """What to look for in a log."""

    type: RuleType
    pattern: LinePattern
    condition: str = ""
    reason: str = ""
    pattern_generated_message_suffix: str = ""


class SystemLogFile(MonitorFile, frozen=True):
    """A file for --config.system-log-monitor. Durations are in seconds."""

    plugin: Annotated[Literal["kmsg", "journald", "filelog"], Read(str, str)]
    plugin_config: dict[str, str] = {}
    """What PLUGIN_CONFIG tells; its keys are taken in this case only."""
    skip_list: tuple[str, ...] = ()
    log_path: str = ""
    lookback: TimeOrDefault = 0.0
    delay: TimeOrDefault = 0.0
    buffer_size: Lines = 10
    source: str = ""
    metrics_reporting: bool = True
    conditions: tuple[Condition, ...] = ()
    rules: tuple[LogRule, ...] = ()

    def misfits(self) -> Iterator[Misfit]:
        """Yield what does not fit together."""
        keys = PLUGIN_CONFIG[self.plugin]
        for key in self.plugin_config:
            if key not in keys:
                yield ("pluginConfig", key), unknown_key(key, keys), ()
        for key in keys:
            if not self.plugin_config.get(key):
                yield ("pluginConfig", key), f"is missing or empty; {self.plugin} needs it", ()
        if self.plugin == "filelog":
            yield from self.file_misfits()
        elif self.skip_list:
            yield ("skipList",), f"NPD honours it with filelog only, not with {self.plugin}; leave it out", ()

    def file_misfits(self) -> Iterator[Misfit]:
        """Yield what is wrong with how a file is to be read."""
        if not self.log_path:
            yield ("logPath",), "is missing or empty; filelog needs the file's path", ()
        for key in ("timestamp", "message"):
            try:
                compile_pattern(self.plugin_config.get(key, ""))
            except ValueError as error:
                yield ("pluginConfig", key), str(error), ()

    def oddities(self) -> Iterator[Fault]:
        """Yield what is odd, and is done as NPD does it."""
        if self.plugin == "kmsg" and self.log_path not in {"", "/dev/kmsg"}:
            yield ("logPath",), "has no effect: kmsg is always read from /dev/kmsg"
        yield from windows_notes(self.log_path, ("logPath",))
        yield from condition_notes(self.conditions)
        known = {condition.type for condition in self.conditions}
        for index, rule in enumerate(self.rules):
            yield from rule_notes(rule, index)
            if rule.type == "permanent" and rule.condition not in known:
                what = f"{shown(rule.condition)} is not in conditions: NPD does nothing then, here it is set"
                yield ("rules", index, "condition"), what
            for note in pattern_notes(rule.pattern, self.buffer_size):
                yield ("rules", index, "pattern"), note


class PluginRule(msgspec.Struct, frozen=True):
    """A program to run, whose exit code tells whether there is a problem."""

    type: RuleType
    path: Filled
    condition: str = ""
    reason: str = ""
    args: tuple[str, ...] = ()
    timeout: Span | None = None
    """Seconds; None: that of the file."""
    invoke_interval: Span | None = None
    """Seconds; None: that of the file."""


class PluginConfig(msgspec.Struct, frozen=True):
    """What holds for all rules of a file. Durations are in seconds."""

    invoke_interval: Span = 30.0
    timeout: Span = 5.0
    max_output_length: Length = 80
    """Bytes."""
    concurrency: Positive = 3
    enable_message_change_based_condition_update: bool = False
    skip_initial_status: bool = False


class CustomPluginFile(MonitorFile, frozen=True):
    """A file for --config.custom-plugin-monitor."""

    plugin: Annotated[Literal["custom"], Read(str, str)]
    plugin_config: PluginConfig = PluginConfig()
    source: str = ""
    metrics_reporting: bool = True
    conditions: tuple[Condition, ...] = ()
    rules: tuple[PluginRule, ...] = ()

    def misfits(self) -> Iterator[Misfit]:
        """Yield what does not fit together. That a program exists is not asked: it may be on another machine."""
        limit = self.plugin_config.timeout
        known = {condition.type for condition in self.conditions}
        for index, rule in enumerate(self.rules):
            if rule.timeout is not None and rule.timeout > limit:
                what = f"found {ours(rule.timeout)}, expected at most pluginConfig.timeout, {ours(limit)}"
                yield ("rules", index, "timeout"), what, ("pluginConfig", "timeout")
            if rule.type == "permanent" and rule.condition not in known:
                what = f"{shown(rule.condition)} is not in conditions{did_you_mean(rule.condition, known)}"
                yield ("rules", index, "condition"), what, ("conditions",)

    def oddities(self) -> Iterator[Fault]:
        """Yield what is odd, and is done as NPD does it."""
        yield from condition_notes(self.conditions)
        for index, rule in enumerate(self.rules):
            yield from rule_notes(rule, index)
            yield from windows_notes(rule.path, ("rules", index, "path"))


class MetricConfig(msgspec.Struct, frozen=True, rename="camel"):
    """A metric to export."""

    display_name: str = ""
    """Its name in the exposition, / instead of _; empty: it is not exported."""


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the system, and what to export of it; METRICS tells the keys."""

    metrics_configs: dict[str, MetricConfig] = {}


class Disk(Part, frozen=True):
    """The disks. With neither flag the counters of all of them are exported."""

    include_root_blk: bool = False
    include_all_attached_blk: bool = False
    lsblk_timeout: SpanOrDefault = 5.0
    """Seconds."""


class Net(Part, frozen=True):
    """The network interfaces."""

    exclude_interface_regexp: Expression = ""


class OsFeature(Part, frozen=True):
    """Features of the operating system, and kernel modules that are not known."""

    known_modules_config_path: TextOrDefault = "guestosconfig/known-modules.json"
    """From the folder of the file."""


class SystemStatsFile(MonitorFile, frozen=True):
    """A file for --config.system-stats-monitor."""

    cpu: Part = Part()
    disk: Disk = Disk()
    host: Part = Part()
    memory: Part = Part()
    net: Net = Net()
    os_feature: OsFeature = OsFeature()
    invoke_interval: SpanOrDefault = 60.0
    """Seconds."""
    proc_path: TextOrDefault = "/proc"

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Yield each part with its key."""
        for key in METRICS:
            yield key, getattr(self, fields_of(SystemStatsFile)[key].name)

    def misfits(self) -> Iterator[Misfit]:
        """Yield what does not fit together."""
        for key, part in self.parts():
            for metric in part.metrics_configs:
                if metric not in METRICS[key]:
                    yield (key, "metricsConfigs", metric), unknown_key(metric, METRICS[key]), ()
        if self.disk.lsblk_timeout > self.invoke_interval:
            limit = ours(self.invoke_interval)
            what = f"found {ours(self.disk.lsblk_timeout)}, expected at most invokeInterval, {limit}"
            yield ("disk", "lsblkTimeout"), what, ("invokeInterval",)

    def oddities(self) -> Iterator[Fault]:
        """Yield what is odd, and is done as NPD does it."""
        for key, part in self.parts():
            for metric, config in part.metrics_configs.items():
                if not config.display_name:
                    yield (key, "metricsConfigs", metric), "has no displayName, so it is not exported"


NpdFile = SystemLogFile | CustomPluginFile | SystemStatsFile


def condition_notes(conditions: Iterable[Condition]) -> Iterator[Fault]:
    """Yield what is given of a condition in vain."""
    for index, condition in enumerate(conditions):
        for key in ("status", "transition"):
            if getattr(condition, key):
                yield ("conditions", index, key), "has no effect: a condition starts as False, and now"


def rule_notes(rule: LogRule | PluginRule, index: int) -> Iterator[Fault]:
    """Yield what is given of a rule in vain."""
    if rule.type == "temporary" and rule.condition:
        yield ("rules", index, "condition"), "has no effect: a temporary rule sets no condition"


def windows_notes(path: str, where: PathOf) -> Iterator[Fault]:
    """Yield that `path` is one of Windows."""
    if OF_WINDOWS.match(path):
        yield where, f"{shown(path)} is a path of Windows, where this agent does not run"


def read_npd(path: Path) -> NpdFile:
    """What the file `path` says.

    Raises:
        ConfigurationError: it can't be read, or is none that NPD takes; with every fault that was found.
    """
    text = read_text(path)
    with path.open("rb") as file:
        marked = file.read(3) == codecs.BOM_UTF8
    return parse_npd(str(path), f"\ufeff{text}" if marked else text)


def parse_npd(name: str, text: str) -> NpdFile:
    """What `text` says; `name` is for messages.

    Raises:
        ConfigurationError: it is none that NPD takes; with every fault that was found.
    """
    data = parse(name, text)
    decoder = Decoder(name)
    file: NpdFile = decoder.struct(data, kind_of_file(name, data))
    for path, what, by in file.misfits():
        decoder.judge(path, what, by)
    if decoder.faults:
        raise ConfigurationError(decoder.faults)
    for path, what in file.oddities():
        decoder.note(path, what)
    return msgspec.structs.replace(file, notes=tuple(dict.fromkeys(decoder.notes)))


def kind_of_file(name: str, data: Any) -> type[Any]:  # noqa: ANN401 - whatever the file holds
    """The class of the file `name` that holds `data`.

    Raises:
        ConfigurationError: it is for none of NPD's three kinds of monitors.
    """
    if not isinstance(data, Members):
        raise ConfigurationError([f"{name}: {why_no_map(data)}"])
    found = {folded(key): value for key, value in data.pairs if value is not None}
    plugin = found.get(b"plugin")
    if plugin == "custom":
        return CustomPluginFile
    if isinstance(plugin, str) and plugin in PLUGIN_CONFIG:
        return SystemLogFile
    if plugin is not None:
        known = [*PLUGIN_CONFIG, "custom"]
        near = did_you_mean(plugin, known) if isinstance(plugin, str) else ""
        raise ConfigurationError(
            [f"{name}: plugin: found {shown(plugin)}, expected {', '.join(known)}{near}"]
        )
    if found.keys() & set(map(folded, METRICS)):
        return SystemStatsFile
    raise ConfigurationError([f"{name}: {why_no_monitor(found)}"])


def why_no_map(data: object) -> str:
    """Why a file that holds `data` and no map is none of a monitor."""
    items = data if isinstance(data, list) else ()
    if items and all(isinstance(item, Members) and "moduleName" in item for item in items):
        return "lists kernel modules for osFeature.knownModulesConfigPath of a stats file; expected that file"
    return f"found {shown(data)}, expected a map"


def why_no_monitor(found: dict[bytes, Any]) -> str:
    """Why a file with these keys is none of a monitor."""
    if found.keys() & set(map(folded, STACKDRIVER)):
        return "configures NPD's Stackdriver exporter, which is not here; expected a file of a monitor"
    return f"is no file of NPD: expected the key plugin, or one of {', '.join(METRICS)}"

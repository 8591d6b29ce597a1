"""What a schema can't say: how the parts of a configuration must fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from nodedoctor.config.model import Exporters, MonitorEntry
from nodedoctor.config.schema import Fault, schema_faults, shown
from nodedoctor.config.text import PathOf
from nodedoctor.duration import PATTERN, human, seconds
from nodedoctor.errors import ConfigurationError
from nodedoctor.monitor import Monitor, Options
from nodedoctor.registry import EXPORTERS, MONITORS, exporter_type, monitor_type, names
from nodedoctor.types import AGENT_CONDITIONS
from nodedoctor.words import did_you_mean

BUILT_IN = ("http", "kubernetes", "prometheus")
KUBELETS_OWN = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
PERIODS: tuple[PathOf, ...] = (
    ("settings", "updateInterval"),
    ("exporters", "kubernetes", "updateInterval"),
    ("exporters", "kubernetes", "resyncInterval"),
    ("exporters", "kubernetes", "heartbeatInterval"),
    ("exporters", "kubernetes", "requestTimeout"),
    ("remediation", "circuitBreakerTimeout"),
)
"""Durations that can't be 0. A cooldown can: it is a pause, and there may be none."""

Entries = dict[int, MonitorEntry]
"""The monitors that can be understood, by their place in the list."""


def rule_faults(entries: Entries, exporters: Exporters) -> Iterator[Fault]:
    """Yield everything that does not fit together, in what can be understood of a configuration."""
    taken: set[str] = set()
    owners: dict[str, str] = {}
    for index, entry in entries.items():
        where = ("monitors", index)
        if entry.name in taken:
            yield (*where, "name"), f"there is another monitor {entry.name!r}; names are unique"
        taken.add(entry.name)
        if entry.name == "node-doctor":
            yield (*where, "name"), "this name is the agent's own"
        yield from dependency_faults(entries, index, entry)
        found = understood(entry)
        if found is None:
            continue
        kind, options = found
        yield from time_faults(entry, kind, where)
        yield from condition_faults(entry, kind, options, owners, where)
    yield from cycle_faults(entries)
    yield from exporter_faults(exporters)


def period_faults(data: Any) -> Iterator[Fault]:  # noqa: ANN401 - raw, from the file
    """Yield what would happen without a pause, or never, because it takes no time."""
    remedies = [("monitors", n, "remediation") for n, _ in enumerate(listed(data, "monitors"))]
    repairs = [(*remedy, key) for remedy in remedies for key in ("timeout", "verifyWithin")]
    for path in (*PERIODS, *repairs):
        value = found_at(data, path)
        if isinstance(value, str) and re.match(PATTERN, value) and seconds(value) <= 0:
            yield path, f"found {value!r}, allowed: more than 0"


def listed(data: Any, key: str) -> list[Any]:  # noqa: ANN401 - raw, from the file
    """The list under `key`, or an empty one."""
    value = data.get(key)
    return value if isinstance(value, list) else []


def found_at(data: Any, path: PathOf) -> Any:  # noqa: ANN401 - raw, from the file
    """What stands at `path`, or None."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int):
            data = data[step]
        else:
            return None
    return data


def monitor_faults(entry: Any, where: tuple[str | int, ...]) -> Iterator[Fault]:  # noqa: ANN401 - raw, from the file
    """Yield what is wrong with the type and the options of one monitor as it stands in the file."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        return
    try:
        kind = monitor_type(entry["type"])
    except ConfigurationError as error:
        known = names(MONITORS)
        if entry["type"] in known:
            yield (*where, "type"), str(error)
        else:
            hint = f"`node-doctor monitors` lists all {len(known)}{did_you_mean(entry['type'], known)}"
            yield (*where, "type"), f"unknown monitor type {shown(entry['type'])}; {hint}"
        return
    raw = entry.get("config", {})
    if not isinstance(raw, dict):
        return
    path = (*where, "config")
    faults = list(schema_faults(raw, kind.options_type, path))
    yield from faults
    if not faults:
        options = msgspec.convert(raw, kind.options_type)
        for option, what in options.faults():
            yield (*path, *steps(option)), what


def steps(option: str) -> Iterator[str | int]:
    """`paths[0].path` as a path."""
    for part in re.split(r"\.|(?=\[\d+\])", option):
        yield int(part[1:-1]) if re.fullmatch(r"\[\d+\]", part) else part


def understood(entry: MonitorEntry) -> tuple[type[Monitor[Any]], Options] | None:
    """The class and options of `entry`, or None if they are faulty, which `monitor_faults` tells."""
    if entry.type not in names(MONITORS) or next(monitor_faults(msgspec.to_builtins(entry), ()), None):
        return None
    kind = monitor_type(entry.type)
    return kind, msgspec.convert(entry.config, kind.options_type)


def time_faults(
    entry: MonitorEntry, kind: type[Monitor[Any]], where: tuple[str | int, ...]
) -> Iterator[Fault]:
    """Interval and timeout."""
    interval = seconds(entry.interval) if entry.interval else kind.interval
    if interval <= 0:
        yield (*where, "interval"), f"found {entry.interval!r}, allowed: more than 0"
    if entry.timeout and seconds(entry.timeout) <= 0:
        yield (*where, "timeout"), f"found {entry.timeout!r}, allowed: more than 0"
    elif entry.timeout and seconds(entry.timeout) >= interval:
        yield (*where, "timeout"), f"found {entry.timeout!r}, must be below the interval ({human(interval)})"


def condition_faults(
    entry: MonitorEntry,
    kind: type[Monitor[Any]],
    options: Options,
    owners: dict[str, str],
    where: tuple[str | int, ...],
) -> Iterator[Fault]:
    """Each condition has one writer, and none is somebody else's."""
    for condition in kind.conditions_of(entry.name, options):
        if condition.type in KUBELETS_OWN:
            yield where, f"the condition {condition.type} is the kubelet's; give it another name"
        if condition.type in AGENT_CONDITIONS:
            yield where, f"the condition {condition.type} is the agent's own; give it another name"
        if not entry.enabled:
            continue
        owner = owners.setdefault(condition.type, entry.name)
        if owner != entry.name:
            what = f"{entry.name!r} and {owner!r} both write the condition {condition.type}; one writer each"
            yield where, what


def dependency_faults(entries: Entries, index: int, entry: MonitorEntry) -> Iterator[Fault]:
    """Dependencies exist and run."""
    known = {other.name: other for other in entries.values()}
    for number, name in enumerate(entry.depends_on):
        where = ("monitors", index, "dependsOn", number)
        if name not in known:
            yield where, f"there is no monitor {shown(name)}{did_you_mean(name, known)}"
        elif not known[name].enabled and entry.enabled:
            yield where, f"the monitor {name!r} is disabled, so nothing is known of it"


def cycle_faults(entries: Entries) -> Iterator[Fault]:
    """No monitor depends on itself, at whatever distance."""
    graph = {entry.name: entry.depends_on for entry in entries.values()}
    told: set[str] = set()
    for index, entry in entries.items():
        cycle = cycle_from(entry.name, graph)
        if cycle and not told & set(cycle):
            told |= set(cycle)
            yield ("monitors", index, "dependsOn"), f"goes round in a circle: {' -> '.join(cycle)}"


def cycle_from(start: str, graph: dict[str, tuple[str, ...]]) -> list[str]:
    """The way from `start` back to itself, or nothing."""
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop()
        for name in graph.get(way[-1], ()):
            if name == start:
                return [*way, start]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def exporter_faults(exporters: Exporters) -> Iterator[Fault]:
    """Exporters do not want the same port, and TLS has its files."""
    http, prometheus = exporters.http, exporters.prometheus
    if http.enabled and prometheus.enabled and http.host_port == prometheus.port != 0:
        yield ("exporters", "prometheus", "port"), f"{prometheus.port} is exporters.http.hostPort already"
    if http.tls_enabled and not (http.tls_cert_file and http.tls_key_file):
        yield ("exporters", "http", "tlsEnabled"), "needs tlsCertFile and tlsKeyFile"
    if http.tls_client_ca_file and not http.tls_enabled:
        yield ("exporters", "http", "tlsClientCaFile"), "needs tlsEnabled: true"
    for name, raw in exporters.plugins.items():
        where = ("exporters", "plugins", name)
        if name in BUILT_IN:
            yield where, f"{name} is built in; its options stand in exporters.{name}"
            continue
        try:
            kind = exporter_type(name)
        except ConfigurationError as error:
            yield where, f"{error}{did_you_mean(name, names(EXPORTERS))}"
            continue
        yield from schema_faults(raw, kind.options_type, where)

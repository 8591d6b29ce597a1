"""What the agent runs: the configuration's monitors and exporters, with their classes and typed options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodedoctor.config.model import Config, MonitorEntry, Settings
from nodedoctor.duration import seconds
from nodedoctor.exporter import Exporter
from nodedoctor.host import Host, root_of_host
from nodedoctor.monitor import ConditionType, EventReason, Gauge, Monitor, Options
from nodedoctor.registry import exporter_type, monitor_type

NO_CLUSTER = (
    "there are no credentials: this is no pod, and neither settings.kubeconfig nor $KUBECONFIG names a file"
)
"""Why nothing is written to the Kubernetes API when nobody has asked for it."""


class MonitorSpec(msgspec.Struct, frozen=True):
    """One monitor that runs. `interval` and `timeout` are in seconds."""

    name: str
    kind: type[Monitor[Any]]
    options: Options
    interval: float
    timeout: float
    failure_threshold: int = 3
    success_threshold: int = 1
    depends_on: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[ConditionType, ...]:
        """The conditions that this monitor writes, alone."""
        return self.kind.conditions_of(self.name, self.options)

    @property
    def events(self) -> tuple[EventReason, ...]:
        """The events that this monitor may report."""
        return self.kind.events_of(self.name, self.options)

    @property
    def metrics(self) -> tuple[Gauge, ...]:
        """The metrics that this monitor may export."""
        return self.kind.metrics_of(self.name, self.options)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this monitor's process keeps as root."""
        return self.kind.capabilities_of(self.options)

    @property
    def metrics_reporting(self) -> bool:
        """Whether what it finds counts in Node Problem Detector's metrics; it does unless its options say otherwise."""
        return bool(getattr(self.options, "metrics_reporting", True))

    def build(self, host: Host | None = None) -> Monitor[Any]:
        """The monitor itself, to look at `host`."""
        return self.kind(self.name, self.options, host)


class ExporterSpec(msgspec.Struct, frozen=True):
    """One exporter that runs."""

    name: str
    kind: type[Exporter[Any]]
    options: msgspec.Struct


class Roster(msgspec.Struct, frozen=True):
    """All that runs, and what is configured and not active in this version, by path with the reason."""

    node: str
    config: Config
    monitors: tuple[MonitorSpec, ...]
    exporters: tuple[ExporterSpec, ...]
    inactive: dict[str, str]


def host_of(settings: Settings, state: Path | None = None) -> Host:
    """The machine that monitors look at, with `state` as their folder for what must survive a restart."""
    return Host(state=state, root=root_of_host(settings.host_root), kubeconfig=settings.kubeconfig)


def spec_of(entry: MonitorEntry) -> MonitorSpec:
    """`entry` with its class and typed options.

    Raises:
        ConfigurationError: its type can't be loaded.
        msgspec.ValidationError: its `config` does not fit the type.
    """
    kind = monitor_type(entry.type)
    interval = seconds(entry.interval) if entry.interval else kind.interval
    return MonitorSpec(
        name=entry.name,
        kind=kind,
        options=msgspec.convert(entry.config, kind.options_type),
        interval=interval,
        timeout=seconds(entry.timeout) if entry.timeout else min(kind.timeout, interval * 0.8),
        failure_threshold=entry.failure_threshold,
        success_threshold=entry.success_threshold,
        depends_on=entry.depends_on,
    )


def roster_of(config: Config, node: str, environment: Mapping[str, str] = os.environ) -> Roster:
    """What a valid `config` runs on `node`; disabled monitors and exporters are off."""
    http, prometheus, kubernetes = (
        config.exporters.http,
        config.exporters.prometheus,
        config.exporters.kubernetes,
    )
    writes = kubernetes.active(config.settings, environment)
    builtin = (
        ("kubernetes", kubernetes, writes),
        ("http", http, http.enabled),
        ("prometheus", prometheus, prometheus.enabled),
    )
    exporters = [ExporterSpec(name, exporter_type(name), options) for name, options, on in builtin if on]
    inactive = dict(config.inactive())
    if not writes and kubernetes.enabled is None:
        inactive["exporters.kubernetes"] = NO_CLUSTER
    for name, raw in config.exporters.plugins.items():
        kind = exporter_type(name)
        exporters.append(ExporterSpec(name, kind, msgspec.convert(raw, kind.options_type)))
    return Roster(
        node=node,
        config=config,
        monitors=tuple(spec_of(entry) for entry in config.monitors if entry.enabled),
        exporters=tuple(exporters),
        inactive=inactive,
    )

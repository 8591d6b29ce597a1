"""The broker's state as a snapshot for exporters and late joiners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

import msgspec

from nodedoctor.bus.messages import (
    ExporterState,
    ExporterView,
    Family,
    MonitorView,
    RemediationView,
    Sample,
    Snapshot,
    WorkerState,
    WorkerView,
)
from nodedoctor.types import ConditionStatus, Metric
from supervisor.broker.counters import Labels, family, gauge
from supervisor.broker.state import BrokerState, MonitorData
from workers.resources import Usage


def snapshot_of(state: BrokerState, seq: int, wall: datetime, own: Usage, queued: int) -> Snapshot:
    """`state` as it is after the message with the number `seq`.

    Args:
        state: What to show.
        seq: The number of the broker's newest message.
        wall: Now.
        own: What the broker itself uses of the machine.
        queued: Statuses that waited when the broker last looked.
    """
    workers = tuple(worker_views(state, own))
    return Snapshot(
        node=state.roster.node,
        version=state.version,
        epoch=state.epoch,
        seq=seq,
        timestamp=wall,
        started=state.started,
        supervised=state.supervised,
        conditions=tuple(held.view for held in state.held.values()),
        problems=tuple(state.problems.values()),
        monitors=tuple(monitor_view(state, data) for data in state.monitors.values()),
        workers=workers,
        exporters=tuple(exporter_views(state)),
        remediation=RemediationView(active=False, reason="this version repairs nothing"),
        inactive=state.roster.inactive,
        events=tuple(state.events),
        families=(*state.counters.families(), *families(state, workers, queued)),
        npd_families=tuple(npd_families(state)),
    )


def monitor_view(state: BrokerState, data: MonitorData) -> MonitorView:
    """One monitor."""
    record = state.workers.get(f"monitor {data.spec.name}")
    running = record is not None and record.state in {WorkerState.RUNNING, WorkerState.HUNG}
    return MonitorView(
        name=data.spec.name,
        type=data.spec.kind.kind,
        state=state.monitor_state(data),
        interval=data.spec.interval,
        timeout=data.spec.timeout,
        last_check=data.last_check,
        last_duration=data.last_duration,
        checks=data.checks,
        restarts=sum(record.restarts.values()) if record else 0,
        pid=record.pid if record and running else None,
        conditions=state.kinds[data.spec.name],
        depends_on=data.spec.depends_on,
    )


def worker_views(state: BrokerState, own: Usage) -> Iterator[WorkerView]:
    """Every process of the agent, with what it said of its own memory and CPU."""
    for record in state.workers.values():
        role, _, name = record.name.partition(" ")
        memory, cpu = record.memory, record.cpu
        if role == "monitor" and name in state.monitors:
            memory, cpu = state.monitors[name].memory, state.monitors[name].cpu
        elif role == "exporter" and (report := state.exporters[name].report):
            memory, cpu = report.memory, report.cpu
        elif role == "broker":
            memory, cpu = own.memory, own.cpu
        yield WorkerView(
            name=record.name,
            state=record.state,
            pid=record.pid,
            generation=record.generation,
            since=record.since,
            restarts=record.restarts,
            stuck=record.stuck,
            crash_looping=record.crash_looping,
            last_exit=record.last_exit,
            memory_bytes=memory,
            cpu_seconds=cpu,
        )


def exporter_views(state: BrokerState) -> Iterator[ExporterView]:
    """Every exporter, those that are configured and not active included."""
    for name, data in state.exporters.items():
        report = data.report
        yield ExporterView(
            name,
            report.state if report else ExporterState.STARTING,
            report.message if report else "",
            data.reported,
        )
    for path, reason in state.roster.inactive.items():
        if path.startswith("exporters."):
            yield ExporterView(path.removeprefix("exporters."), ExporterState.INACTIVE, reason, None)


def families(state: BrokerState, workers: tuple[WorkerView, ...], queued: int) -> Iterator[Family]:
    """What is true now, as metrics."""
    yield gauge("build_info", "The running version", [Sample({"version": state.version}, 1)])
    yield gauge("condition", "Conditions of the node: 1 for the status that holds", condition_samples(state))
    yield gauge(
        "status_channel_size", "Statuses that waited when the broker last looked", [Sample({}, queued)]
    )
    yield gauge(
        "worker_up",
        "Whether a worker runs",
        (Sample({"worker": w.name}, float(w.state is WorkerState.RUNNING)) for w in workers),
    )
    restarts: dict[Labels, float] = {
        (w.name, reason): float(n) for w in workers for reason, n in w.restarts.items()
    }
    yield family("worker_restarts_total", "Workers started again, by reason", ("worker", "reason"), restarts)
    yield gauge(
        "worker_stuck",
        "Processes that survived SIGKILL",
        (Sample({"worker": w.name}, float(w.stuck)) for w in workers),
    )
    memory = [(w.name, w.memory_bytes) for w in workers]
    yield gauge(
        "worker_memory_bytes",
        "Proportional set size of a worker",
        (Sample({"worker": name}, size) for name, size in memory if size is not None),
    )
    cpu: dict[Labels, float] = {(w.name,): w.cpu_seconds for w in workers if w.cpu_seconds is not None}
    yield family("worker_cpu_seconds_total", "CPU time of a worker's present process", ("worker",), cpu)
    requests: dict[Labels, float] = {
        (*key.split(" ", 1),): float(count)
        for data in state.exporters.values()
        if data.report
        for key, count in data.report.requests.items()
    }
    yield family("api_requests_total", "Requests to the API server", ("operation", "result"), requests)
    yield from unused(state)
    yield from monitors_own(state)


def unused(state: BrokerState) -> Iterator[Family]:
    """Metrics of parts that are not active: their names are there for dashboards and alerts, without any series.

    The configuration was loaded once, at the start.
    """
    for outcome in ("attempted", "succeeded", "failed"):
        yield family(f"remediations_{outcome}_total", f"Remediations {outcome}", ("strategy", "monitor"), {})
    skipped = ("strategy", "monitor", "reason")
    yield family("remediations_skipped_total", "Remediations that a rule has stopped", skipped, {})
    yield gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open", ())
    reloads: dict[Labels, float] = {("success",): 0.0, ("failure",): 0.0}
    yield family("config_reloads_total", "Reloads of the configuration", ("result",), reloads)
    loaded = state.workers["supervisor"].since if "supervisor" in state.workers else state.started
    when = "When the configuration that runs was loaded"
    yield gauge("config_last_reload_success_timestamp_seconds", when, [Sample({}, loaded.timestamp())])


def condition_samples(state: BrokerState) -> Iterator[Sample]:
    """Three series for each condition, one of them 1."""
    for held in state.held.values():
        for status in ConditionStatus:
            yield Sample({"type": held.kind, "status": status}, float(held.view.status is status))


def monitors_own(state: BrokerState) -> Iterator[Family]:
    """What the monitors measured, by the name of the metric, each series with its monitor."""
    helps = {m.name: m.help for data in state.monitors.values() for m in data.spec.metrics}
    found: dict[tuple[str, bool], list[tuple[str, Metric]]] = defaultdict(list)
    for name, data in state.monitors.items():
        for metric in data.metrics:
            found[metric.name, metric.bare].append((name, metric))
    for (name, bare), metrics in sorted(found.items()):
        samples = tuple(
            Sample(m.labels if bare else {"monitor": monitor, **m.labels}, m.value) for monitor, m in metrics
        )
        yield Family(name, helps.get(name, name), metrics[0][1].kind, samples, bare)


def npd_families(state: BrokerState) -> Iterator[Family]:
    """Node Problem Detector's metrics: how often each reason was found, and by which each condition holds now."""
    counts = state.counters.reported
    help_text = "Number of times a specific type of problem have occurred."
    yield msgspec.structs.replace(family("problem_counter", help_text, ("reason",), counts), bare=True)
    values: dict[Labels, float] = {}
    for kind, reason in state.counters.problems:
        held = state.held[kind]
        if held.monitor not in state.silent:
            holds = held.view.status is ConditionStatus.TRUE and held.view.reason == reason
            values[kind, reason] = float(holds)
    help_text = "Whether a specific type of problem is affecting the node or not."
    gauges = family("problem_gauge", help_text, ("type", "reason"), values, kind="gauge")
    yield msgspec.structs.replace(gauges, bare=True)

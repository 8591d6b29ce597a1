"""What passes over the bus, and the snapshot that a late joiner gets: the broker's whole state at one sequence number."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from nodedoctor.types import ConditionStatus, Event, MonitorState, Problem, Severity, Status


class Envelope(msgspec.Struct, frozen=True):
    """The second frame of every message; the first one is the topic.

    `seq` counts the sender's messages from 1 without gaps; `epoch` names the process that counts, so that a
    smaller number is known to be a new count and not a lost past.
    """

    topic: str
    seq: int
    epoch: int
    timestamp: datetime
    node: str
    data: msgspec.Raw


class WorkerState(StrEnum):
    """What a process of the agent is doing, as its supervisor knows it."""

    STARTING = "starting"
    RUNNING = "running"
    HUNG = "hung"
    WAITING = "waiting"
    PAUSED = "paused"
    STOPPED = "stopped"


class WorkerRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One worker as the supervisor knows it; each record is whole, so that the last one is enough.

    Attributes:
        name: As in the process title: `monitor NAME`, `exporter NAME`, `broker`.
        restarts: How often it was started again, by reason (crash, hang, memory, exit).
        stuck: How many of its earlier processes survived SIGKILL and are still there.
        crash_looping: It keeps dying soon after its start.
        last_exit: How its last process ended, for people; empty while the first one runs.
        memory: Bytes (PSS), and `cpu` seconds, of the supervisor itself; other workers tell their own.
    """

    name: str
    state: WorkerState
    generation: int
    pid: int
    since: datetime
    restarts: dict[str, int] = {}
    stuck: int = 0
    crash_looping: bool = False
    last_exit: str = ""
    memory: int | None = None
    cpu: float | None = None


class ExporterState(StrEnum):
    """Whether an exporter does its work."""

    STARTING = "starting"
    RUNNING = "running"
    UNAVAILABLE = "unavailable"
    INACTIVE = "inactive"


class ExporterReport(msgspec.Struct, frozen=True, rename="camel"):
    """What an exporter says of itself, each `settings.updateInterval` and whenever its state changes.

    `requests` counts what it asked of others, by (operation, result), as "operation result".
    """

    name: str
    generation: int
    state: ExporterState
    message: str = ""
    requests: dict[str, int] = {}
    memory: int | None = None
    cpu: float | None = None


class Heartbeat(msgspec.Struct, frozen=True):
    """The broker's, each second: `last` is the number of its newest message, so that a lost tail shows."""

    last: int


class EventRecord(msgspec.Struct, frozen=True):
    """An event with the monitor that told it."""

    monitor: str
    severity: Severity
    reason: str
    message: str
    timestamp: datetime
    count: int = 1

    @classmethod
    def of(cls, monitor: str, event: Event) -> EventRecord:
        """`event`, as `monitor` told it."""
        return cls(monitor, event.severity, event.reason, event.message, event.timestamp, event.count)


class ConditionView(msgspec.Struct, frozen=True, rename="camel"):
    """A node condition as the broker holds it; also the data of `condition.<Type>`."""

    type: str
    status: ConditionStatus
    reason: str
    message: str
    monitor: str
    severity: Severity
    last_transition_time: datetime
    last_update_time: datetime


class MonitorView(msgspec.Struct, frozen=True, rename="camel"):
    """A monitor as `/monitors` shows it. Durations are in seconds; `restarts` counts all reasons."""

    name: str
    type: str
    state: MonitorState
    interval: float
    timeout: float
    last_check: datetime | None
    last_duration: float | None
    checks: int
    restarts: int
    pid: int | None
    conditions: tuple[str, ...]
    depends_on: tuple[str, ...] = ()


class WorkerView(msgspec.Struct, frozen=True, rename="camel"):
    """A worker as `/status` shows it: the supervisor's record and what the worker says of itself."""

    name: str
    state: WorkerState
    pid: int
    generation: int
    since: datetime
    restarts: dict[str, int]
    stuck: int
    crash_looping: bool
    last_exit: str
    memory_bytes: int | None = None
    cpu_seconds: float | None = None


class ExporterView(msgspec.Struct, frozen=True, rename="camel"):
    """An exporter as `/status` shows it. `last_report` is None until it has told something."""

    name: str
    state: ExporterState
    message: str
    last_report: datetime | None


class RemediationView(msgspec.Struct, frozen=True):
    """Whether repairs are active, and if not, why."""

    active: bool
    reason: str


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One series of a family.

    In a histogram `value` is the number of observations, `buckets` are pairs of finite upper bound and cumulative
    count, and `sum` is the observations' sum.
    """

    labels: dict[str, str]
    value: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()
    sum: float = 0.0


class Family(msgspec.Struct, frozen=True):
    """A metric with all its series; `name` has no prefix, `kind` is gauge, counter or histogram.

    A `bare` one is exported without the prefix, too.
    """

    name: str
    help: str
    kind: str
    samples: tuple[Sample, ...]
    bare: bool = False


class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """The broker's whole state. The stream goes on with the message after `seq`.

    `supervised` is when the supervisor last told the broker anything; `npd_families` are Node Problem Detector's own
    metrics, for those who ask for them.
    """

    node: str
    version: str
    epoch: int
    seq: int
    timestamp: datetime
    started: datetime
    supervised: datetime
    conditions: tuple[ConditionView, ...]
    problems: tuple[Problem, ...]
    monitors: tuple[MonitorView, ...]
    workers: tuple[WorkerView, ...]
    exporters: tuple[ExporterView, ...]
    remediation: RemediationView
    inactive: dict[str, str]
    events: tuple[EventRecord, ...]
    families: tuple[Family, ...]
    npd_families: tuple[Family, ...] = ()


encoder = msgspec.json.Encoder()
envelope_decoder = msgspec.json.Decoder(Envelope)
status_decoder = msgspec.json.Decoder(Status)
snapshot_decoder = msgspec.json.Decoder(Snapshot)

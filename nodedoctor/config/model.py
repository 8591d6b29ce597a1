"""The configuration as typed, immutable objects; the classes are also its JSON Schema and its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nodedoctor.duration import Duration

ConditionName = Annotated[str, Meta(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$(?!\n)")]
Name = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$(?!\n)", description="a DNS label: a-z, 0-9 and -"),
]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1000)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every part of the configuration: unknown keys are faults, names are camelCase."""


class WorkerMemory(Section, frozen=True):
    """How much a worker may grow beyond what it started with, in MiB. 0 takes a share of the container's limit."""

    soft_mebibytes: Annotated[int, Meta(ge=0)] = 0
    """Beyond it a worker is replaced between two checks; 0: half of the hard bound."""
    hard_mebibytes: Annotated[int, Meta(ge=0)] = 0
    """At it allocations fail; 0: 256, or the worker's share of three quarters of the container's limit."""


class Settings(Section, frozen=True):
    """What concerns the whole agent."""

    node_name: str = ""
    """The node's name in everything that is published; empty: $NODE_NAME, else the host's name."""
    host_root: Annotated[str, Meta(pattern=r"^(/|$)")] = ""
    """In a container, where the node's root is mounted; empty: /host if it is there, else /."""
    kubeconfig: str = ""
    """How to reach the API server; empty: with the pod's service account, else by $KUBECONFIG."""
    update_interval: Duration = "10s"
    """How often each process reports on itself: memory, CPU, an exporter's state."""
    enable_remediation: bool = True
    """Not active in this version."""
    dry_run_mode: bool = False
    """Not active in this version."""
    worker_memory: WorkerMemory = WorkerMemory()


class MonitorRemediation(Section, frozen=True):
    """How a monitor's problem is to be repaired."""

    enabled: bool = False
    strategy: str = ""
    strategies: tuple[dict[str, Any], ...] = ()
    service: str = ""
    script_path: str = ""
    args: tuple[str, ...] = ()
    allowed_folders: tuple[str, ...] = ()
    interface: str = ""
    timeout: Duration | None = None
    verify_within: Duration | None = None
    cooldown: Duration | None = None
    max_attempts: Count | None = None


class MonitorEntry(Section, frozen=True):
    """One monitor. `interval` and `timeout` default to those of its type."""

    name: Name
    type: str
    """One of the types below, or of another package."""
    enabled: bool = True
    """A disabled monitor is off."""
    interval: Duration | None = None
    """From one check to the next; by default the type's."""
    timeout: Duration | None = None
    """After it the check's process is killed; below the interval. By default the type's."""
    failure_threshold: Count = 3
    """Checks in a row that must find the problem before its condition becomes True."""
    success_threshold: Count = 1
    """Checks in a row that must find it gone before its condition becomes False again."""
    config: dict[str, Any] = {}
    """The type's own options."""
    depends_on: tuple[str, ...] = ()
    """Monitors without which this one can't tell: while one of them has a problem, this one is Unknown."""
    remediation: MonitorRemediation | None = None


class KubernetesExporter(Section, frozen=True):
    """Node conditions, events and annotations."""

    enabled: bool | None = None
    """Left out: on where there are credentials: in a pod, or with settings.kubeconfig or $KUBECONFIG."""
    update_interval: Duration = "10s"
    """How long a change of a reason or a message may wait for others; a change of a status never does."""
    resync_interval: Duration = "60s"
    """After this time the next patch carries everything, not only what has changed: it repairs what others did."""
    heartbeat_interval: Duration = "5m"
    """How often everything is written anew although nothing has changed; a tenth less to a fifth more, at random."""
    request_timeout: Duration = "10s"
    """For one request, from resolving the name to the last byte of the answer."""
    on_stop: Literal["leave", "unknown"] = "leave"
    """What becomes of the node's conditions when the agent is stopped: they stay, or turn Unknown (AgentStopped)."""
    proxy_url: str = ""
    """The proxy on the way to the API server; empty: the kubeconfig's. $HTTPS_PROXY alone is not followed."""

    def active(self, settings: Settings, environment: Mapping[str, str]) -> bool:
        """Whether it runs."""
        if self.enabled is not None:
            return self.enabled
        named = ("KUBERNETES_SERVICE_HOST", "KUBECONFIG")
        return bool(settings.kubeconfig or any(environment.get(name) for name in named))


class HttpEndpoint(Section, frozen=True):
    """A further path at which one of the API's answers is served."""

    path: Annotated[str, Meta(pattern="^/")]
    handler: Literal[
        "overall-health",
        "readiness",
        "liveness",
        "prometheus-metrics",
        "detailed-status",
        "remediation-history",
    ]


class HttpExporter(Section, frozen=True):
    """The health API, on a TCP port and on `health.sock` in the run folder."""

    enabled: bool = True
    host_port: Port = 8080
    """TCP port; 0 serves the socket alone."""
    bind_address: str = "0.0.0.0"  # noqa: S104 - probes and dashboards come from other machines
    tls_enabled: bool = False
    """TLS on the port; health.sock has none."""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    """Clients must show a certificate of this authority for everything but /livez and /ready."""
    bearer_token_file: str = ""
    """Clients must send the token in this file for everything but /livez and /ready; read at each request."""
    endpoints: tuple[HttpEndpoint, ...] = ()


class PrometheusExporter(Section, frozen=True):
    """The metrics endpoint."""

    enabled: bool = True
    port: Port = 9100
    bind_address: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from another machine
    namespace: Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$(?!\n)")] = "node_doctor"
    npd_compatible: bool = False
    """Also export problem_counter and problem_gauge as Node Problem Detector names them."""


class Exporters(Section, frozen=True):
    """Where the state is shown."""

    kubernetes: KubernetesExporter = KubernetesExporter()
    http: HttpExporter = HttpExporter()
    prometheus: PrometheusExporter = PrometheusExporter()
    plugins: dict[str, dict[str, Any]] = {}
    """Exporters that other packages bring (entry-point group node_doctor.exporters): their options by name."""


class Remediation(Section, frozen=True):
    """Bounds of all repairs together."""

    enabled: bool = True
    dry_run: bool = False
    max_retries_per_hour: Annotated[int, Meta(ge=0)] = 10
    cooldown_period: Duration = "5m"
    circuit_breaker_threshold: Count = 5
    circuit_breaker_timeout: Duration = "30m"


class Metadata(Section, frozen=True):
    """What the configuration is called; for people."""

    name: str = ""


class Config(Section, frozen=True):
    """The whole configuration, after its layers were put together."""

    api_version: Literal["node-doctor.io/v1alpha1"]
    kind: Literal["NodeDoctorConfig"]
    metadata: Metadata = Metadata()
    settings: Settings = Settings()
    monitors: tuple[MonitorEntry, ...] = ()
    exporters: Exporters = Exporters()
    remediation: Remediation = Remediation()

    def inactive(self) -> Iterator[tuple[str, str]]:
        """Yield what is configured and not active in this version, as (path, why)."""
        for index, entry in enumerate(self.monitors):
            if entry.remediation and entry.remediation.enabled:
                yield (
                    f"monitors[{index}].remediation",
                    "this version repairs nothing: the problem is reported only",
                )

"""One exporter in a process of its own, with the broker's state coming from files that a test may change.

Run as a program it is that process: its argument is the folder.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import signal
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec
import psutil
from setproctitle import setproctitle
from tests_support import eventually, free_port

from nodedoctor.bus.messages import (
    ConditionView,
    EventRecord,
    ExporterState,
    ExporterView,
    Family,
    MonitorView,
    RemediationView,
    Sample,
    Snapshot,
    WorkerState,
    WorkerView,
    encoder,
    snapshot_decoder,
)
from nodedoctor.cli.ask import UnixConnection
from nodedoctor.config.model import Config
from nodedoctor.exporter import Context
from nodedoctor.registry import exporter_type
from nodedoctor.types import ConditionStatus, MonitorState, Problem, Severity

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = "<script>alert('x')</script>"
Answer = tuple[int, http.client.HTTPMessage, bytes]


class FileAgent:
    """`nodedoctor.exporter.Agent` out of files: snapshot.json, age and delay in seconds; reports go to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def number(self, name: str) -> float:
        """The number in a file, 0 without it."""
        file = self.folder / name
        return float(file.read_text()) if file.exists() else 0.0

    def snapshot(self) -> Snapshot | None:
        time.sleep(self.number("delay"))
        file = self.folder / "snapshot.json"
        return snapshot_decoder.decode(file.read_bytes()) if file.exists() else None

    def age(self) -> float:
        return self.number("age") if (self.folder / "snapshot.json").exists() else math.inf

    def report(
        self,
        state: ExporterState,
        message: str = "",
        requests: dict[str, int] | None = None,  # noqa: ARG002 - neither of the two asks others for anything
    ) -> None:
        with (self.folder / "reports").open("a") as file:
            file.write(f"{state} {message}\n")


class Process:
    """An exporter that runs. `options` are those of its section of the configuration, as in YAML."""

    def __init__(self, folder: Path, name: str, snapshot: Snapshot | None, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = options.setdefault("hostPort" if name == "http" else "port", free_port())
        exporters = {name: {"bindAddress": "127.0.0.1", **options}}
        if name == "http":
            exporters["prometheus"] = {"npdCompatible": True}
        config = {"apiVersion": "node-doctor.io/v1alpha1", "kind": "NodeDoctorConfig", "exporters": exporters}
        (folder / "config.json").write_text(json.dumps({"name": name, "config": config}))
        (folder / "reports").touch()
        self.show(snapshot)
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(folder), "PYTHONPATH": str(Path(__file__).parent)},
            )
        self.tree: dict[int, psutil.Process] = {}

    def show(self, snapshot: Snapshot | None) -> None:
        """Have the broker's state be this one from now on."""
        if snapshot is not None:
            self.put("snapshot.json", encoder.encode(snapshot).decode())

    def put(self, name: str, text: str) -> None:
        """Write one of the files, at once for those who read it."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.rename(self.folder / name)

    def reports(self) -> list[str]:
        """What it has told the broker of itself."""
        return (self.folder / "reports").read_text().splitlines()

    def reported(self, state: ExporterState) -> str:
        """Wait until the newest report has this state, and give it."""

        def newest() -> str | None:
            reports = self.reports()
            return reports[-1] if reports and reports[-1].startswith(state) else None

        text: str = eventually(f"{state} is reported: {self.log.read_text()}", newest)
        self.processes()
        return text

    def tcp(
        self, path: str, method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str
    ) -> Answer:
        """The answer over the port."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=tls)
            if tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        )
        return ask(connection, path, method, headers)

    def local(self, path: str, method: str = "GET", patience: float = 5.0) -> Answer:
        """The answer over the unix socket."""
        return ask(UnixConnection(self.folder / "health.sock", patience), path, method, {})

    def json(self, path: str) -> Any:
        """The body of an answer over the unix socket."""
        return json.loads(self.local(path)[2])

    def processes(self) -> list[psutil.Process]:
        """The process and those below it; each is remembered for `left_behind`."""
        root = psutil.Process(self.process.pid)
        found = [root, *root.children(recursive=True)]
        self.tree |= {process.pid: process for process in found}
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal, and give the seconds until it and all below it were gone."""
        if self.process.poll() is None:
            self.processes()
            self.process.send_signal(number)
        began = time.monotonic()
        self.process.wait(15)
        eventually("nothing is left", lambda: not any(map(runs, self.tree.values())), patience=5)
        return time.monotonic() - began


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; one whose new parent has not asked for it yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask(connection: http.client.HTTPConnection, path: str, method: str, headers: dict[str, str]) -> Answer:
    """Status, headers and body of one request."""
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def condition(kind: str, status: str, severity: Severity = Severity.INFO, message: str = "") -> ConditionView:
    """A condition of the monitor disk."""
    return ConditionView(kind, ConditionStatus(status), "Because", message, "disk", severity, WHEN, WHEN)


def monitor(name: str, last_check: datetime | None = WHEN) -> MonitorView:
    """A monitor."""
    return MonitorView(name, "noop", MonitorState.OK, 1.0, 0.8, last_check, 0.01, 3, 0, 42, ("DiskSpaceLow",))


def exporter(name: str, state: ExporterState, message: str = "") -> ExporterView:
    """An exporter."""
    return ExporterView(name, state, message, WHEN)


HEALTHY = Snapshot(
    node="n1",
    version="0.1",
    epoch=1,
    seq=7,
    timestamp=WHEN,
    started=WHEN,
    supervised=WHEN,
    conditions=(condition("DiskSpaceLow", "False"), condition("DiskUnknown", "Unknown")),
    problems=(),
    monitors=(monitor("disk"), monitor("idle")),
    workers=(WorkerView("monitor disk", WorkerState.RUNNING, 42, 1, WHEN, {"crash": 1}, 0, False, ""),),
    exporters=(
        exporter("http", ExporterState.RUNNING),
        exporter("kubernetes", ExporterState.INACTIVE, "not in this version"),
    ),
    remediation=RemediationView(active=False, reason="not in this version"),
    inactive={"exporters.kubernetes": "not in this version"},
    events=tuple(EventRecord("disk", Severity.WARNING, f"Event{n}", "", WHEN) for n in range(150)),
    families=(
        Family("build_info", "The running version", "gauge", (Sample({"version": "0.1"}, 1.0),)),
        Family(
            "monitor_checks_total", "Checks", "counter", (Sample({"monitor": "disk", "result": "ok"}, 3.0),)
        ),
        Family(
            "monitor_duration_seconds",
            "How long the checks took",
            "histogram",
            (Sample({"monitor": "disk"}, 3.0, ((0.1, 2), (1.0, 3)), 0.5),),
        ),
        Family(
            "problems_detected_total",
            "Conditions that became True",
            "counter",
            (Sample({"type": "DiskSpaceLow", "reason": "Because"}, 2.0),),
        ),
        Family("broken name", "Somebody's mistake", "gauge", (Sample({}, 1.0),)),
    ),
    npd_families=(
        Family("problem_counter", "Problems", "counter", (Sample({"reason": "Because"}, 2.0),), bare=True),
        Family(
            "problem_gauge",
            "Problems",
            "gauge",
            (Sample({"reason": "Because", "type": "DiskSpaceLow"}, 0.0),),
            bare=True,
        ),
    ),
)
SICK = msgspec.structs.replace(
    HEALTHY,
    conditions=(condition("DiskSpaceLow", "True", Severity.ERROR, EVIL),),
    problems=(Problem("DiskSpaceLow", "Because", EVIL, Severity.ERROR, "disk", WHEN, WHEN, 4),),
)


def end(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM as an exporter's process has it."""
    sys.exit(0)


def main(folder: Path) -> None:
    """Be the exporter."""
    setup = json.loads((folder / "config.json").read_text())
    name = setup["name"]
    signal.signal(signal.SIGTERM, end)
    setproctitle(f"node-doctor: exporter {name}")
    logging.basicConfig(level=logging.INFO)
    config = msgspec.convert(setup["config"], Config)
    context = Context(folder, config, lambda: FileAgent(folder))
    exporter_type(name)(getattr(config.exporters, name), context).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A real agent in a folder of its own, and how to ask it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import zmq

from nodedoctor.cli.ask import UnixConnection

PATIENCE = 30.0


def free_port() -> int:
    """A TCP port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(what: str, true: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `true` gives, once it is true; fails after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.02)


class Agent:
    """A supervisor in a subprocess, with all its workers."""

    def __init__(
        self, folder: Path, monitors: str, settings: dict[str, str], words: Sequence[str] = ()
    ) -> None:
        """Start it in `folder`; `words` are further arguments."""
        folder.mkdir(mode=0o755)
        self.run_dir, self.state_dir = folder / "run", folder / "state"
        self.http_port, self.metrics_port = free_port(), free_port()
        self.config = folder / "config.yaml"
        self.config.write_text(
            "apiVersion: node-doctor.io/v1alpha1\nkind: NodeDoctorConfig\n"
            "settings: {nodeName: test-node, updateInterval: 1s}\n"
            f"exporters:\n  http: {{hostPort: {self.http_port}, bindAddress: 127.0.0.1}}\n"
            f"  prometheus: {{port: {self.metrics_port}, bindAddress: 127.0.0.1}}\n"
            f"monitors: {monitors}\n"
        )
        self.log = folder / "log"
        flags = [
            word
            for path, value in settings.items()
            for word in ("--set", f"{path.replace('__', '.')}={value}")
        ]
        folders = ["--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "nodedoctor",
                    "run",
                    "--config",
                    str(self.config),
                    *flags,
                    *folders,
                    *words,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**outside_a_cluster(), "PYTHONPATH": str(Path(__file__).parent / "plugins")},
            )
        self.tree: dict[int, psutil.Process] = {}

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body of a GET over the unix socket; (0, {}) while nobody answers."""
        connection = UnixConnection(self.run_dir / "health.sock", 5.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()

    def ready(self) -> Agent:
        """Wait until every monitor has reported and every exporter runs."""
        eventually(f"the agent is ready: {self.text()}", lambda: self.get("/ready")[0] == 200)
        self.processes()
        return self

    def status(self) -> dict[str, Any]:
        """The answer of /status; waits for one."""
        code, body = eventually("an answer of /status", lambda: (a := self.get("/status"))[0] == 200 and a)
        assert code == 200
        found: dict[str, Any] = body
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        """The condition `kind`."""
        return next((c for c in self.status()["conditions"] if c["type"] == kind), {})

    def becomes(self, kind: str, status: str, reason: str = "") -> dict[str, Any]:
        """Wait until the condition `kind` has this status, and this reason if one is given."""

        def found() -> dict[str, Any] | None:
            condition = self.condition(kind)
            fits = condition.get("status") == status and reason in {"", condition["reason"]}
            return condition if fits else None

        condition: dict[str, Any] = eventually(f"{kind} is {status} {reason}", found)
        return condition

    def monitor(self, name: str) -> dict[str, Any]:
        """The monitor `name`."""
        return next(m for m in self.status()["monitors"] if m["name"] == name)

    def worker(self, name: str) -> dict[str, Any]:
        """The worker `name`, such as `monitor disk`."""
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def metrics(self) -> dict[str, float]:
        """The series of /metrics by name and labels, as they are written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=5)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {
            line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in lines
            if not line.startswith("#")
        }

    def metric(self, series: str) -> float:
        """The value of one series without its prefix, 0 if there is none."""
        return self.metrics().get(f"node_doctor_{series}", 0.0)

    def tap(self, *topics: str) -> zmq.Socket[bytes]:
        """A socket that hears `topics`."""
        tap = zmq.Context.instance().socket(zmq.SUB)
        tap.set(zmq.LINGER, 0)
        for topic in topics:
            tap.subscribe(topic)
        tap.connect(f"ipc://{self.run_dir}/bus.sock")
        return tap

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it; each is remembered for `left_behind`."""
        try:
            root = psutil.Process(self.process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.tree |= {process.pid: process for process in found}
        return found

    def text(self) -> str:
        """What the agent has logged."""
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        """Stop it as systemd would, and give its exit code."""
        if self.process.poll() is None:
            self.processes()
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def left_behind(self) -> list[str]:
        """Processes of this agent that are still there; waits a moment for those that are just ending."""
        gone, alive = psutil.wait_procs(
            [p for p in self.tree.values() if p.pid != self.process.pid], timeout=3
        )
        del gone
        return [f"{p.pid} {p.name()} {p.cmdline()}" for p in alive if p.is_running()]


def outside_a_cluster() -> dict[str, str]:
    """This process's environment without what leads to the API of a cluster that the tests may run in."""
    return {k: v for k, v in os.environ.items() if k not in {"KUBECONFIG", "KUBERNETES_SERVICE_HOST"}}


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process of an agent."""
    os.kill(pid, number)

"""A real containerd of a test's own, on its own paths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from network_support import give_up
from tests_support import eventually

CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{folder}/cni"
"""
LOOPBACK = '{"cniVersion": "0.4.0", "name": "t", "plugins": [{"type": "loopback"}]}'


class Containerd:
    """The daemon, whose socket is where a node's is below `folder`."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("containerd"):
            give_up(FileNotFoundError("containerd is not installed"))
        self.folder = folder
        for name in ("run/containerd", "cni"):
            (folder / name).mkdir(parents=True)
        (folder / "config.toml").write_text(CONFIG.format(folder=folder))
        self.start()

    def start(self) -> None:
        """Run it until it answers."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["containerd", "-c", str(self.folder / "config.toml")], stdout=log, stderr=log
            )
        eventually("containerd answers", self.answers)

    def answers(self) -> bool:
        """Whether its own client gets an answer."""
        words = ["ctr", "-a", str(self.folder / "run/containerd/containerd.sock"), "version"]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def end(self) -> None:
        """End it, whatever state it is in."""
        self.process.kill()
        self.process.wait()

    @contextmanager
    def network(self) -> Iterator[None]:
        """There is a network configuration."""
        path = self.folder / "cni/10-t.conflist"
        path.write_text(LOOPBACK)
        try:
            yield
        finally:
            path.unlink()


@contextmanager
def containerd(folder: Path) -> Iterator[Containerd]:
    """One that is ended afterwards."""
    daemon = Containerd(folder)
    try:
        yield daemon
    finally:
        daemon.end()

"""A systemd of a test's own: booted in a container (systemd-nspawn) on a copy-on-write view of this machine's root.

Nothing of it is written anywhere but to memory, and its network is its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from network_support import give_up

from nodedoctor.host import Host

CGROUPS = Path("/sys/fs/cgroup")
WANTED = (".service", ".timer", ".socket", ".path")


class Box:
    """One such systemd, seen as the machine `host`."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self.leader = leader
        self.host = Host(root=Path(f"/proc/{leader}/root"))

    def run(self, *command: str, check: bool = True) -> str:
        """Run `command` in the box; what it prints."""
        inside = ("nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "--", *command)
        return subprocess.run(inside, check=check, capture_output=True, text=True, timeout=30).stdout.strip()

    def write(self, unit: str, text: str) -> None:
        """Write the unit file `unit` of sections and settings, and let systemd read it."""
        (self.host.root / "etc/systemd/system" / unit).write_text(text)
        self.run("systemctl", "daemon-reload")

    def remove(self, unit: str) -> None:
        """Stop `unit` and take its file away."""
        self.run("systemctl", "disable", "--now", unit, check=False)
        (self.host.root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed", unit, check=False)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The box's systemd does not run meanwhile. It is a child of this test, not the machine's."""
        assert self.leader > 1
        os.kill(self.leader, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.leader, signal.SIGCONT)


@contextmanager
def booted(folder: Path) -> Iterator[Box]:
    """A systemd that is up; `folder` is empty."""
    try:
        with ExitStack() as stack:
            root = overlay(folder, stack)
            quiet(root)
            nspawn = spawn(root, f"nd{os.getpid()}", stack)
            yield wait_for(root, nspawn, time.monotonic() + 30)
    except (OSError, subprocess.CalledProcessError) as error:
        give_up(error)


def overlay(folder: Path, stack: ExitStack) -> Path:
    """This machine's root with all that is written to it in memory."""
    mount(stack, folder, "-t", "tmpfs", "-o", "size=1g,mode=755", "nd")
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    mount(stack, folder / "root", "-t", "overlay", "-o", layers, "overlay")
    return folder / "root"


def mount(stack: ExitStack, point: Path, *arguments: str) -> None:
    """Mount something at `point` until the end."""
    subprocess.run(["mount", *arguments, point], check=True, capture_output=True)
    stack.callback(subprocess.run, ["umount", "--lazy", point], check=True)


def quiet(root: Path) -> None:
    """What this machine starts at boot is not started there."""
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    for name in {path.name for path in units.glob("*.wants/*") if path.suffix in WANTED}:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")


def spawn(root: Path, name: str, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start the container `name`."""
    trees = [CGROUPS / tree for tree in ("systemd", "unified") if (CGROUPS / tree).is_dir()] or [CGROUPS]
    groups = [tree / name for tree in trees]
    for group in groups:
        group.mkdir()
        stack.callback(remove_groups, group)
    words = ["systemd-nspawn", "-q", "-D", str(root), "-M", name, "--register=no", "--keep-unit"]
    enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
    script = enter + 'exec "$@"'
    command = ["sh", "-ec", script, "sh", *words, "--private-network", "--console=pipe", "-b"]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Let the container shut down, for a while."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remove_groups(top: Path) -> None:
    """Remove the cgroup `top` and all below it, once their processes are gone."""
    until = time.monotonic() + 5
    while top.exists():
        for folder in sorted(top.rglob("*/"), reverse=True):
            remove(folder)
        remove(top)
        assert time.monotonic() < until, f"{top} is in use"
        time.sleep(0.02)


def remove(folder: Path) -> None:
    """Remove one cgroup, unless it is in use still."""
    try:
        folder.rmdir()
    except OSError:
        return


def wait_for(root: Path, nspawn: subprocess.Popen[bytes], until: float) -> Box:
    """The box that `nspawn` holds, as soon as it is up."""
    state = ""
    while time.monotonic() < until and nspawn.poll() is None:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        leader = next((int(pid) for pid in children if comm(pid) == "systemd"), 0)
        if leader:
            box = Box(root, leader)
            state = box.run("systemctl", "is-system-running", check=False)
            if state in {"running", "degraded"}:
                return box
        time.sleep(0.05)
    raise OSError(f"systemd does not boot in a container: {state or nspawn.poll()}")


def comm(pid: str) -> str:
    """The name of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

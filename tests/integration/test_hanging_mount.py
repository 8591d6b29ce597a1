"""A mount whose server does not answer: looking at it hangs in the kernel, and SIGKILL does not end that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_support import Agent, eventually

SERVER = """
import ctypes, os, struct, sys
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hanging", sys.argv[1].encode(), b"fuse.hanging", 6, options):
    raise OSError(ctypes.get_errno(), "mount")
print("mounted", flush=True)
while True:
    opcode, unique = struct.unpack_from("4xIQ", os.read(fuse, 1 << 17))
    if opcode == 26:  # FUSE_INIT is answered, so that the mount is usable; nothing else ever is
        body = struct.pack("IIIIHHI36x", 7, 31, 0, 0, 0, 0, 4096)
        os.write(fuse, struct.pack("IiQ", 16 + len(body), 0, unique) + body)
"""


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Mounts at `hanging` a file system in user space that takes requests and answers none; fuse(4)."""
    point = tmp_path / "hanging"
    point.mkdir()
    servers: list[subprocess.Popen[str]] = []

    def mount() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SERVER, str(point)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout
        if server.stdout.readline() != "mounted\n":
            assert os.environ.get("CI") != "true"
            pytest.skip("no FUSE mount here")
        return server

    yield mount
    for server in servers:
        server.kill()
        server.communicate()
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def test_a_monitor_that_hangs_in_a_mount_is_replaced_and_well_once_the_server_is_gone(
    agent: Callable[..., Agent], hang: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    config = f"{{paths: [{{path: {tmp_path}/hanging}}]}}"
    one = agent(
        f"[{{name: d, type: disk-health-check, interval: 1s, timeout: 500ms, config: {config}}},"
        " {name: o, type: noop, interval: 200ms, timeout: 100ms}]"
    ).ready()
    pid = one.monitor("d")["pid"]
    server = hang()
    eventually("it is stuck", lambda: one.worker("monitor d")["stuck"] > 0)
    assert one.metric('worker_stuck{worker="monitor d"}') > 0
    one.becomes("MonitorHung", "True")
    eventually("it was replaced", lambda: one.monitor("d")["pid"] not in {None, pid})
    before = one.monitor("o")["checks"]
    eventually("the other goes on", lambda: one.monitor("o")["checks"] > before)
    server.kill()
    eventually("nobody is stuck", lambda: one.worker("monitor d")["stuck"] == 0)
    one.becomes("MonitorHung", "False")
    eventually("it checks again", lambda: one.monitor("d")["state"] == "ok")

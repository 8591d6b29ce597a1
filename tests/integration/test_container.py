"""The agent in a container: a root of its own, and the node's at /host, as a DaemonSet mounts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from api_support import certificate
from network_support import give_up

import nodedoctor

NODE_RESOLVER, OWN_RESOLVER = "127.0.0.153", "127.0.0.154"
MOUNTED = "everything is mounted"
SCRIPT = """
set -eu
work=$1 root=$1/root python=$2; shift 2
ip link set lo up
mount -t overlay -o "lowerdir=$work/etc:/etc" node /etc
mount -t tmpfs container "$root"
cd "$root"
mkdir -p host proc sys dev run tmp etc
echo "nameserver $OWN" > etc/resolv.conf
for link in bin sbin lib lib64; do ln -s "usr/$link" "$link"; done
for path in "$@"; do mkdir -p ".$path"; mount --rbind "$path" ".$path"; done
mount -t proc proc proc
mount -t sysfs sys sys
mount --rbind /dev dev
mount --rbind / host
$CLOSE
echo "$MOUNTED" >&2
exec chroot . "$python" -m nodedoctor check --all -o json
"""
CLOSED = {
    "as Kubernetes mounts it": "mount -o remount,bind,ro host",
    "with all that is mounted in it": "$python -c "
    '\'import ctypes, struct; attributes = struct.pack("4Q", 1, 0, 0, 0); '
    'exit(ctypes.CDLL(None).syscall(442, -100, b"host", 0x8000, attributes, 32))\'',
}
"""The latter by mount_setattr(2): MOUNT_ATTR_RDONLY and AT_RECURSIVE."""


def topmost(paths: Iterable[Path]) -> list[str]:
    """`paths` without those that lie below another."""
    known = {path.resolve() for path in paths}
    return sorted(str(path) for path in known if not known & set(path.parents))


@pytest.fixture(params=CLOSED)
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What `node-doctor check --all` says there, by type of monitor."""
    pki = tmp_path / "etc/kubernetes/pki"
    pki.mkdir(parents=True)
    (tmp_path / "root").mkdir()
    certificate(pki)[0].rename(pki / "apiserver.crt")
    (tmp_path / "etc/resolv.conf").write_text(f"nameserver {NODE_RESOLVER}\n")
    package = Path(nodedoctor.__file__).parent.parent
    needed = topmost([Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), package])
    script = SCRIPT.replace("$CLOSE", CLOSED[request.param])
    words = ["unshare", "--mount", "--net", "sh", "-c", script, "sh", str(tmp_path), sys.executable, *needed]
    environment = {
        "PATH": os.environ["PATH"],
        "OWN": OWN_RESOLVER,
        "MOUNTED": MOUNTED,
        "PYTHONPATH": str(package),
    }
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)
    if MOUNTED not in done.stderr:
        give_up(RuntimeError(done.stderr))
    return {row["type"]: row for row in json.loads(done.stdout)}


def test_the_node_is_seen_below_its_root_and_the_container_is_not_taken_for_it(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert not {kind for kind, row in rows.items() if row["state"] in {"crash", "timeout", "hung"}}

    disk = rows["disk-health-check"]
    assert "/host" not in json.dumps(disk)
    (writable,) = [c for c in disk["conditions"] if c["reason"] == "FilesystemsWritable"]
    assert writable["status"] == "False"
    values = {(m["name"], m["labels"].get("path")): m["value"] for m in disk["metrics"]}
    assert {value for (name, _), value in values.items() if name == "disk_read_only"} == {0}
    node = os.statvfs("/")
    assert values["disk_size_bytes", "/"] == node.f_blocks * node.f_frsize

    resolver = json.dumps(rows["dns-health-check"])
    assert NODE_RESOLVER in resolver
    assert OWN_RESOLVER not in resolver

    (expiry,) = rows["certificate-health-check"]["metrics"]
    assert expiry["labels"] == {"path": "/etc/kubernetes/pki/apiserver.crt", "subject": "server"}

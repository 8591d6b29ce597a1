"""A real journald of the test's own: in a mount namespace where /run is empty, writing to a folder of the test."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests_support import eventually

JOURNALD = "/usr/lib/systemd/systemd-journald"
# It neither reads nor writes the machine's kernel log, and leaves the kernel's auditing as it is.
SET_UP = """
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journald.conf.d /run/log /run/systemd/journal
mount --bind "$1" /run/log
mount --bind /dev/null /dev/kmsg
cat > /run/systemd/journald.conf.d/test.conf <<END
[Journal]
Storage=volatile
RateLimitBurst=0
ReadKMsg=no
Audit=
RuntimeMaxUse=200M
LineMax=4M
END
if [ "$3" ]; then
    echo "$3" > /run/boot_id
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
fi
exec "$2"
"""
LARGEST_DATAGRAM = 100_000


class Journal:
    """The journal, and how to write to it by journald's native protocol; https://systemd.io/JOURNAL_NATIVE_PROTOCOL."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.root = folder
        self.folder = folder / "journal"
        self.pid = pid
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def connect(self) -> bool:
        """Whether journald takes entries."""
        try:
            self.socket.connect(f"/proc/{self.pid}/root/run/systemd/journal/socket")
        except OSError:
            return False
        return True

    def write(self, message: str | bytes | None, **fields: str) -> None:
        """One entry."""
        data = b"".join(f"{name}={value}\n".encode() for name, value in fields.items())
        if message is not None:
            raw = message.encode() if isinstance(message, str) else message
            data += b"MESSAGE\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        if len(data) < LARGEST_DATAGRAM:
            self.socket.send(data)
            return
        memory = os.memfd_create("entry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.write(memory, data)
        socket.send_fds(self.socket, [b""], [memory])
        os.close(memory)

    def write_lines(self, lines: Iterable[str]) -> None:
        """Entries with these messages."""
        for line in lines:
            self.write(line, PRIORITY="6", SYSLOG_IDENTIFIER="test")

    def tell(self, *options: str) -> None:
        """Let journalctl do something with it, such as --rotate."""
        subprocess.run(self.within("journalctl", *options), check=True, capture_output=True)

    def within(self, *words: str) -> list[str]:
        """How to run a command where this journal is the system's own."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *words]


@contextmanager
def private_journal(folder: Path | None = None, boot: str = "") -> Iterator[Journal]:
    """A running journald and its journal; skips where there is none to be had, but in CI.

    Args:
        folder: Where its folder `journal` is; None: in a temporary folder.
        boot: The boot that it takes this one for; by default that which it is.
    """
    if (os.geteuid() or not Path(JOURNALD).exists()) and os.environ.get("CI") != "true":
        pytest.skip("a journald of one's own takes root and systemd")
    root = folder or Path(tempfile.mkdtemp(prefix="nd-journal-"))
    begin = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
    process = subprocess.Popen([*begin, "sh", "-ec", SET_UP, "sh", str(root), JOURNALD, boot])
    journal = Journal(root, process.pid)
    try:
        eventually("journald listens", lambda: process.poll() is None and journal.connect())
        journal.write("the journal begins")
        eventually("journald writes", lambda: list(root.glob("journal/*/*.journal")))
        yield journal
    finally:
        journal.socket.close()
        process.terminate()
        process.wait()
        if not folder:
            shutil.rmtree(root)

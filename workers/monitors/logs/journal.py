"""The systemd journal, read by its own program: journalctl(1), systemd.journal-fields(7)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nodedoctor.errors import Undetermined
from nodedoctor.patterns import as_text
from workers.command import PATH
from workers.monitors.logs.kmsg import LEVELS
from workers.monitors.logs.source import LONGEST_LINE, JournalPlace, Line, Source
from workers.privileges import die_with_parent

FIELDS = ("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_PID", "_SYSTEMD_UNIT", "UNIT", "_HOSTNAME")
LONGEST_ENTRY = 4 << 20
"""Bytes of an entry's JSON, which may need four for each byte of a message that is not UTF-8."""
PIPE_SIZE = 1 << 20
CHUNK = 1 << 18
CHUNKS_AT_ONCE = 16
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before journalctl is started again; the pause doubles each time that it ends at once."""
ENDS_WITHIN = 1.0
HEALTHY = 60.0
NO_PERMISSION = ("permission", "not permitted")


Value = str | list[Any] | None
"""A field: a text, a list of bytes where it is not UTF-8, a list of these where it stands several times."""


class Entry(msgspec.Struct, frozen=True):
    """The fields of an entry that are looked at."""

    cursor: str = msgspec.field(name="__CURSOR")
    realtime: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: Value = msgspec.field(name="MESSAGE", default=None)
    priority: Value = msgspec.field(name="PRIORITY", default=None)
    identifier: Value = msgspec.field(name="SYSLOG_IDENTIFIER", default=None)
    pid: Value = msgspec.field(name="_PID", default=None)
    system_unit: Value = msgspec.field(name="_SYSTEMD_UNIT", default=None)
    unit: Value = msgspec.field(name="UNIT", default=None)
    hostname: Value = msgspec.field(name="_HOSTNAME", default=None)

    def fields(self) -> dict[str, str]:
        """What it tells besides its message, as far as it does."""
        level = self.priority if isinstance(self.priority, str) else ""
        known = {
            "unit": self.system_unit or self.unit,
            "identifier": self.identifier,
            "pid": self.pid,
            "hostname": self.hostname,
            "level": LEVELS_BY_NUMBER.get(level),
        }
        return {name: value for name, value in known.items() if isinstance(value, str) and value}


def bytes_of(value: Value) -> bytes:
    """A field as bytes; the first where it stands several times.

    Raises:
        ValueError: it is none that journalctl writes.
    """
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return bytes_of(value[0])
    return value.encode() if isinstance(value, str) else bytes(value or ())


LEVELS_BY_NUMBER = {str(number): name for number, name in enumerate(LEVELS)}
DECODER = msgspec.json.Decoder(Entry)


class JournalLog(Source):
    """Follows the journal through `journalctl --follow`, which is started again when it ends.

    Reading the whole journal takes root, or the group systemd-journal or adm; where its files are not root's,
    CAP_DAC_READ_SEARCH. journalctl waits when it is ahead of us: nothing grows, and the journal itself keeps the rest.
    `lost` counts entries that are longer than LONGEST_ENTRY, `skipped` those that can't be understood.
    """

    def __init__(  # noqa: PLR0913 - each is an option of journalctl
        self,
        folder: Path | None,
        place: JournalPlace | None,
        *,
        since_usec: int,
        boot_usec: int,
        identifiers: Sequence[str] = (),
        units: Sequence[str] = (),
        priority: str = "debug",
        facilities: Sequence[str] = (),
        program: str = "journalctl",
    ) -> None:
        """Start reading.

        Args:
            folder: Where the journal is; None: where this machine has it.
            place: Go on behind this entry.
            since_usec: Entries from before are left out; microseconds since boot.
            boot_usec: The boot, in microseconds of the wall clock.
            identifiers: Only entries of these syslog identifiers; none: of all.
            units: Only entries of these units; none: of all.
            priority: Only entries of this level and worse ones.
            facilities: Only entries of these facilities; none: of all.
            program: What to run.

        Raises:
            Undetermined: there is no journalctl.
        """
        self.last = place
        self.since_usec = since_usec
        self.boot_usec = boot_usec
        self.filters = [f"--directory={folder}"] if folder else []
        for option, values in (("identifier", identifiers), ("unit", units), ("facility", facilities)):
            self.filters += [f"--{option}={value}" for value in values]
        if priority != LEVELS[-1]:
            self.filters.append(f"--priority={priority}")
        self.program = program
        self.buffer = b""
        self.passing_over = False
        self.more = False
        self.pause = FIRST_PAUSE
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.start()

    def start(self) -> None:
        """Run journalctl from where reading goes on.

        Raises:
            Undetermined: there is none.
        """
        program = shutil.which(self.program, path=PATH)
        if program is None:
            text = f"there is no {self.program} on this machine: install systemd's tools (Debian: systemd)"
            raise Undetermined(text, "JournalctlNotFound")
        if self.last:
            # With --after-cursor a cursor that is gone by now would cost the entry that follows it.
            begin = f"--cursor={self.last.cursor}"
        else:
            begin = f"--since=@{max(0, (self.boot_usec + self.since_usec) // 1_000_000)}"
        fields = ",".join(FIELDS)
        output = ("--output=json", f"--output-fields={fields}", "--all", "--no-pager", "--quiet")
        parent = os.getpid()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            # Without --merge it would follow this boot alone, and find nothing in a journal that has just begun.
            [program, *output, "--follow", "--no-tail", "--merge", begin, *self.filters],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C"},
            # The worker has one thread.
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509
        )
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(OSError):  # beyond what this user may have
            fcntl.fcntl(self.fileno() or 0, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def fileno(self) -> int | None:
        """What journalctl writes to; None while it does not run."""
        return self.process.stdout.fileno() if self.process and self.process.stdout else None

    def wake_after(self) -> float | None:
        """At once while there is more, and when journalctl is to be started again."""
        if self.more:
            return 0.0
        return None if self.process else max(0.0, self.start_at - time.monotonic())

    def place(self) -> JournalPlace | None:
        """The last entry that was read."""
        return self.last

    def read(self, limit: int) -> list[Line]:
        """The next lines.

        Raises:
            PermissionError: the journal may not be read.
            Undetermined: journalctl has ended; it is started again after a pause.
        """
        if self.process is None:
            if time.monotonic() < self.start_at:
                return []
            self.start()
        ended = self.fill()
        lines = self.lines(limit)
        if ended and not self.more:
            self.gone(told=bool(lines))
        return lines

    def fill(self) -> bool:
        """Take what journalctl has written, unless there is enough already; whether it has ended."""
        for _ in range(CHUNKS_AT_ONCE):
            if len(self.buffer) >= CHUNK and b"\n" in self.buffer:
                return False
            try:
                data = os.read(self.fileno() or 0, CHUNK)
            except BlockingIOError:
                return False
            if not data:
                return True
            self.buffer += data
            self.bound()
        return False

    def bound(self) -> None:
        """Let go of an entry that is too long: its beginning now, the rest up to its end as it comes."""
        if self.passing_over:
            _, newline, rest = self.buffer.partition(b"\n")
            self.buffer, self.passing_over = rest, not newline
        elif len(self.buffer) > LONGEST_ENTRY and b"\n" not in self.buffer:
            self.buffer, self.passing_over = b"", True
            self.lost += 1

    def lines(self, limit: int) -> list[Line]:
        """The lines of up to `limit` entries that are there as a whole."""
        *entries, rest = self.buffer.split(b"\n", limit)
        self.buffer = rest
        self.more = len(entries) == limit and b"\n" in rest
        lines = []
        for data in entries:
            try:
                entry = DECODER.decode(data)
                usec = int(entry.realtime) - self.boot_usec
                text = bytes_of(entry.message).strip()[:LONGEST_LINE]
            except (ValueError, TypeError):
                self.skipped += 1
                continue
            if self.last and entry.cursor == self.last.cursor:
                continue
            self.last = JournalPlace(entry.cursor)
            if text and usec >= self.since_usec:
                lines.append(Line(text, usec, entry.fields()))
        return lines

    def gone(self, *, told: bool) -> None:
        """Plan the next start of journalctl, which has ended, and say why unless it has `told` something before.

        Raises:
            PermissionError: the journal may not be read.
            Undetermined: for what journalctl itself says.
        """
        why = self.end()
        now = time.monotonic()
        self.pause = FIRST_PAUSE if now - self.started_at >= HEALTHY else min(2 * self.pause, LONGEST_PAUSE)
        self.start_at = now + self.pause
        self.buffer = b""
        if told:
            return
        if any(word in why.lower() for word in NO_PERMISSION):
            raise PermissionError(None, f"{why}: the journal is for root and the group systemd-journal")
        raise Undetermined(f"journalctl ended: {why}", "JournalUnreadable")

    def end(self) -> str:
        """End journalctl, if it has not ended; the last that it has said of itself, or how it ended."""
        process, self.process = self.process, None
        if process is None:
            return ""
        assert process.stdout
        assert process.stderr
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = as_text(process.stderr.read(4096) or b"").strip().splitlines()
        process.stdout.close()
        process.stderr.close()
        return said[-1][:500] if said else f"with {code}"

    def close(self) -> None:
        """End journalctl."""
        self.end()

"""The systemd journal, read by its own program: journalctl(1), systemd.journal-fields(7); systemd 239 and later."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from nodedoctor.errors import Undetermined
from workers.command import PATH
from workers.monitors.logs.kmsg import FACILITIES, LEVELS
from workers.monitors.logs.source import LONGEST_LINE, JournalPlace, Line, Source
from workers.privileges import die_with_parent
from workers.programs import printable

SYSTEM_FOLDERS = (Path("/run/log/journal"), Path("/var/log/journal"))
LONGEST_ENTRY = 4 << 20
"""Bytes of an entry's JSON, which may need four for each byte of a message that is not UTF-8."""
LONGEST_FIELD = 256
PIPE_SIZE = 1 << 20
CHUNK = 1 << 18
MOST_DATA = 64 << 20
"""Bytes of memory that journalctl gets: it unpacks a whole field, and anybody can log one of hundreds of megabytes."""
COMPLAINTS_KEPT = 4096
LONGEST_COMPLAINT = 500
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before journalctl is started again; the pause doubles each time that it ends at once."""
PROVEN_AFTER = 5.0
"""Seconds for which a journalctl that follows a failed one must run, unless an entry comes first."""
ENDS_WITHIN = 0.5
NO_PERMISSION = ("permission", "not permitted")
NO_MEMORY = ("cannot allocate memory", "out of memory")
TOO_NEW = "unsupported feature"
"""What journalctl says of a file by a journald that is newer than it; it goes on without the file."""
LEVELS_BY_NUMBER = {str(number): name for number, name in enumerate(LEVELS)}

Value = str | list[int | str | list[int] | None] | None
"""A field: a text, a list of bytes where it is not UTF-8, null where it is too large, a list of these where it stands
several times. Anybody may log any field but those that begin with an underscore."""


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

    def text(self) -> bytes | None:
        """Its message; None: it has none."""
        return None if self.message is None else bytes_of(self.message).strip()

    def fields(self) -> dict[str, str]:
        """What it tells besides its message, as far as it does."""
        # systemd itself, process 1, logs for its units.
        unit = self.unit if self.pid == "1" and self.unit else self.system_unit or self.unit
        level = LEVELS_BY_NUMBER.get(self.priority) if isinstance(self.priority, str) else None
        known = {
            "unit": unit,
            "identifier": self.identifier,
            "pid": self.pid,
            "hostname": self.hostname,
            "level": level,
        }
        return {
            name: value[:LONGEST_FIELD] for name, value in known.items() if isinstance(value, str) and value
        }


FIELDS = ",".join(field.encode_name for field in msgspec.structs.fields(Entry))
DECODER = msgspec.json.Decoder(Entry)


def bytes_of(value: object) -> bytes:
    """The beginning of a field, as far as of a line; of the first where it stands several times."""
    if isinstance(value, str):
        return value[:LONGEST_LINE].encode()[:LONGEST_LINE]
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return bytes_of(value[0])
    return bytes(value[:LONGEST_LINE]) if isinstance(value, list) else b""


def decoded(data: bytes | bytearray) -> Entry | None:
    """An entry; None: it can't be understood. journalctl before systemd 240 writes bytes that are not UTF-8 as they are.

    https://github.com/systemd/systemd/blob/v239/src/shared/logs-show.c (json_escape)
    """
    try:
        return DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = data.decode(errors="replace")
    try:
        return DECODER.decode(text)
    except msgspec.DecodeError:
        return None


class JournalLog(Source):
    """Follows the journal through `journalctl --follow`, which is started again when it ends.

    Reading the whole journal takes root, or the group systemd-journal or adm; where its files are not root's,
    CAP_DAC_READ_SEARCH as root. journalctl waits when it is ahead of us: nothing grows, and the journal itself keeps
    the rest. `lost` counts entries that are longer than LONGEST_ENTRY or can't be understood, and those for which
    journalctl had no memory; `skipped` those without a message.
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
        priority: str = LEVELS[-1],
        facilities: Sequence[str] = (),
        program: str = "journalctl",
    ) -> None:
        """Start reading.

        Args:
            folder: Where the journal is; None: where this machine has it.
            place: Go on behind this entry, or where it was if it is gone by now.
            since_usec: Entries from before are left out; microseconds since boot.
            boot_usec: The boot, in microseconds of the wall clock.
            identifiers: Only entries of these syslog identifiers; none: of all.
            units: Only entries of these units; none: of all.
            priority: Only entries of this level and worse ones; at the last level also those that have none.
            facilities: Only entries of these facilities; none: of all.
            program: What to run.

        Raises:
            Undetermined: there is no journalctl, or it can't be started.
        """
        # So there is a place before there is an entry.
        self.cursor = place.cursor if place else cursor_of(boot_usec + since_usec)
        # Then nothing comes from before it. To look at each time would be wrong when the clock is set back.
        self.since_usec = since_usec if place else -boot_usec
        self.boot_usec = boot_usec
        self.folders = (folder,) if folder else SYSTEM_FOLDERS
        self.command = command(program, folder, identifiers, units, priority, facilities)
        self.journalctl: Journalctl | None = None
        self.failure: OSError | Undetermined | None = None
        self.pause = FIRST_PAUSE
        self.start_at = 0.0
        self.start()

    def start(self) -> None:
        """Run journalctl from where reading goes on.

        Raises:
            Undetermined: it can't be started.
        """
        self.identities = [identity(folder) for folder in self.folders]
        # With --after-cursor a cursor that is gone by now would cost the entry that follows it.
        self.journalctl = Journalctl([*self.command, f"--cursor={self.cursor}"])
        self.proven_at = time.monotonic() + PROVEN_AFTER
        self.heard = False

    def fileno(self) -> int | None:
        """What journalctl writes to; None while it does not run."""
        return self.journalctl.out if self.journalctl else None

    def wake_after(self) -> float | None:
        """At once while there is more; when journalctl is to be started again, or has run for long enough since."""
        if self.journalctl and self.journalctl.entries:
            return 0.0
        if self.journalctl and not self.failure:
            return None
        return max(0.0, (self.proven_at if self.journalctl else self.start_at) - time.monotonic())

    def place(self) -> JournalPlace:
        """The last entry that was read, or the time at which to begin."""
        return JournalPlace(self.cursor)

    def read(self, limit: int) -> list[Line]:
        """The next lines.

        Raises:
            PermissionError: the journal may not be read.
            Undetermined: journalctl has ended and will be started again, or it can't read this journal, or there is
                none yet.
        """
        running = self.journalctl or self.start_again()
        lines = []
        for _ in range(limit):
            data = running.next_entry()
            if data is None:
                break
            line = self.line(data)
            if line:
                lines.append(line)
        else:
            return lines
        if not lines:
            self.look_after(running)
        return lines

    def line(self, data: bytes | bytearray) -> Line | None:
        """The line in an entry's JSON, if it is to be given."""
        entry = decoded(data)
        if entry is None:
            self.lost += 1
            return None
        self.heard = True
        if entry.cursor == self.cursor:
            return None
        self.failure, self.pause = None, FIRST_PAUSE
        self.cursor = entry.cursor
        text, usec = entry.text(), int(entry.realtime) - self.boot_usec
        self.skipped += text is None
        return Line(text, usec, entry.fields()) if text and usec >= self.since_usec else None

    def look_after(self, running: Journalctl) -> None:
        """Do what is to be done when nothing has come: start journalctl again, or say that it may read nothing.

        Raises:
            OSError, Undetermined: as `read`.
        """
        running.listen()
        if running.has_ended:
            self.fail(running)
        if self.is_outdated():
            self.close()
            self.start_at = 0.0
            running = self.start_again()
        if self.failure and time.monotonic() < self.proven_at:
            raise self.failure.with_traceback(None)
        self.failure, self.pause = None, FIRST_PAUSE
        if not self.heard:
            self.doubt(running)

    def fail(self, running: Journalctl) -> None:
        """Say why journalctl has ended.

        Raises:
            OSError, Undetermined: always.
        """
        self.close()
        why = running.why()
        if any(word in why.lower() for word in NO_MEMORY):
            # It would come to the same entry again, which tells nothing of itself. What was written since goes with it.
            self.lost += 1
            self.cursor = cursor_of(time.time_ns() // 1000)
        if any(word in why.lower() for word in NO_PERMISSION):
            text = f"{why}: the journal is for root and the group systemd-journal"
            self.postpone(PermissionError(errno.EACCES, text))
        self.postpone(Undetermined(f"journalctl ended: {why}", "JournalUnreadable"))

    def postpone(self, failure: OSError | Undetermined) -> None:
        """Plan the next start after this failure, and tell it.

        Raises:
            OSError, Undetermined: `failure`.
        """
        self.failure, self.start_at = failure, time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        raise failure

    def start_again(self) -> Journalctl:
        """Start journalctl if it is time.

        Raises:
            OSError, Undetermined: it is not, for this reason; or it can't be started.
        """
        if self.failure and time.monotonic() < self.start_at:
            raise self.failure.with_traceback(None)
        try:
            self.start()
        except Undetermined as failure:
            self.postpone(failure)
        assert self.journalctl
        return self.journalctl

    def is_outdated(self) -> bool:
        """Whether a folder was replaced, of which journalctl is not told."""
        return self.identities != [identity(folder) for folder in self.folders]

    def doubt(self, running: Journalctl) -> None:
        """Do not take it for silence when journalctl waits for something that it can't read, or that is not there.

        Raises:
            Undetermined: for that.
        """
        for complaint in running.complaints():
            if TOO_NEW in complaint:
                raise Undetermined(
                    f"journalctl is too old for this journal: {complaint}", "JournalUnreadable"
                )
        if not any(map(has_journal, self.folders)):
            where = " and ".join(map(str, self.folders))
            raise Undetermined(
                f"there is no journal in {where}; it is read as soon as there is", "LogNotFound"
            )

    def close(self) -> None:
        """End journalctl."""
        if self.journalctl:
            self.journalctl.end()
        self.journalctl = None


def command(
    program: str,
    folder: Path | None,
    identifiers: Sequence[str],
    units: Sequence[str],
    priority: str,
    facilities: Sequence[str],
) -> list[str]:
    """How to run journalctl, except where it is to begin."""
    # Without --merge it would follow one boot alone: this one, or the last one that a folder has by now.
    words = [program, "--output=json", f"--output-fields={FIELDS}", "--all", "--no-pager", "--quiet"]
    words += ["--follow", "--no-tail", "--merge"]
    if folder:
        words.append(f"--directory={folder}")
    words += [f"--identifier={name}" for name in identifiers]
    words += [f"--unit={name}" for name in units]
    if priority != LEVELS[-1]:
        words.append(f"--priority={priority}")
    # The option --facility came with systemd 245.
    return [*words, *(f"SYSLOG_FACILITY={FACILITIES.index(name)}" for name in facilities)]


def cursor_of(usec: int) -> str:
    """A place in the journal that is a time, in microseconds since 1970; sd_journal_seek_cursor(3) takes less than all."""
    return f"t={max(0, usec):x}"


def has_journal(folder: Path) -> bool:
    """Whether there is a file of a journal in it, or in a machine's folder in it."""
    return any(True for pattern in ("*.journal", "*/*.journal") for _ in folder.glob(pattern))


def identity(folder: Path) -> tuple[int, int, int] | None:
    """Which folder has this name; None: none, or none that can be told.

    It changes also when a machine's folder is made in it, for the number of one that was removed is soon another's.
    """
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


class Journalctl:
    """A journalctl that was started, and what it writes; nothing here waits but `end`, for a moment.

    Attributes:
        out: The pipe that entries come from, each as JSON in a line.
        entries: Those that were read and not yet asked for.
        has_ended: Whether there is nothing more to come.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Start it.

        Raises:
            Undetermined: it can't be started.
        """
        try:
            self.process = subprocess.Popen(
                words,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": PATH, "LC_ALL": "C"},
                # The worker has one thread.
                preexec_fn=partial(become_journalctl, os.getpid()),  # noqa: PLW1509
            )
        except FileNotFoundError:
            text = f"there is no {words[0]} on this machine: install systemd's tools (Debian: systemd)"
            raise Undetermined(text, "JournalctlNotFound") from None
        except OSError as error:
            raise Undetermined(
                f"{words[0]} can't be started: {error.strerror}", "JournalUnreadable"
            ) from None
        assert self.process.stdout
        assert self.process.stderr
        self.out, self.err = self.process.stdout.fileno(), self.process.stderr.fileno()
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        with contextlib.suppress(OSError):  # beyond what this user may have
            fcntl.fcntl(self.out, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.entries: deque[bytes | bytearray] = deque()
        self.rest = bytearray()
        self.passing_over = False
        self.has_ended = False
        self.said = b""

    def next_entry(self) -> bytes | bytearray | None:
        """The JSON of the next entry, empty if it is too long; None: there is none yet."""
        while not self.entries:
            try:
                data = os.read(self.out, CHUNK)
            except BlockingIOError:
                return None
            if not data:
                self.has_ended = True
                return None
            self.take(data)
        return self.entries.popleft()

    def take(self, data: bytes) -> None:
        """Part `data` into entries. Of one that is too long nothing is kept."""
        begun, *others = data.split(b"\n")
        self.rest += begun
        if others:
            self.entries += [b"" if self.passing_over else self.rest, *others[:-1]]
            self.rest, self.passing_over = bytearray(others[-1]), False
        if self.passing_over or len(self.rest) > LONGEST_ENTRY:
            self.rest, self.passing_over = bytearray(), True

    def listen(self) -> None:
        """Take what it says of itself."""
        with contextlib.suppress(BlockingIOError):  # that was all for now
            while data := os.read(self.err, COMPLAINTS_KEPT):
                self.said = (self.said + data)[-COMPLAINTS_KEPT:]

    def complaints(self) -> list[str]:
        """What it has said of itself, by lines."""
        return [line[:LONGEST_COMPLAINT] for line in printable(self.said, also="\n").splitlines()]

    def why(self) -> str:
        """The last that it has said of itself before it ended, or else how it ended."""
        code = self.process.returncode
        how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
        return (self.complaints() or [how])[-1]

    def end(self) -> None:
        """End it, and see that it has ended."""
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()
        self.process.terminate()
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            # If it hangs in a file system it ends with that.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(ENDS_WITHIN)


def become_journalctl(parent: int) -> None:
    """Undo, in the fork that is to become journalctl, what it has of this process; and bound its memory."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MOST_DATA if hard == resource.RLIM_INFINITY else min(hard, MOST_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    die_with_parent(parent)

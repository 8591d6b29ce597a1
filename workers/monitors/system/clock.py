"""Whether the clock is right: what the kernel knows of it, whether it jumped, and what time servers say."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Callable, Iterator

import msgspec

from nodedoctor.duration import Duration, human, seconds
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, EventReason, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.sntp import Answer, address, ask
from nodedoctor.types import Severity

UNSYNCHRONIZED = ConditionType(
    "ClockUnsynchronized",
    reason="NobodyKeepsTheClock",
    ok_reason="ClockSynchronized",
    severity=Severity.WARNING,
)
OFFSET_LARGE = ConditionType(
    "ClockOffsetTooLarge",
    reason="ClockIsWrong",
    ok_reason="ClockIsRight",
    warning_reason="TimeServersDisagree",
)
UNREACHABLE = ConditionType(
    "NTPServerUnreachable",
    reason="NoTimeFromServer",
    ok_reason="AllServersAnswer",
    severity=Severity.WARNING,
)
JUMPED = EventReason("ClockJumped")
OFFSET = Gauge(
    "clock_offset_seconds", "What would have to be added to the clock, as the source says", ("source",)
)
MAX_ERROR = Gauge("clock_max_error_seconds", "How wrong the clock may be at most, as the kernel reckons")
ESTIMATED_ERROR = Gauge(
    "clock_estimated_error_seconds", "How wrong the clock probably is, as was told the kernel"
)
SYNCHRONIZED = Gauge("clock_synchronized", "1 if the kernel says that somebody keeps the clock right")
SILENCE = 3600.0
"""Seconds for which a server that refused to answer is not asked again; RFC 4330, section 8."""
TIME_ERROR = 5
STA_NANO = 0x2000
TIMEX = struct.Struct("@I4li")
"""The beginning of `struct timex`: modes, offset, freq, maxerror, esterror, status."""


class ClockOptions(Options, frozen=True):
    """How wrong the clock may be, and who knows better."""

    offset_threshold: Duration = "500ms"
    """A clock that is wrong by so much is a problem."""
    jump_threshold: Duration = "2s"
    """A clock that was set by so much between two checks is an event."""
    servers: tuple[str, ...] = ()
    """Time servers (NTP) to compare the clock with: NAME, NAME:PORT, [ADDRESS]:PORT."""
    server_timeout: Duration = "2s"
    """For the answers of all servers."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Durations that are none, and servers that can't be."""
        for option, value in (
            ("offsetThreshold", self.offset_threshold),
            ("jumpThreshold", self.jump_threshold),
            ("serverTimeout", self.server_timeout),
        ):
            if seconds(value) <= 0:
                yield option, f"found {value!r}, allowed: more than 0"
        for index, server in enumerate(self.servers):
            try:
                address(server)
            except ValueError as error:
                yield f"servers[{index}]", f"found {server!r}: {error}"
            if server in self.servers[:index]:
                yield f"servers[{index}]", f"{server!r} stands in the list already"


class KernelClock(msgspec.Struct, frozen=True):
    """What the kernel knows of its clock; errors and offset in seconds."""

    synchronized: bool
    offset: float
    max_error: float
    estimated_error: float


class ClockMonitor(Monitor[ClockOptions]):
    """Tells whether somebody keeps the clock right, and how wrong it is.

    Asks the kernel with adjtimex(2), which needs no privilege and is the same in a container as on its host, and time
    servers with SNTP (RFC 4330) if there are any in the options. chrony tells the kernel that it keeps the clock only if
    its configuration says `rtcsync`. The clock jumped if it moved against CLOCK_BOOTTIME (clock_gettime(2)), which
    nobody sets and which goes on while the machine sleeps.

    A clock is wrong if more than half of the servers that answer say so; if fewer do, they are warned of. What the
    answer's way may have cost counts in the clock's favour.
    """

    kind, options_type = "clock-health-check", ClockOptions
    conditions = (UNSYNCHRONIZED, OFFSET_LARGE, UNREACHABLE)
    metrics = (OFFSET, MAX_ERROR, ESTIMATED_ERROR, SYNCHRONIZED)
    events = (JUMPED,)
    interval = 60.0
    # The names of servers are resolved in it, and that takes long where nobody answers.
    timeout = 30.0

    def __init__(
        self,
        name: str,
        options: ClockOptions,
        host: Host | None = None,
        kernel: Callable[[], KernelClock] | None = None,
    ) -> None:
        super().__init__(name, options, host)
        self.kernel = kernel or kernel_clock
        self.ahead: float | None = None
        self.refused: dict[str, tuple[float, Answer]] = {}

    @classmethod
    def conditions_of(cls, name: str, options: ClockOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """Without servers none can be out of reach."""
        return tuple(c for c in cls.conditions if options.servers or c is not UNREACHABLE)

    def check(self) -> Iterator[Observation]:
        """Look at the clock, then ask the servers."""
        yield from self.check_jump()
        clock = self.kernel()
        yield from self.check_kernel(clock)
        answers = self.answers()
        yield from self.check_servers(answers)
        if not clock.synchronized and not any(answer.came for answer in answers.values()):
            text = "nobody keeps the clock, and no time server says how wrong it is"
            yield OFFSET_LARGE.unknown(text, "NoReferenceClock")

    def check_jump(self) -> Iterator[Observation]:
        """Whether the clock was set since the last check."""
        before, self.ahead = self.ahead, ahead_of_boottime()
        jump = self.ahead - before if before is not None else 0.0
        if abs(jump) >= seconds(self.options.jump_threshold):
            direction = "forward" if jump > 0 else "back"
            yield JUMPED(f"the clock was set {direction} by {human(abs(jump))}")

    def check_kernel(self, clock: KernelClock) -> Iterator[Observation]:
        """What the kernel says. Its offset means something only while somebody keeps the clock."""
        yield SYNCHRONIZED(float(clock.synchronized))
        yield MAX_ERROR(clock.max_error)
        yield ESTIMATED_ERROR(clock.estimated_error)
        yield UNSYNCHRONIZED.when(
            not clock.synchronized,
            "no time service (chrony, systemd-timesyncd, ntpd) keeps the kernel's clock",
        )
        if clock.synchronized:
            yield OFFSET(clock.offset, source="kernel")
            limit = self.options.offset_threshold
            wrong = abs(clock.offset) >= seconds(limit)
            yield OFFSET_LARGE.when(
                wrong, f"the clock is wrong by more than {limit}, as its time service says"
            )

    def answers(self) -> dict[str, Answer]:
        """What each server says; one that does not want to be asked is left in peace for a while."""
        now = time.monotonic()
        self.refused = {server: refusal for server, refusal in self.refused.items() if refusal[0] > now}
        asked = [server for server in self.options.servers if server not in self.refused]
        found = ask(asked, seconds(self.options.server_timeout))
        self.refused |= {s: (now + SILENCE, answer) for s, answer in found.items() if answer.refused}
        return found | {server: answer for server, (_, answer) in self.refused.items()}

    def check_servers(self, answers: dict[str, Answer]) -> Iterator[Observation]:
        """Who does not answer, and what the others say."""
        for server, answer in answers.items():
            yield UNREACHABLE.when(not answer.came, f"{server}: {answer.failure}")
        came = {server: answer for server, answer in answers.items() if answer.came}
        wrong = {server for server, answer in came.items() if self.wrong(answer)}
        for server, answer in came.items():
            yield OFFSET(answer.offset, source=server)
            yield self.judged(server, server in wrong, 2 * len(wrong) > len(came))

    def wrong(self, answer: Answer) -> bool:
        """Whether the clock is too wrong in any case, if `answer` is right."""
        return abs(answer.offset) - answer.uncertainty >= seconds(self.options.offset_threshold)

    def judged(self, server: str, wrong: bool, most: bool) -> Finding:  # noqa: FBT001 - what was found and how often
        """What is to be said of the clock when `server` says that it is `wrong`, as `most` do or do not."""
        message = f"the clock is wrong by more than {self.options.offset_threshold}, as {server} says"
        return OFFSET_LARGE.when(wrong, message) if most else OFFSET_LARGE.warn_when(wrong, message)


def ahead_of_boottime() -> float:
    """Seconds that the clock is ahead of CLOCK_BOOTTIME, as read with the least interruption of a few times."""

    def reading() -> tuple[float, float]:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        wall = time.time()
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        return after - before, wall - before

    return min(reading() for _ in range(3))[1]


def kernel_clock() -> KernelClock:
    """What adjtimex(2) reads.

    Raises:
        OSError: the kernel does not say, such as a container's that forbids the call (PermissionError).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(512)  # more than the struct takes; zero in `modes` changes nothing
    state = libc.adjtimex(timex)
    if state < 0:
        raise OSError(ctypes.get_errno(), f"adjtimex: {os.strerror(ctypes.get_errno())}")
    return clock_of(state, timex.raw)


def clock_of(state: int, timex: bytes) -> KernelClock:
    """What adjtimex(2) tells by its result `state` and by the struct `timex`."""
    _, offset, _, max_error, estimated_error, status = TIMEX.unpack_from(timex)
    return KernelClock(
        synchronized=state != TIME_ERROR,
        offset=offset / (1e9 if status & STA_NANO else 1e6),
        max_error=max_error / 1e6,
        estimated_error=estimated_error / 1e6,
    )

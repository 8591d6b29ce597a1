"""The systemd of the machine, asked over D-Bus.

Sources: org.freedesktop.systemd1(5), sd_booted(3), the D-Bus specification.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, Properties, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, make_auth_external
from jeepney.bus_messages import message_bus

from nodedoctor.errors import NodeDoctorError, Undetermined
from nodedoctor.host import Host
from workers.stream import left

BUS, PRIVATE = "/run/dbus/system_bus_socket", "/run/systemd/private"
"""The sockets of the D-Bus daemon, and of systemd itself, which takes root alone and needs no daemon."""
BOOTED = "/run/systemd/system"
"""Is there if systemd runs the machine; sd_booted(3)."""
NAME = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=NAME, interface=f"{NAME}.Manager")
DENIED = {
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
}
ABSENT = {
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "Timeout")
}
"""What a D-Bus daemon answers in the name of a systemd that is not there."""
CHUNK = 64 * 1024


class Silent(Undetermined):
    """systemd runs this machine and does not answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "SystemdDoesNotAnswer")


class CallError(NodeDoctorError):
    """systemd answered with an error; `error` is its D-Bus name."""

    def __init__(self, error: str, message: str) -> None:
        self.error = error
        super().__init__(message)


class Unit(msgspec.Struct, frozen=True):
    """One line of the list of loaded units."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    path: str
    """Its object on the bus."""


class UnitState(msgspec.Struct, frozen=True):
    """What systemd knows of one unit. What its kind does not have is empty."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    unit_file_state: str = ""
    kind: str = ""
    """A service's Type=."""
    result: str = ""
    restarts: int = 0
    """How often systemd itself has restarted it; a start by hand may count from 0 again."""
    invocation: str = ""
    """Another one for each start, hexadecimal."""
    remain_after_exit: bool = False
    condition_failed: bool = False
    """Its last start was left out since a Condition...= was not met."""
    left_inactive: float = 0.0
    """When it last began to start, in seconds of CLOCK_MONOTONIC; 0 for never."""
    left_active: float = 0.0
    """When it last began to stop, likewise."""
    became_active: float = 0.0
    """When it last had started, likewise."""


class Systemd:
    """A connection, with one deadline (of time.monotonic) for all that is asked over it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.parser = Parser()
        self.serial = 0

    def authenticate(self) -> None:
        """Show who we are; D-Bus specification, "Authentication Protocol".

        All of it is sent at once: systemd may read a message that follows BEGIN together with it, and then leaves it
        alone until more comes.

        Raises:
            AuthenticationError: we may not.
        """
        self.sock.settimeout(left(self.deadline))
        self.sock.sendall(b"\0" + make_auth_external() + BEGIN)
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self.received()
        if not answer.startswith(b"OK "):
            raise AuthenticationError(answer)

    def received(self) -> bytes:
        """Some bytes."""
        self.sock.settimeout(left(self.deadline))
        data = self.sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError
        return data

    def reply(self, message: Message) -> tuple[Any, ...]:
        """What comes back for `message`.

        Raises:
            CallError: an error.
            OSError: nothing, in time.
        """
        self.serial += 1
        self.sock.settimeout(left(self.deadline))
        self.sock.sendall(message.serialise(self.serial))
        while True:
            answer = self.parser.get_next_message()
            if answer is None:
                self.parser.add_data(self.received())
            elif answer.header.fields.get(HeaderFields.reply_serial) == self.serial:
                return body(answer)

    def call(self, message: Message) -> tuple[Any, ...]:
        """Like `reply`, for a systemd that has answered before.

        Raises:
            Undetermined: this process may not ask for that.
            Silent: nothing comes back in time.
            CallError: systemd answers with another error.
        """
        try:
            return self.reply(message)
        except OSError as error:
            raise Silent("systemd has stopped answering") from error
        except CallError as error:
            if error.error in DENIED:
                raise denied(str(error)) from error
            raise

    def units(self) -> tuple[Unit, ...]:
        """All units that are loaded."""
        (rows,) = self.call(new_method_call(MANAGER, "ListUnits"))
        return tuple(Unit(row[0], row[2], row[3], row[4], row[6]) for row in rows)

    def unit(self, name: str) -> UnitState:
        """The state of the unit `name`, which need not exist."""
        (path,) = self.call(new_method_call(MANAGER, "LoadUnit", "s", (name,)))
        (found,) = self.call(new_method_call(properties(path), "GetAll", "s", ("",)))
        return unit_state(name, {key: value for key, (_, value) in found.items()})

    def restarts(self, path: str) -> int:
        """How often systemd has restarted the service with the object `path`; 0 if it is unloaded by now."""
        service = DBusAddress(path, bus_name=NAME, interface=f"{NAME}.Service")
        try:
            ((_, count),) = self.call(Properties(service).get("NRestarts"))
        except CallError:
            return 0
        return int(count)


@contextmanager
def connected(host: Host, limit: float) -> Iterator[Systemd]:
    """A connection to the systemd of `host` on which it has answered once; all of it takes `limit` seconds at most.

    Raises:
        Undetermined: there is no systemd (NoSystemd), or this process may not ask it (AccessDenied).
        Silent: it does not answer.
    """
    if not host.path(BOOTED).is_dir():
        text = f"{host.path(BOOTED)} is not there: systemd does not run this machine, or its /run is not mounted here"
        raise Undetermined(text, "NoSystemd")
    systemd = opened(host, limit)
    try:
        yield systemd
    finally:
        systemd.sock.close()


def opened(host: Host, limit: float) -> Systemd:
    """Like `connected`, to be closed: over the D-Bus daemon, or if that does not help within half the time, without."""
    end, failures = time.monotonic() + limit, []
    for place, until in ((BUS, end - limit / 2), (PRIVATE, end)):
        try:
            systemd = dialled(str(host.path(place)), until, daemon=place == BUS)
        except (OSError, AuthenticationError, CallError) as error:
            failures.append(error)
        else:
            systemd.deadline = end
            return systemd
    raise unreachable(failures) from failures[-1]


def dialled(path: str, deadline: float, *, daemon: bool) -> Systemd:
    """A connection to the socket `path` on which systemd has answered. Only a `daemon` wants to be greeted."""
    sock = socket.socket(socket.AF_UNIX)
    systemd = Systemd(sock, deadline)
    try:
        sock.settimeout(left(systemd.deadline))
        sock.connect(path)
        systemd.authenticate()
        if daemon:
            systemd.reply(message_bus.Hello())
        systemd.reply(Properties(MANAGER).get("SystemState"))
    except BaseException:
        sock.close()
        raise
    return systemd


def unreachable(failures: list[Exception]) -> Undetermined:
    """What to say after both sockets failed: only a wait in vain tells of systemd itself.

    It resets a connection to its own socket from another PID namespace, and one of somebody else than root.
    """
    if any(isinstance(error, TimeoutError) for error in failures):
        return Silent(f"systemd answers neither over {BUS} nor over {PRIVATE}")
    if any(may_not(error) for error in failures):
        text = "D-Bus does not help, and systemd's own socket is for root alone, in the node's PID namespace"
        return denied(f"{text} (hostPID: true)")
    return Undetermined(f"neither {BUS} nor {PRIVATE} can be connected to: {failures[-1]}", "NoConnection")


def may_not(error: Exception) -> bool:
    """Whether `error` says that this process has no right."""
    refused = PermissionError | AuthenticationError | ConnectionResetError | BrokenPipeError
    return isinstance(error, refused) or (isinstance(error, CallError) and error.error in DENIED)


def denied(message: str) -> Undetermined:
    """This process may not ask systemd."""
    return Undetermined(f"systemd can't be asked: {message}", "AccessDenied")


def body(answer: Message) -> tuple[Any, ...]:
    """What `answer` holds.

    Raises:
        CallError: it is an error.
    """
    content = tuple(answer.body)
    if answer.header.message_type is MessageType.error:
        name = str(answer.header.fields.get(HeaderFields.error_name, ""))
        raise CallError(name, str(content[0]) if content else name)
    return content


def properties(path: str) -> DBusAddress:
    """The properties of the object `path`, all its interfaces at once."""
    return DBusAddress(path, bus_name=NAME, interface="org.freedesktop.DBus.Properties")


def unit_state(name: str, found: dict[str, Any]) -> UnitState:
    """The state that the properties `found` tell of."""
    return UnitState(
        name,
        load_state=found["LoadState"],
        active_state=found["ActiveState"],
        sub_state=found["SubState"],
        unit_file_state=found["UnitFileState"],
        kind=found.get("Type", ""),
        result=found.get("Result", ""),
        restarts=found.get("NRestarts", 0),
        invocation=bytes(found["InvocationID"]).hex(),
        remain_after_exit=found.get("RemainAfterExit", False),
        condition_failed=found["ConditionTimestampMonotonic"] > 0 and not found["ConditionResult"],
        left_inactive=found["InactiveExitTimestampMonotonic"] / 1e6,
        left_active=found["ActiveExitTimestampMonotonic"] / 1e6,
        became_active=found["ActiveEnterTimestampMonotonic"] / 1e6,
    )

"""Whether TCP servers accept connections."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated
from urllib.parse import urlsplit

import dns.exception
import msgspec
from msgspec import Meta

from nodedoctor.config.model import ConditionName
from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from nodedoctor.words import condition_name
from workers.resolving import addresses, told
from workers.stream import NO_WAY

UP = Gauge("tcp_up", "1 if the last connection was accepted", ("target",))
DURATION = Gauge("tcp_connect_seconds", "Time that the last connection took, its name included", ("target",))
REASONS = ("ConnectionRefused", "Timeout", "Unreachable", "NameNotResolved", "ConnectionFailed")


class TcpOptions(Options, frozen=True):
    """Where to connect to, and how fast that has to be."""

    targets: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    """NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT. All are connected to at once, and left without a word."""
    connect_timeout: Duration = "3s"
    """For resolving the name, which may take half of it, and connecting."""
    slow_threshold: Duration | None = None
    """A connection that takes longer is warned of; by default none is."""
    condition: ConditionName | None = None
    """The condition's name; by default it is made of the monitor's: registry-health gives RegistryUnhealthy."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What can't be connected to, or never in time."""
        for index, target in enumerate(self.targets):
            try:
                endpoint(target)
            except ValueError as error:
                yield f"targets[{index}]", f"found {target!r}: {error}"
        if len(set(self.targets)) < len(self.targets):
            yield "targets", "holds a target twice"
        if seconds(self.connect_timeout) <= 0:
            yield "connectTimeout", f"found {self.connect_timeout!r}, allowed: more than 0"
        if self.slow_threshold and seconds(self.slow_threshold) >= seconds(self.connect_timeout):
            yield "slowThreshold", f"must be below connectTimeout ({self.connect_timeout})"


class Failure(msgspec.Struct, frozen=True):
    """Why a connection did not come about."""

    reason: str
    message: str


class TcpMonitor(Monitor[TcpOptions]):
    """Opens a connection to each target and closes it, as connect(2) tells of it.

    Names are looked up in /etc/hosts, then by DNS with the search list, both as the agent sees them. Of several
    addresses one is enough.
    """

    kind, options_type = "tcp-health-check", TcpOptions
    metrics = (UP, DURATION)

    @classmethod
    def conditions_of(cls, name: str, options: TcpOptions) -> tuple[ConditionType, ...]:
        """One condition, named by the options or for the monitor."""
        return (
            ConditionType(
                options.condition or condition_name(name),
                reason="ConnectionFailed",
                ok_reason="ConnectionsAccepted",
                warning_reason="ConnectionSlow",
                reasons=REASONS,
            ),
        )

    def check(self) -> Iterator[Observation]:
        """Connect to all targets at once."""
        (condition,) = self.conditions_of(self.name, self.options)
        results = asyncio.run(attempt_all(self.options.targets, self.options.connect_timeout))
        for target, result in zip(self.options.targets, results, strict=True):
            yield UP(float(not isinstance(result, Failure)), target=target)
            if isinstance(result, Failure):
                yield condition.when(True, f"{target}: {result.message}", result.reason)
            else:
                yield DURATION(result, target=target)
                yield self.slow(condition, target, result)

    def slow(self, condition: ConditionType, target: str, took: float) -> Finding:
        """Whether a connection that took so many seconds is too slow."""
        limit = self.options.slow_threshold
        return condition.warn_when(
            limit is not None and took > seconds(limit), f"{target}: connecting takes longer than {limit}"
        )


def endpoint(target: str) -> tuple[str, int]:
    """Host and port of `target`.

    Raises:
        ValueError: it has no such parts.
    """
    parts = urlsplit(f"//{target}")
    if not parts.hostname or not parts.port or parts.netloc != target or "@" in target:
        raise ValueError("allowed: NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT")
    parts.hostname.encode("idna")
    return parts.hostname, parts.port


async def attempt_all(targets: tuple[str, ...], within: str) -> list[float | Failure]:
    """What becomes of a connection to each target, in their order."""
    return await asyncio.gather(*(attempt(target, within) for target in targets))


async def attempt(target: str, within: str) -> float | Failure:
    """The seconds that a connection to `target` takes, or why there is none."""
    host, port = endpoint(target)
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds(within)):
            await connect_to_any(await addresses(host, seconds(within)), port)
    except TimeoutError:
        return Failure("Timeout", f"no connection within {within}")
    except OSError as error:
        return failure_of(error)
    except dns.exception.DNSException as error:
        return Failure("NameNotResolved", f"the name can't be resolved: {told(error)}")
    return time.monotonic() - began


def failure_of(error: OSError) -> Failure:
    """What an error of connect(2) means."""
    if isinstance(error, ConnectionRefusedError):
        return Failure("ConnectionRefused", "nobody listens there")
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in NO_WAY:
        return Failure("Unreachable", f"there is no way there: {text}")
    if error.errno == errno.ETIMEDOUT:
        return Failure("Timeout", "no connection: the other side does not answer")
    return Failure("ConnectionFailed", f"connecting fails: {text}")


async def connect_to_any(hosts: list[str], port: int) -> None:
    """Connect to all addresses at once until one accepts.

    Raises:
        OSError: none did; it is what the first of them said.
    """
    pending = [asyncio.ensure_future(connect(host, port)) for host in hosts]
    try:
        for done in asyncio.as_completed(pending):
            try:
                await done
            except OSError:
                continue
            return
        await pending[0]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def connect(host: str, port: int) -> None:
    """Connect to an address and disconnect.

    Raises:
        OSError: that did not work.
    """
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)[
        0
    ]
    with closing(socket.socket(family, kind, protocol)) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, place)

"""Whether the network interfaces work as they should."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options, counter
from nodedoctor.types import Severity

DOWN = ConditionType("InterfaceDown", reason="LinkDown", ok_reason="InterfacesUp")
FLAPPING = ConditionType(
    "InterfaceFlapping", reason="CarrierChanges", ok_reason="LinksStable", severity=Severity.WARNING
)
ERRORS = ConditionType(
    "InterfaceErrors", reason="PacketsFail", ok_reason="FewPacketsFail", severity=Severity.WARNING
)
SLOW = ConditionType("InterfaceSlow", reason="LinkSlow", ok_reason="LinksAtSpeed", severity=Severity.WARNING)
MTU_WRONG = ConditionType(
    "InterfaceMTUWrong", reason="OtherMTU", ok_reason="MTUAsExpected", severity=Severity.WARNING
)
BOND = ConditionType("BondDegraded", reason="SlaveDown", ok_reason="SlavesUp", severity=Severity.WARNING)
UP = Gauge("interface_up", "1 if the interface is up and has a carrier", ("interface",))
SPEED = Gauge("interface_speed_bits_per_second", "Speed that the link was negotiated to", ("interface",))
CHANGES = counter("interface_carrier_changes_total", "Times that the carrier came or went", ("interface",))
FAILED = counter(
    "interface_failed_packets_total",
    "Packets with errors and packets dropped",
    ("interface", "direction", "kind"),
)
IFF_UP = 0x1
KINDS = {f"{way}_{kind}": (way, kind) for way in ("rx", "tx") for kind in ("errors", "dropped")}
DIRECTIONS = {"rx": "receive", "tx": "transmit"}
MEGABIT = 1_000_000


class InterfaceOptions(Options, frozen=True):
    """Which interfaces, and what is expected of them."""

    interfaces: tuple[str, ...] = ()
    """Names or patterns such as eth*; each must fit an interface that is up. By default those that are set up and belong to
    a device: not those of containers."""
    flap_count: Annotated[int, Meta(ge=2)] = 6
    """Changes of the carrier within flapWithin that are a problem; a cable that is pulled and put back makes two."""
    flap_within: Duration = "10m"
    errors_per_second: Annotated[float, Meta(gt=0)] = 10
    """Packets with errors, between two checks, that are a problem."""
    drops_per_second: Annotated[float, Meta(gt=0)] = 1000
    """Packets that were dropped, between two checks, that are a problem."""
    minimum_speed: Annotated[int, Meta(ge=0)] = 0
    """In Mbit/s; a link that was negotiated to less is a problem, and so is half duplex. 0: any speed is enough."""
    mtu: Annotated[int, Meta(ge=0)] = 0
    """What the MTU must be; 0: anything."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """A time in which nothing can happen."""
        if seconds(self.flap_within) <= 0:
            yield "flapWithin", f"found {self.flap_within!r}, allowed: more than 0"


class Seen:
    """What an earlier check saw of one interface."""

    def __init__(self) -> None:
        self.changes: deque[tuple[float, int]] = deque()
        self.failed: dict[str, int] = {}
        self.at = 0.0


class InterfaceMonitor(Monitor[InterfaceOptions]):
    """Looks at state, carrier, speed, MTU, errors and drops of network interfaces, and at the slaves of bonds.

    Reads /sys/class/net (Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-statistics, networking/bonding),
    which shows the interfaces of the network namespace that the agent runs in: in a pod it needs hostNetwork.
    """

    kind, options_type = "interface-health-check", InterfaceOptions
    conditions = (DOWN, FLAPPING, ERRORS, SLOW, MTU_WRONG, BOND)
    metrics = (UP, SPEED, CHANGES, FAILED)
    timeout = 5.0

    def __init__(self, name: str, options: InterfaceOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.seen: dict[str, Seen] = {}

    def check(self) -> Iterator[Observation]:
        """Look at each of them once."""
        folder = self.host.sys / "class/net"
        # A file among the interfaces (bonding_masters) is none.
        found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not found:
            raise Undetermined(f"{folder} shows no interfaces", "NoInterfaces")
        chosen = [path for path in found if self.is_chosen(path)]
        self.seen = {path.name: self.seen.get(path.name, Seen()) for path in chosen}
        yield from self.missing(chosen)
        for path in chosen:
            yield from self.look(path, self.seen[path.name], time.monotonic())
        for condition in () if chosen else self.conditions[1:]:
            yield condition.when(False, "")

    def is_chosen(self, path: Path) -> bool:
        """Whether this interface is to be looked at."""
        if self.options.interfaces:
            return any(fnmatchcase(path.name, pattern) for pattern in self.options.interfaces)
        return (path / "device").exists() and is_set_up(path)

    def missing(self, chosen: list[Path]) -> Iterator[Finding]:
        """What was asked for and is not there."""
        for pattern in self.options.interfaces:
            there = any(fnmatchcase(path.name, pattern) for path in chosen)
            yield DOWN.when(not there, f"there is no interface {pattern}", "InterfaceMissing")
        if not self.options.interfaces:
            yield DOWN.when(False, "")

    def look(self, path: Path, seen: Seen, now: float) -> Iterator[Observation]:
        """One interface."""
        name, state = path.name, text_of(path / "operstate")
        # A driver that does not tell has the state unknown while it works.
        up = is_set_up(path) and (state == "up" or (state == "unknown" and number_of(path / "carrier") != 0))
        yield UP(float(up), interface=name)
        why = f"is {state}" if is_set_up(path) else "is not set up"
        yield DOWN.when(not up, f"{name} {why}")
        yield from self.look_at_carrier(path, seen, now)
        yield from self.look_at_packets(path, seen, now)
        yield from self.look_at_speed(path, up=up)
        mtu = number_of(path / "mtu")
        yield MTU_WRONG.when(
            self.options.mtu not in (0, mtu), f"{name} has an MTU of {mtu}, expected {self.options.mtu}"
        )
        yield from look_at_bond(path)

    def look_at_carrier(self, path: Path, seen: Seen, now: float) -> Iterator[Observation]:
        """Whether the carrier comes and goes."""
        changes = number_of(path / "carrier_changes") or 0
        while seen.changes and now - seen.changes[0][0] > seconds(self.options.flap_within):
            seen.changes.popleft()
        seen.changes.append((now, changes))
        flaps = changes - seen.changes[0][1]
        yield CHANGES(changes, interface=path.name)
        limit = f"{self.options.flap_count} times within {self.options.flap_within}"
        yield FLAPPING.when(
            flaps >= self.options.flap_count, f"{path.name} lost or found its carrier {limit}"
        )

    def look_at_packets(self, path: Path, seen: Seen, now: float) -> Iterator[Observation]:
        """Whether too many packets fail."""
        failed = {file: number_of(path / "statistics" / file) or 0 for file in KINDS}
        before, elapsed = seen.failed, now - seen.at
        seen.failed, seen.at = failed, now
        for file, (way, kind) in KINDS.items():
            yield FAILED(failed[file], interface=path.name, direction=DIRECTIONS[way], kind=kind)
            limit = self.options.errors_per_second if kind == "errors" else self.options.drops_per_second
            rate = (failed[file] - before.get(file, failed[file])) / max(elapsed, 0.001)
            text = f"{path.name} has more than {limit:g} {file.replace('_', ' ')} a second"
            yield ERRORS.when(rate > limit, text)

    def look_at_speed(self, path: Path, *, up: bool) -> Iterator[Observation]:
        """Whether the link is as fast as it should be; a virtual one tells no speed, and one that is down has none."""
        speed = number_of(path / "speed") if up else None
        if speed is not None and speed > 0:
            yield SPEED(speed * MEGABIT, interface=path.name)
        slow = speed is not None and 0 < speed < self.options.minimum_speed
        text = f"{path.name} runs at {speed} Mbit/s, expected at least {self.options.minimum_speed}"
        yield SLOW.when(slow, text)
        half = up and text_of(path / "duplex") == "half"
        yield SLOW.when(half, f"{path.name} runs at half duplex", "HalfDuplex")


def look_at_bond(path: Path) -> Iterator[Finding]:
    """Whether all slaves of a bond work; what is no bond has none."""
    for slave in text_of(path / "bonding/slaves").split():
        status = text_of(path / f"lower_{slave}/bonding_slave/mii_status")
        yield BOND.when(status != "up", f"{slave} of {path.name} is {status or 'missing'}")
    yield BOND.when(False, "")


def is_set_up(path: Path) -> bool:
    """Whether somebody has set the interface up; netdevice(7), IFF_UP."""
    return bool(int(text_of(path / "flags") or "0", 16) & IFF_UP)


def text_of(path: Path) -> str:
    """What an attribute says; empty if it says nothing, as some do while their interface is down or gone."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def number_of(path: Path) -> int | None:
    """What an attribute says, as a number; None if it says nothing."""
    text = text_of(path)
    return int(text) if text.lstrip("-").isdigit() else None

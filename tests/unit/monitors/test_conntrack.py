"""The monitor of connection tracking: real connections in a network of their own, and written counters."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import give_up, look, own_network

from nodedoctor.host import Host
from workers.monitors.network.conntrack import ConntrackMonitor, ConntrackOptions, drops

HEAD = (
    "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop "
    "icmp_error  expect_new expect_create expect_delete search_restart\n"
)
OLD_HEAD = (
    "entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop "
    "icmp_error  expect_new expect_create expect_delete search_restart\n"
)
NETLINK_NETFILTER = 12
NFTABLES, CTNETLINK = 10, 1
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REQUEST, ACKNOWLEDGE, CREATE, APPEND = 1, 4, 0x400, 0x800
OUTPUT_HOOK = 3


def row(insert_failed: int = 0, drop: int = 0, early_drop: int = 0) -> str:
    """The line of one processor; what counts no loss is large."""
    numbers = [0xFFFF] * 9 + [insert_failed, drop, early_drop] + [0xFFFF] * 5
    return " ".join(f"{number:08x}" for number in numbers) + "\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """/proc of a machine with two processors that tracks 10 of at most 100 connections."""
    (tmp_path / "sys/net/netfilter").mkdir(parents=True)
    (tmp_path / "net/stat").mkdir(parents=True)
    track(tmp_path, 10, 100)
    (tmp_path / "net/stat/nf_conntrack").write_text(HEAD + row() + row())
    return tmp_path


def track(proc: Path, entries: int, limit: int) -> None:
    (proc / "sys/net/netfilter/nf_conntrack_count").write_text(f"{entries}\n")
    (proc / "sys/net/netfilter/nf_conntrack_max").write_text(f"{limit}\n")


def monitor_of(proc: Path, **options: Any) -> ConntrackMonitor:
    return ConntrackMonitor("conntrack", msgspec.convert(options, ConntrackOptions), Host(proc=proc))


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded; netlink(7)."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, body: bytes, resource: int = 0) -> bytes:
    """One message of nfnetlink (linux/netfilter/nfnetlink.h) about IPv4."""
    content = struct.pack("!BBH", socket.AF_INET, 0, resource) + body
    return struct.pack("=IHHII", 16 + len(content), kind, flags | REQUEST, 0, 0) + content


def tracking_rule() -> bytes:
    """A table with one rule that asks for the state of all that is sent, which makes the kernel track it."""
    number = struct.Struct("!I").pack
    hook = attribute(1, number(OUTPUT_HOOK)) + attribute(2, number(0))
    chain = attribute(1, b"t\0") + attribute(3, b"c\0") + attribute(4, hook) + attribute(7, b"filter\0")
    state = attribute(1, b"ct\0") + attribute(2, attribute(1, number(1)) + attribute(2, number(0)))
    rule = attribute(1, b"t\0") + attribute(2, b"c\0") + attribute(4, attribute(1, state))
    return (
        message(BATCH_BEGIN, 0, b"", NFTABLES)
        + message(NFTABLES << 8 | 0, CREATE, attribute(1, b"t\0"))
        + message(NFTABLES << 8 | 3, CREATE, chain)
        + message(NFTABLES << 8 | 6, CREATE | APPEND | ACKNOWLEDGE, rule)
        + message(BATCH_END, 0, b"", NFTABLES)
    )


def tell_kernel(messages: bytes) -> None:
    """Send messages to nfnetlink, of which one asks for an answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(10)
        netlink.send(messages)
        (error,) = struct.unpack_from("=i", netlink.recv(65536), 16)
        if error:
            raise OSError(-error, os.strerror(-error))


@pytest.fixture
def tracking() -> Iterator[None]:
    """The test runs in a network of its own, whose kernel tracks connections."""
    with own_network():
        try:
            tell_kernel(tracking_rule())
        except OSError as error:
            give_up(error)
        yield


def connect(count: int) -> None:
    """Send a datagram to each of so many ports of this machine: so many connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(20000, 20000 + count):
            sender.sendto(b"x", ("127.0.0.1", port))


def forget_all() -> None:
    """Have the kernel forget all its connections."""
    tell_kernel(message(CTNETLINK << 8 | 2, ACKNOWLEDGE, b""))


@pytest.mark.usefixtures("tracking")
def test_real_connections_fill_the_table_and_forgetting_them_makes_room() -> None:
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    # The limit is the whole machine's and not for a test to change: its thresholds are as low as its connections few.
    percent = {"warningThreshold": 100 * 5 / limit, "criticalThreshold": 100 * 20 / limit}
    monitor = monitor_of(Path("/proc"), **percent)
    assert look(monitor).verdicts["ConntrackTableNearlyFull"].reason == "ConntrackTableHasRoom"
    connect(10)
    assert look(monitor).verdicts["ConntrackTableNearlyFull"].reason == "ConntrackTableFillingUp"
    connect(30)
    full = look(monitor)
    assert (full["ConntrackTableNearlyFull"], full["ConntrackDropping"]) == ("True", "False")
    assert full.metric("conntrack_entries") >= 30
    assert full.metric("conntrack_max") == limit
    forget_all()
    again = look(monitor)
    assert again["ConntrackTableNearlyFull"] == "False"
    assert again.metric("conntrack_entries") < 5


@pytest.mark.parametrize(
    ("entries", "status", "reason", "text"),
    [
        pytest.param(79, "False", "ConntrackTableHasRoom", "", id="room"),
        pytest.param(80, "False", "ConntrackTableFillingUp", "fuller than 80 %", id="warning"),
        pytest.param(95, "True", "ConntrackTableAlmostFull", "fuller than 95 %", id="critical"),
        pytest.param(101, "True", "ConntrackTableAlmostFull", "fuller than 95 %", id="more than the limit"),
    ],
)
def test_the_table_is_compared_with_both_thresholds_and_recovers(
    proc: Path, entries: int, status: str, reason: str, text: str
) -> None:
    monitor = monitor_of(proc)
    track(proc, entries, 100)
    seen = look(monitor)
    verdict = seen.verdicts["ConntrackTableNearlyFull"]
    assert (verdict.status, verdict.reason) == (status, reason)
    assert text in verdict.message
    assert seen.metric("conntrack_used_ratio") == entries / 100
    track(proc, 10, 100)
    assert look(monitor)["ConntrackTableNearlyFull"] == "False"


def test_a_table_without_a_limit_is_never_full(proc: Path) -> None:
    track(proc, 1000, 0)
    seen = look(monitor_of(proc))
    assert seen["ConntrackTableNearlyFull"] == "False"
    assert (seen.metric("conntrack_max"), seen.metric("conntrack_used_ratio")) == (0, 0)


@pytest.mark.parametrize("cause", ["insert_failed", "drop", "early_drop"])
def test_a_drop_on_any_processor_is_a_problem_until_no_more_come(proc: Path, cause: str) -> None:
    statistics = proc / "net/stat/nf_conntrack"
    monitor = monitor_of(proc)
    statistics.write_text(HEAD + row(**{cause: 9}) + row())
    assert look(monitor)["ConntrackDropping"] == "False", "before the first check is long ago"
    statistics.write_text(HEAD + row(**{cause: 9}) + row(**{cause: 7}))
    seen = look(monitor)
    verdict = seen.verdicts["ConntrackDropping"]
    assert (verdict.status, verdict.reason, verdict.severity) == ("True", "ConnectionsDropped", "warning")
    assert seen.metric("conntrack_drops_total", cause=cause) == 16
    assert look(monitor)["ConntrackDropping"] == "False"


def test_one_counter_that_rises_is_not_hidden_by_another_that_starts_anew(proc: Path) -> None:
    statistics = proc / "net/stat/nf_conntrack"
    monitor = monitor_of(proc)
    statistics.write_text(HEAD + row(drop=0xFFFFFFFF))
    look(monitor)
    statistics.write_text(HEAD + row(drop=0, early_drop=1))
    assert look(monitor)["ConntrackDropping"] == "True"


@pytest.mark.parametrize("head", [HEAD, OLD_HEAD])
def test_the_numbers_are_hexadecimal_and_summed(head: str) -> None:
    counted = drops(head + row(0x10, 0x20, 0x30) + row(1, 2, 3))
    assert counted == {"insert_failed": 0x11, "drop": 0x22, "early_drop": 0x33}


def test_a_kernel_without_connection_tracking_loses_nothing(tmp_path: Path) -> None:
    seen = look(monitor_of(tmp_path))
    assert {verdict.status for verdict in seen.verdicts.values()} == {"False"}
    assert seen.metrics == []


def test_a_kernel_that_does_not_count_drops_is_unknown_and_its_table_is_not(proc: Path) -> None:
    (proc / "net/stat/nf_conntrack").unlink()
    seen = look(monitor_of(proc))
    verdict = seen.verdicts["ConntrackDropping"]
    assert (verdict.status, verdict.reason) == ("Unknown", "NoConntrackStatistics")
    assert "CONFIG_NF_CONNTRACK_PROCFS" in verdict.message
    assert seen["ConntrackTableNearlyFull"] == "False"


def test_a_warning_after_the_problem_is_a_fault() -> None:
    chosen = msgspec.convert({"warningThreshold": 95}, ConntrackOptions)
    assert [path for path, _ in chosen.faults()] == ["warningThreshold"]
    assert list(ConntrackOptions().faults()) == []

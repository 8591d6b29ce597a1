"""The interface monitor on real interfaces in a network namespace, and on written /sys trees for what can't be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from network_support import Inside, ip, network_namespace
from tests_support import eventually

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from nodedoctor.types import Metric
from workers.monitors.network.interface import InterfaceMonitor, InterfaceOptions

Start = Callable[..., Inside]


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with both ends of one cable, both up."""
    with network_namespace() as name:
        ip("link", "add", "name", "near", "type", "veth", "peer", "name", "far", namespace=name)
        for end in ("near", "far"):
            ip("link", "set", end, "up", namespace=name)
        eventually("the cable works", lambda: "state UP" in ip("link", "show", "near", namespace=name))
        yield name


@pytest.fixture
def inside(namespace: str) -> Iterator[Start]:
    """Starts monitors in the namespace."""
    with ExitStack() as stack:

        def start(**options: Any) -> Inside:
            monitor = Inside(namespace, "interface-health-check", **options)
            stack.callback(monitor.close)
            return monitor

        yield start


def test_a_cable_that_is_pulled_is_told_and_comes_back(namespace: str, inside: Start) -> None:
    monitor = inside(interfaces=["near"])
    assert monitor.bad("InterfaceDown") == []
    ip("link", "set", "far", "down", namespace=namespace)
    eventually(
        "it is down", lambda: monitor.bad("InterfaceDown") in (["near is lowerlayerdown"], ["near is down"])
    )
    ip("link", "set", "far", "up", namespace=namespace)
    eventually("it is up", lambda: monitor.bad("InterfaceDown") == [])


def test_an_interface_that_nobody_set_up_or_that_is_gone_is_down(namespace: str, inside: Start) -> None:
    monitor = inside(interfaces=["near", "c*"])
    assert monitor.bad("InterfaceDown") == ["there is no interface c*"]
    ip("link", "set", "near", "down", namespace=namespace)
    assert monitor.bad("InterfaceDown") == ["there is no interface c*", "near is not set up"]
    ip("link", "del", "near", namespace=namespace)
    assert monitor.bad("InterfaceDown") == ["there is no interface near", "there is no interface c*"]


def test_interfaces_without_a_device_are_not_looked_at_by_default(inside: Start) -> None:
    seen = inside().check()
    assert [finding["bad"] for finding in seen["findings"]] == [False] * 6
    assert seen["metrics"] == []


def test_a_carrier_that_comes_and_goes_is_flapping_until_its_time_is_over(
    namespace: str, inside: Start
) -> None:
    monitor = inside(interfaces=["near"], flapCount=4, flapWithin="3s")
    assert monitor.bad("InterfaceFlapping") == []
    for state in ("down", "up", "down", "up"):
        ip("link", "set", "far", state, namespace=namespace)
        wanted = "state UP" if state == "up" else "NO-CARRIER"
        eventually(
            f"near has noticed {state}",
            lambda wanted=wanted: wanted in ip("link", "show", "near", namespace=namespace),
        )
    assert monitor.bad("InterfaceFlapping") == ["near lost or found its carrier 4 times within 3s"]
    eventually("it is stable again", lambda: monitor.bad("InterfaceFlapping") == [])


def test_another_mtu_than_expected_is_told(namespace: str, inside: Start) -> None:
    monitor = inside(interfaces=["near"], mtu=1500)
    assert monitor.bad("InterfaceMTUWrong") == []
    ip("link", "set", "near", "mtu", "1400", namespace=namespace)
    assert monitor.bad("InterfaceMTUWrong") == ["near has an MTU of 1400, expected 1500"]
    ip("link", "set", "near", "mtu", "1500", namespace=namespace)
    assert monitor.bad("InterfaceMTUWrong") == []


def test_a_link_below_its_speed_is_told(inside: Start) -> None:
    # The speed that veth pretends to have.
    assert inside(interfaces=["near"], minimumSpeed=10_000).bad("InterfaceSlow") == []
    slow = inside(interfaces=["near"], minimumSpeed=25_000)
    assert slow.bad("InterfaceSlow") == ["near runs at 10000 Mbit/s, expected at least 25000"]


class Tree:
    """A written /sys/class/net."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        (folder / "class/net").mkdir(parents=True)
        (folder / "class/net/bonding_masters").write_text("bond0\n")

    def add(self, name: str, *, device: bool = True, **attributes: object) -> Path:
        """An interface."""
        path = self.root / "class/net" / name
        (path / "statistics").mkdir(parents=True)
        if device:
            (path / "device").mkdir()
        for key, value in {
            "flags": "0x1003",
            "operstate": "up",
            "carrier": 1,
            "mtu": 1500,
            **attributes,
        }.items():
            (path / key).write_text(f"{value}\n")
        return path

    def monitor(self, **options: Any) -> InterfaceMonitor:
        """A monitor of it."""
        return InterfaceMonitor("i", InterfaceOptions(**options), Host(sys=self.root))


def bad(monitor: InterfaceMonitor, condition: str) -> list[str]:
    """What is bad of a condition."""
    return [i.message for i in monitor.check() if isinstance(i, Finding) and i.type == condition and i.bad]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A machine with nothing in it yet."""
    return Tree(tmp_path)


def test_packets_that_fail_are_told_by_their_rate(tree: Tree) -> None:
    statistics = tree.add("eth0") / "statistics"
    (statistics / "rx_errors").write_text("1000000\n")
    monitor = tree.monitor()
    assert bad(monitor, "InterfaceErrors") == []
    (statistics / "rx_errors").write_text("1005000\n")
    assert bad(monitor, "InterfaceErrors") == ["eth0 has more than 10 rx errors a second"]
    assert bad(monitor, "InterfaceErrors") == []
    (statistics / "tx_dropped").write_text("99999999\n")
    assert bad(monitor, "InterfaceErrors") == ["eth0 has more than 1000 tx dropped a second"]


def test_half_duplex_is_slow_and_a_link_that_is_down_is_not(tree: Tree) -> None:
    path = tree.add("eth0", speed=100, duplex="half")
    assert bad(tree.monitor(), "InterfaceSlow") == ["eth0 runs at half duplex"]
    (path / "operstate").write_text("down\n")
    (path / "speed").write_text("-1\n")
    assert bad(tree.monitor(minimum_speed=1000), "InterfaceSlow") == []


def test_a_bond_without_one_of_its_slaves_is_degraded(tree: Tree) -> None:
    bond = tree.add("bond0", device=False)
    (bond / "bonding").mkdir()
    (bond / "bonding/slaves").write_text("eth0 eth1\n")
    for slave, status in (("eth0", "up"), ("eth1", "down")):
        (bond / f"lower_{slave}/bonding_slave").mkdir(parents=True)
        (bond / f"lower_{slave}/bonding_slave/mii_status").write_text(f"{status}\n")
    monitor = tree.monitor(interfaces=("bond0",))
    assert bad(monitor, "BondDegraded") == ["eth1 of bond0 is down"]
    (bond / "lower_eth1/bonding_slave/mii_status").write_text("up\n")
    assert bad(monitor, "BondDegraded") == []


def test_a_driver_that_tells_no_state_is_up_and_a_port_that_nobody_uses_is_not_looked_at(tree: Tree) -> None:
    tree.add("eth0", operstate="unknown")
    tree.add("eth1", operstate="down", flags="0x1002")
    monitor = tree.monitor()
    assert bad(monitor, "InterfaceDown") == []
    names = {item.labels["interface"] for item in monitor.check() if isinstance(item, Metric)}
    assert names == {"eth0"}


def test_without_any_interface_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(Undetermined, match="shows no interfaces"):
        list(InterfaceMonitor("i", InterfaceOptions(), Host(sys=tmp_path)).check())


def test_a_time_in_which_nothing_can_happen_is_a_fault() -> None:
    assert [option for option, _ in InterfaceOptions(flap_within="0s").faults()] == ["flapWithin"]

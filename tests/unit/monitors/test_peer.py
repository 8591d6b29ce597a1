"""The monitor of peers: other nodes on the far side of a cable, and a real HTTP server that lists them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Pair, Seen, entered, gateway_and_node, ip, look, nft

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.types import ConditionStatus
from workers.monitors.network.peer.monitor import PeerMonitor, chosen, named
from workers.monitors.network.peer.nodes import Nodes
from workers.monitors.network.peer.options import PeerOptions
from workers.monitors.network.peer.probe import Peer
from workers.ping import echo

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
FIVE = tuple(f"10.77.0.{last}" for last in range(11, 16))
QUICK = "400ms"


def monitor(kubeconfig: Path | str = "", **options: Any) -> PeerMonitor:
    made = msgspec.convert({"probeTimeout": QUICK, **options}, PeerOptions)
    assert list(made.faults()) == []
    return PeerMonitor("peers", made, Host(kubeconfig=str(kubeconfig)), {"NODE_NAME": "me"})


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A node, in whose network this thread is, and five peers on the other side."""
    with gateway_and_node() as made:
        for address in FIVE:
            ip("address", "add", f"{address}/24", "dev", "wire", namespace=made.gateway)
        with entered(made.node):
            yield made


@contextlib.contextmanager
def silent(pair: Pair, *addresses: str) -> Iterator[None]:
    """Nothing that is sent to these peers arrives."""
    drop = f"ip daddr {{ {', '.join(addresses)} }} drop;"
    nft(f"table ip t {{ chain c {{ type filter hook input priority 0; {drop} }}; }}", pair.gateway)
    yield
    nft("delete table ip t", pair.gateway)


def told(seen: Seen) -> dict[str, tuple[str, str, str]]:
    return {kind: (v.status.value, v.reason, v.message) for kind, v in seen.verdicts.items()}


FINE = {"NetworkPartition": ("False", "NetworkWhole", ""), "PeerUnreachable": ("False", "PeersReachable", "")}


@pytest.mark.parametrize("method", ["tcp", "icmp"])
def test_one_peer_that_is_down_is_named_and_most_are_a_partition_until_all_are_back(
    pair: Pair, method: str
) -> None:
    look_there = monitor(peers=FIVE, method=method)
    assert told(look(look_there)) == FINE
    port = ":10250" if method == "tcp" else ""
    with silent(pair, FIVE[2]):
        seen = look(look_there)
    assert told(seen) == {
        "NetworkPartition": FINE["NetworkPartition"],
        "PeerUnreachable": ("True", "NoAnswer", f"no answer by {method.upper()} from {FIVE[2]}{port}"),
    }
    assert [seen.metric("peer_up", peer=peer) for peer in FIVE] == [1, 1, 0, 1, 1]
    assert seen.metric("peer_rtt_seconds", peer=FIVE[2]) is None
    assert 0 < (seen.metric("peer_rtt_seconds", peer=FIVE[0]) or 0) < 0.4
    assert (seen.metric("peers"), seen.metric("peers_reachable")) == (5, 4)
    with silent(pair, *FIVE[:3]):
        seen = look(look_there)
    assert told(seen)["NetworkPartition"] == (
        "True", "MostPeersUnreachable",
        f"more than 50 % of this node's peers do not answer by {method.upper()}",
    )  # fmt: skip
    assert told(seen)["PeerUnreachable"][:2] == ("Unknown", "Partitioned")
    assert told(look(look_there)) == FINE


def test_half_of_the_peers_is_no_partition_where_more_than_half_is(pair: Pair) -> None:
    with silent(pair, *FIVE[:2]):
        seen = look(monitor(peers=FIVE[:4]))
        assert seen["NetworkPartition"] == FALSE
        assert seen["PeerUnreachable"] == TRUE
        assert look(monitor(peers=FIVE[:4], partitionThreshold=49))["NetworkPartition"] == TRUE


def test_two_peers_that_are_down_are_too_few_for_a_partition(pair: Pair) -> None:
    with silent(pair, *FIVE):
        assert look(monitor(peers=FIVE[:2]))["NetworkPartition"] == FALSE
        assert look(monitor(peers=FIVE[:2]))["PeerUnreachable"] == TRUE
        assert look(monitor(peers=FIVE[:2], partitionMinimum=2))["NetworkPartition"] == TRUE


def test_a_port_that_refuses_is_reachable_as_one_that_accepts(pair: Pair) -> None:
    with entered(pair.gateway):
        server = socket.create_server((FIVE[0], 10250))
    with closing(server):
        seen = look(monitor(peers=[FIVE[0], f"{FIVE[0]}:1"]))
    assert told(seen) == FINE
    assert seen.metric("peers_reachable") == 2


def test_a_port_that_is_filtered_is_told_and_others_of_the_machine_are_not(pair: Pair) -> None:
    drop = "table ip t { chain c { type filter hook input priority 0; tcp dport 99 drop; }; }"
    nft(drop, pair.gateway)
    seen = look(monitor(peers=[f"{FIVE[0]}:99", FIVE[0]]))
    assert told(seen)["PeerUnreachable"] == ("True", "NoAnswer", f"no answer by TCP from {FIVE[0]}:99")
    nft("delete table ip t", pair.gateway)
    assert told(look(monitor(peers=[f"{FIVE[0]}:99", FIVE[0]]))) == FINE


@pytest.mark.parametrize("method", ["tcp", "icmp"])
def test_ipv6_peers_are_probed(pair: Pair, method: str) -> None:
    seen = look(monitor(peers=["fd77::1", "fd77::9"], method=method))
    where = "[fd77::9]:10250" if method == "tcp" else "fd77::9"
    assert told(seen)["PeerUnreachable"][2] == f"no answer by {method.upper()} from {where}"
    assert seen.metric("peer_up", peer="fd77::1") == 1


def test_a_peer_without_a_route_is_told_as_such_until_there_is_one(pair: Pair) -> None:
    ip("route", "add", "unreachable", FIVE[0], namespace=pair.node)
    assert told(look(monitor(peers=FIVE)))["PeerUnreachable"] == (
        "True", "NoRoute", f"no answer by TCP from {FIVE[0]}:10250",
    )  # fmt: skip
    ip("route", "del", "unreachable", FIVE[0], namespace=pair.node)
    assert told(look(monitor(peers=FIVE))) == FINE


def test_a_firewall_of_this_node_is_not_the_peers_fault(pair: Pair) -> None:
    ip("route", "add", "prohibit", FIVE[0], namespace=pair.node)
    assert told(look(monitor(peers=FIVE[:1])))["PeerUnreachable"] == (
        "Unknown", "NotProbed", f"{FIVE[0]}:10250 can't be probed: Permission denied",
    )  # fmt: skip
    assert look(monitor(peers=FIVE[:1]))["NetworkPartition"] == UNKNOWN


def test_a_name_that_is_not_resolved_says_nothing_of_its_peer(pair: Pair) -> None:
    seen = look(monitor(peers=["nosuch.invalid", *FIVE[:2]]))
    assert told(seen)["NetworkPartition"] == FINE["NetworkPartition"]
    status, reason, message = told(seen)["PeerUnreachable"]
    assert (status, reason) == ("Unknown", "NameNotResolved")
    assert message.startswith("the name nosuch.invalid can't be resolved")
    assert seen.metric("peer_up", peer="nosuch.invalid") is None


def test_this_node_is_no_peer_of_its_own(pair: Pair) -> None:
    seen = look(monitor(peers=[FIVE[0], pair.node_v4, pair.node_v6, "me"]))
    assert seen.metric("peers") == 1


def test_echoes_at_the_same_time_are_not_mixed_up(pair: Pair) -> None:
    """Parallel pings with shared ids took each other's replies in an agent of this kind."""
    with silent(pair, *FIVE[:2]):

        async def all_at_once() -> list[float]:
            found = await asyncio.gather(*(echo(address, 3, 0.3) for address in FIVE for _ in range(8)))
            return [one.loss for one in found]

        assert asyncio.run(all_at_once()) == [1.0] * 16 + [0.0] * 24


def test_all_peers_together_take_no_longer_than_one(pair: Pair) -> None:
    dead = [f"10.77.0.{last}" for last in range(100, 164)]
    began = time.monotonic()
    seen = look(monitor(peers=dead, maxPeers=64, method="icmp", probeTimeout="500ms"))
    assert seen["NetworkPartition"] == TRUE
    assert time.monotonic() - began < 64 * 0.5 / 4


def test_without_the_right_to_send_echoes_it_says_what_it_takes(pair: Pair) -> None:
    """In a process of its own, which may not: neither the capability nor the group."""
    code = (
        "import asyncio; from workers.ping import echo\n"
        "try: asyncio.run(echo('127.0.0.1', 1, 1))\n"
        "except PermissionError as error: print(error)"
    )
    command = ["ip", "netns", "exec", pair.node, "setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    words = [*command, "--reuid", "65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.stdout.strip() == (
        "ICMP echoes may not be sent: it takes CAP_NET_RAW, or a group within net.ipv4.ping_group_range"
    )


# The cluster's nodes


class API(BaseHTTPRequestHandler):
    """Lists nodes as the API server does, in the form that was asked for, or fails in a way."""

    def do_GET(self) -> None:
        double: Double = self.server.double  # type: ignore[attr-defined]
        double.asked.append((self.path, self.headers.get("Authorization", "")))
        if double.hangs:
            double.ended.wait(20)
            return
        body = double.body if double.body is not None else double.table()
        self.send_response(double.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - it is called so
        """Be silent."""


class Double:
    """The part of an API server that lists nodes."""

    def __init__(self, folder: Path) -> None:
        self.nodes = {f"node-{last}": f"10.77.0.{last}" for last in range(11, 16)} | {"me": "10.77.0.99"}
        self.status, self.hangs = 200, False
        self.body: bytes | None = None
        self.ended = threading.Event()
        self.asked: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), API)
        self.server.double = self  # type: ignore[attr-defined]
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.kubeconfig = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self.server.server_port}"}
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )

    def table(self) -> bytes:
        names = ("Name", "Status", "Roles", "Age", "Version", "Internal-IP", "External-IP")
        columns = [
            {"name": n, "type": "string", "format": "", "description": "", "priority": 0} for n in names
        ]
        rows = [
            {"cells": [name, "Ready", "<none>", "5d", "v1.31.0", where, "<none>"], "object": {"kind": "x"}}
            for name, where in self.nodes.items()
        ]
        table = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": columns, "rows": rows}
        return json.dumps(table).encode()

    def end(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def api(pair: Pair, tmp_path: Path) -> Iterator[Double]:
    """A server on this node."""
    double = Double(tmp_path)
    yield double
    double.end()


def in_cluster(api: Double, **options: Any) -> PeerMonitor:
    return monitor(api.kubeconfig, requestTimeout="300ms", **options)


def names(seen: Seen) -> list[str]:
    return sorted(m.labels["peer"] for m in seen.metrics if m.name == "peer_up")


def test_the_other_nodes_of_the_cluster_are_the_peers(pair: Pair, api: Double) -> None:
    look_there = in_cluster(api)
    seen = look(look_there)
    assert told(seen) == FINE
    assert names(seen) == [f"node-{last}" for last in range(11, 16)]
    with silent(pair, FIVE[1]):
        assert told(look(look_there))["PeerUnreachable"][2] == (
            "no answer by TCP from node-12 (10.77.0.12:10250)"
        )
    assert api.asked == [("/api/v1/nodes?resourceVersion=0", "Bearer secret")]


def test_whole_objects_are_understood_too(api: Double) -> None:
    statuses = {"a": [("Hostname", "a"), ("InternalIP", FIVE[0])], "b": [("Hostname", "b")]}
    items = [
        {
            "metadata": {"name": name, "labels": {}},
            "status": {"addresses": [{"type": kind, "address": where} for kind, where in found]},
        }
        for name, found in statuses.items()
    ]
    api.body = json.dumps({"kind": "NodeList", "apiVersion": "v1", "items": items}).encode()
    assert names(look(in_cluster(api))) == ["a"]


def hang(api: Double) -> None:
    api.hangs = True


def answer(status: int, body: bytes = b"{}") -> Callable[[Double], None]:
    def fail(api: Double) -> None:
        api.status, api.body = status, body

    return fail


FAILURES = [
    pytest.param(answer(403), "NodesForbidden", "the verb list on the resource nodes", id="forbidden"),
    pytest.param(answer(401), "CredentialsRejected", "see its token", id="not known"),
    pytest.param(answer(500), "NodesUnknown", "answers 500 when asked", id="broken"),
    pytest.param(answer(200, b"<html>"), "NodesUnknown", "no list of nodes", id="no API"),
    pytest.param(answer(200, b'{"kind": "Table"}'), "NodesUnknown", "no list of nodes", id="no columns"),
    pytest.param(hang, "NodesUnknown", "no whole answer within 300ms", id="hanging"),
]


@pytest.mark.parametrize(("fail", "reason", "text"), FAILURES)
def test_without_a_list_of_nodes_it_says_why_and_with_an_older_one_it_goes_on(
    api: Double, fail: Callable[[Double], None], reason: str, text: str
) -> None:
    knowing, fresh = in_cluster(api), in_cluster(api)
    assert told(look(knowing)) == FINE
    fail(api)
    with pytest.raises(Undetermined, match=text) as caught:
        look(fresh)
    assert caught.value.reason == reason
    knowing.nodes.due = 0.0
    asked = len(api.asked)
    seen = look(knowing)
    assert len(api.asked) == asked + 1
    assert len(names(seen)) == 5
    assert told(seen) == FINE


def test_a_server_that_failed_is_asked_again_and_then_the_peers_are_known(api: Double) -> None:
    api.status = 500
    look_there = in_cluster(api)
    for _ in range(3):
        with pytest.raises(Undetermined):
            look(look_there)
    assert len(api.asked) == 1
    api.status, look_there.nodes.due = 200, 0.0
    assert told(look(look_there)) == FINE


def test_a_node_that_was_deleted_is_no_peer_any_more(pair: Pair, api: Double) -> None:
    look_there = in_cluster(api)
    with silent(pair, FIVE[0]):
        assert look(look_there)["PeerUnreachable"] == TRUE
        del api.nodes["node-11"]
        look_there.nodes.due = 0.0
        seen = look(look_there)
    assert told(seen) == FINE
    assert names(seen) == [f"node-{last}" for last in range(12, 16)]
    assert seen.metric("peers") == 4


def test_a_cluster_of_one_node_has_no_peers(api: Double) -> None:
    api.nodes = {"me": "10.77.0.99"}
    with pytest.raises(Undetermined, match="no other node") as caught:
        look(in_cluster(api))
    assert caught.value.reason == "NoPeers"


def test_without_peers_and_without_a_cluster_there_is_nothing_to_say() -> None:
    with pytest.raises(Undetermined, match="no peers are configured") as caught:
        look(monitor())
    assert caught.value.reason == "NoPeers"


def test_a_kubeconfig_that_is_not_there_is_not_taken_for_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(Undetermined) as caught:
        look(monitor(tmp_path / "none"))
    assert caught.value.reason == "KubeconfigUnusable"


def test_refreshes_and_retries_are_spread_and_get_rarer() -> None:
    def fail() -> dict[str, str]:
        raise Undetermined("no", "No")

    def pauses(nodes: Nodes, times: int) -> list[float]:
        found = []
        for _ in range(times):
            nodes.renew()
            found.append(nodes.due - time.monotonic())
        return found

    expected = [30, 60, 120, 240, 480, 600, 600]
    for pause, middle in zip(pauses(Nodes(fail, 600), 7), expected, strict=True):
        assert 0.79 * middle < pause < 1.21 * middle
    good = pauses(Nodes(dict, 600), 20)
    assert all(479 < pause < 721 for pause in good)
    assert len({round(pause) for pause in good}) > 5


# Who is chosen


def cluster(size: int) -> list[Peer]:
    return [Peer(f"node-{number}", f"10.0.{number // 250}.{number % 250 + 1}") for number in range(size)]


def test_a_node_keeps_to_its_peers_while_others_come_and_go() -> None:
    before = chosen("me", cluster(1000), 10)
    assert before == chosen("me", reversed(cluster(1000)), 10) == sorted(before)
    assert len(before) == 10
    left = [peer for peer in cluster(1000) if peer != before[0]]
    assert len(set(before) & set(chosen("me", left, 10))) == 9
    assert len(set(before) & set(chosen("me", cluster(1010), 10))) >= 8


def test_the_probes_of_a_cluster_are_spread_over_all_its_nodes() -> None:
    nodes = cluster(300)
    probed = [peer.name for own in nodes for peer in chosen(own.name, nodes, 10)]
    assert len(probed) == 3000
    assert len(set(probed)) == 300
    assert max(probed.count(name) for name in set(probed)) < 30


def test_at_most_five_names_are_told_in_a_stable_order() -> None:
    assert named(["c", "a", "b"]) == "a, b, c"
    assert named("edcba") == "a, b, c, d, e"
    assert named("gfedcbah") == "a, b, c, d, e and 3 more"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        pytest.param({"peers": ["a:b"]}, "peers[0]", id="no port"),
        pytest.param({"peers": ["http://a"]}, "peers[0]", id="a URL"),
        pytest.param({"peers": ["10.0.0.1:0"]}, "peers[0]", id="port 0"),
        pytest.param({"peers": ["a:1"], "method": "icmp"}, "peers[0]", id="a port for ICMP"),
        pytest.param({"peers": ["a", "a"]}, "peers", id="twice"),
        pytest.param({"partitionMinimum": 11}, "partitionMinimum", id="never a partition"),
        pytest.param({"probeTimeout": "11s"}, "probeTimeout", id="slower than the monitor"),
        pytest.param({"requestTimeout": "0s"}, "requestTimeout", id="no time"),
        pytest.param({"refreshInterval": "59s"}, "refreshInterval", id="too often"),
    ],
)
def test_options_that_can_not_work_are_faults(options: dict[str, Any], fault: str) -> None:
    assert [path for path, _ in msgspec.convert(options, PeerOptions).faults()] == [fault]


def test_all_forms_of_a_peer_are_allowed() -> None:
    peers = ["a", "a.b:1", "10.0.0.1", "10.0.0.1:1", "fd00::1", "[fd00::1]:1"]
    assert list(msgspec.convert({"peers": peers}, PeerOptions).faults()) == []


def test_only_echoes_take_a_capability() -> None:
    assert PeerMonitor.capabilities_of(PeerOptions()) == ()
    assert PeerMonitor.capabilities_of(PeerOptions(method="icmp")) == ("CAP_NET_RAW",)


def test_no_descriptor_is_left_open(pair: Pair) -> None:
    peers = [*FIVE, "10.77.0.200"]
    for method in ("tcp", "icmp"):
        look(monitor(peers=peers, method=method))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for method in ("tcp", "icmp"):
        look(monitor(peers=peers, method=method))
    assert len(list(Path("/proc/self/fd").iterdir())) == before

"""Whether this node reaches others: a single one that is gone, told apart from a network that is torn."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation
from nodedoctor.types import Severity
from workers.kubernetes import ACCOUNT, found
from workers.monitors.network.peer.nodes import Nodes, listed
from workers.monitors.network.peer.options import PeerOptions, place
from workers.monitors.network.peer.probe import Peer, Result, probe_all

PARTITION = ConditionType("NetworkPartition", reason="MostPeersUnreachable", ok_reason="NetworkWhole")
UNREACHABLE = ConditionType(
    "PeerUnreachable",
    reason="NoAnswer",
    ok_reason="PeersReachable",
    severity=Severity.WARNING,
    reasons=("NoAnswer", "NoRoute"),
    unknown_is_found=True,
)
UP = Gauge("peer_up", "1 if the peer was reached", ("peer",))
RTT = Gauge("peer_rtt_seconds", "Time until the peer answered", ("peer",))
PEERS = Gauge("peers", "Peers that are probed")
REACHABLE = Gauge("peers_reachable", "Peers that were reached")
MOST_NAMES = 5


class PeerMonitor(Monitor[PeerOptions]):
    """Probes other nodes by TCP, as connect(2) tells of it, or by ICMP echoes.

    Each node takes those with the lowest hash of its own and their name (rendezvous hashing): a node that comes or
    goes changes nothing else, and each is probed by about as many as it probes.
    """

    kind, options_type = "peer-health-check", PeerOptions
    conditions = (PARTITION, UNREACHABLE)
    metrics = (UP, RTT, PEERS, REACHABLE)
    capabilities = ("CAP_NET_RAW",)
    # The cluster is asked, then all peers are probed at once: 10 seconds at most for each.
    timeout = 30.0

    def __init__(
        self,
        name: str,
        options: PeerOptions,
        host: Host | None = None,
        environment: Mapping[str, str] = os.environ,
        account: Path = ACCOUNT,
    ) -> None:
        super().__init__(name, options, host)
        self.environment = environment
        self.account = account
        self.own = environment.get("NODE_NAME") or socket.gethostname()
        self.nodes = Nodes(self.ask, seconds(options.refresh_interval))

    @classmethod
    def capabilities_of(cls, options: PeerOptions) -> tuple[str, ...]:
        """Connections take none."""
        return cls.capabilities if options.method == "icmp" else ()

    def check(self) -> Iterator[Observation]:
        """Probe each of them once."""
        peers = chosen(self.own, self.others(), self.options.max_peers)
        if not peers:
            raise Undetermined("there is no other node to probe", "NoPeers")
        results = asyncio.run(probe_all(peers, seconds(self.options.probe_timeout)))
        found = dict(zip(peers, results, strict=True))
        yield PEERS(len(found))
        yield REACHABLE(sum(result.reachable is True for result in results))
        for peer, result in found.items():
            if result.reachable is not None:
                yield UP(float(result.reachable), peer=peer.name)
            if result.reachable:
                yield RTT(result.rtt, peer=peer.name)
        yield from self.judge(found)

    def others(self) -> list[Peer]:
        """All that could be probed: who is configured, else the cluster's nodes, without this one."""
        default = self.options.port if self.options.method == "tcp" else 0
        if self.options.peers:
            places = [(text, *place(text)) for text in self.options.peers]
        else:
            places = [(name, address, 0) for name, address in self.nodes.current().items()]
        mine = own_addresses() | {self.own}
        return [Peer(name, host, port or default) for name, host, port in places if not mine & {name, host}]

    def ask(self) -> dict[str, str]:
        """The cluster's nodes.

        Raises:
            Undetermined, OSError: they can't be found out.
        """
        try:
            who = found(self.host.kubeconfig, self.environment, self.account)
        except Undetermined as error:
            if error.reason != "NoCluster":
                raise
            raise Undetermined("no peers are configured, and this is no cluster", "NoPeers") from error
        return listed(who, self.options.request_timeout)

    def judge(self, found: Mapping[Peer, Result]) -> Iterator[Finding]:
        """What the results mean, taken together."""
        known = {peer: result for peer, result in found.items() if result.reachable is not None}
        down = {peer: result for peer, result in known.items() if not result.reachable}
        limit = self.options.partition_threshold
        torn = len(known) >= self.options.partition_minimum and len(down) * 100 > limit * len(known)
        way = self.options.method.upper()
        unknown = sorted({(r.message, r.reason) for r in found.values() if r.reachable is None})
        for message, reason in unknown:
            yield UNREACHABLE.unknown(message, reason)
        if not known:
            yield PARTITION.unknown(*unknown[0])
            return
        yield PARTITION.when(torn, f"more than {limit:g} % of this node's peers do not answer by {way}")
        if torn:
            yield UNREACHABLE.unknown("most peers do not answer: see NetworkPartition", "Partitioned")
            return
        reasons = {result.reason for result in down.values()}
        text = f"no answer by {way} from {named(peer.shown for peer in down)}"
        yield UNREACHABLE.when(bool(down), text, reasons.pop() if len(reasons) == 1 else "")


def chosen(own: str, peers: Iterable[Peer], most: int) -> list[Peer]:
    """At most so many of `peers`, by name: the same each time, and others for each `own`."""

    def weight(peer: Peer) -> bytes:
        return hashlib.sha256(f"{own}\0{peer.name}".encode()).digest()

    return sorted(sorted(peers, key=weight)[:most])


def named(names: Iterable[str]) -> str:
    """Some names, in a stable order, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - MOST_NAMES
    return ", ".join(ordered[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def own_addresses() -> set[str]:
    """All addresses of this machine."""
    return {
        entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries
    }

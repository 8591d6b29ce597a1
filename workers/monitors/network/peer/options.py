"""What peers are, and what is expected of them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options

LONGEST_WAIT = 10.0
"""Seconds for the list of nodes, and for probes: both have to fit into the monitor's timeout."""


class PeerOptions(Options, frozen=True):
    """Who the peers are, how they are probed, and how many may be unreachable."""

    peers: Annotated[tuple[str, ...], Meta(max_length=5000)] = ()
    """HOST, HOST:PORT, ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. Empty: the other nodes of the cluster, which takes the verb
    `list` on `nodes`."""
    max_peers: Annotated[int, Meta(ge=1, le=64)] = 10
    """So many are probed. Each node chooses others, and keeps to them."""
    method: Literal["tcp", "icmp"] = "tcp"
    """`tcp` connects, and is content with being refused: a machine did that. `icmp` asks for two echoes."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 10250
    """Where `tcp` connects to, if a peer has no port of its own; the default is the kubelet's."""
    probe_timeout: Duration = "3s"
    """For one peer, its name included; all are probed at once. At most 10s."""
    partition_threshold: Annotated[float, Meta(ge=0, lt=100)] = 50
    """More percent of the peers that are unreachable are a partition of the network."""
    partition_minimum: Annotated[int, Meta(ge=2)] = 3
    """Fewer peers than these tell nothing of a partition."""
    refresh_interval: Duration = "10m"
    """How often the cluster is asked for its nodes, give or take a fifth. At least 1m."""
    request_timeout: Duration = "5s"
    """For the cluster's answer. At most 10s."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Peers that are none, and times that do not fit."""
        for index, text in enumerate(self.peers):
            try:
                _, port = place(text)
            except ValueError as error:
                yield f"peers[{index}]", f"found {text!r}: {error}"
                continue
            if port and self.method == "icmp":
                yield f"peers[{index}]", f"found {text!r}: ICMP has no ports"
        if len(set(self.peers)) < len(self.peers):
            yield "peers", "holds a peer twice"
        if self.partition_minimum > self.max_peers:
            yield "partitionMinimum", f"must not be above maxPeers ({self.max_peers})"
        for name, value in (("probeTimeout", self.probe_timeout), ("requestTimeout", self.request_timeout)):
            if not 0 < seconds(value) <= LONGEST_WAIT:
                yield name, f"found {value!r}, allowed: more than 0, at most {LONGEST_WAIT:g}s"
        if seconds(self.refresh_interval) < 60:
            yield "refreshInterval", f"found {self.refresh_interval!r}, allowed: 1m or more"


def place(text: str) -> tuple[str, int]:
    """Host and port of a configured peer; the port is 0 if there is none.

    Raises:
        ValueError: it has no such parts.
    """
    try:
        return str(ip_address(text)), 0
    except ValueError:
        parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0 or parts.netloc != text or "@" in text or text.endswith(":"):
        raise ValueError("allowed: HOST, HOST:PORT, ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
    parts.hostname.encode("idna")
    return parts.hostname, parts.port or 0

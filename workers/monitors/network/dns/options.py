"""Which nameservers are asked for which names, and what is too slow or fails too often."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated

import dns.exception
import dns.name
from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options, Percent

Names = Annotated[tuple[str, ...], Meta(max_length=8)]
Servers = Annotated[tuple[str, ...], Meta(max_length=8)]


class DnsOptions(Options, frozen=True):
    """Nothing that is set by default makes anybody ask beyond the nameservers themselves."""

    external_names: Names = ()
    """Whole names that the node must be able to resolve, whatever its search list. Without any, the nameservers are
    asked for localhost, not recursively: whether they answer is seen, and nothing goes to the internet."""
    cluster_names: Names = ("kubernetes.default.svc",)
    """Names that the cluster's DNS must resolve; the cluster's domain is added to those that neither have it nor end
    in a dot. Without any, there is no condition ClusterDNSUnhealthy: for networks where services can't be reached
    from the node itself."""
    nameservers: Servers = ()
    """Addresses to ask instead of the nameservers in resolvConf."""
    cluster_dns: Servers = ()
    """Addresses of the cluster's DNS; by default the kubelet's clusterDNS, else the nameservers in resolvConf if its
    search list is a pod's."""
    cluster_domain: str = ""
    """The cluster's domain; by default the kubelet's clusterDomain, else the one in such a search list."""
    resolv_conf: str = "/etc/resolv.conf"
    """The node's settings, resolv.conf(5)."""
    kubelet_config: str = "/var/lib/kubelet/config.yaml"
    """The kubelet's configuration file."""
    query_timeout: Duration = "3s"
    """The time that an answer may take, over TCP too; less if resolvConf allows less (`options timeout`)."""
    slow_threshold: Duration = "1s"
    """An answer that takes longer is slow (DNSSlow)."""
    window: Annotated[int, Meta(ge=4, le=1000)] = 30
    """The last so many queries to each nameserver are looked at together (DNSIntermittent)."""
    minimum_samples: Annotated[int, Meta(ge=4, le=1000)] = 10
    """Nothing is said of fewer."""
    intermittent_threshold: Percent = 10
    """Percent of them that fail, with answers in between, from which a nameserver is intermittent."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is no address or name, and thresholds that are never reached."""
        for option, servers in (("nameservers", self.nameservers), ("clusterDns", self.cluster_dns)):
            yield from (
                fault for i, text in enumerate(servers) for fault in address_faults(f"{option}[{i}]", text)
            )
        for option, names in (
            ("externalNames", self.external_names),
            ("clusterNames", self.cluster_names),
            ("clusterDomain", (self.cluster_domain,) if self.cluster_domain else ()),
        ):
            yield from (fault for text in names for fault in name_faults(option, text))
        if seconds(self.query_timeout) <= 0:
            yield "queryTimeout", f"found {self.query_timeout!r}, allowed: more than 0"
        if seconds(self.slow_threshold) >= seconds(self.query_timeout):
            yield "slowThreshold", f"must be below queryTimeout ({self.query_timeout})"
        if self.minimum_samples > self.window:
            yield (
                "minimumSamples",
                f"found {self.minimum_samples}, must not be more than window ({self.window})",
            )


def address_faults(option: str, text: str) -> Iterator[tuple[str, str]]:
    """A fault if `text` is no address."""
    try:
        ip_address(text)
    except ValueError:
        yield option, f"found {text!r}, allowed: an IPv4 or IPv6 address"


def name_faults(option: str, text: str) -> Iterator[tuple[str, str]]:
    """A fault if `text` is no name to ask for."""
    try:
        if dns.name.from_text(text) == dns.name.root:
            yield option, f"found {text!r}, allowed: a name"
    except (dns.exception.DNSException, UnicodeError) as error:
        yield option, f"found {text!r}: {error}"

"""What a machine is set to ask: resolv.conf(5), and the kubelet's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

import msgspec

MOST_NAMESERVERS = 3
"""MAXNS of resolv.h: the C library asks no more, and the kubelet passes no more on to pods."""
MOST_SEARCHED, LONGEST_SEARCH = 32, 2048
"""What the kubelet passes on to pods of a search list: domains, and characters of them all."""
DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 5, 30
"""Seconds; RES_TIMEOUT and RES_MAXRETRANS of resolv.h."""


class ResolvConf(msgspec.Struct, frozen=True):
    """The settings in resolv.conf(5).

    Attributes:
        nameservers: Addresses, all of them.
        unusable: What stands there instead of an address.
        search: Domains without a dot at the end.
        timeout: Seconds that an answer may take.
    """

    nameservers: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    timeout: int = DEFAULT_TIMEOUT

    @property
    def asked(self) -> tuple[str, ...]:
        """The nameservers that the C library asks."""
        return tuple(dict.fromkeys(self.nameservers[:MOST_NAMESERVERS]))

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong with it, as reason and message."""
        if not self.nameservers:
            yield "NoNameservers", "names no nameserver"
        for text in self.unusable:
            yield "InvalidNameserver", f"names a nameserver {text!r}, which is no address and is not asked"
        if len(self.nameservers) > MOST_NAMESERVERS:
            late = ", ".join(self.nameservers[MOST_NAMESERVERS:])
            yield (
                "TooManyNameservers",
                f"names more than {MOST_NAMESERVERS} nameservers: {late} is never asked",
            )
        if len(self.search) > MOST_SEARCHED or len(" ".join(self.search)) > LONGEST_SEARCH:
            limits = f"{MOST_SEARCHED} domains or {LONGEST_SEARCH} characters"
            yield (
                "SearchListTooLong",
                f"has a search list of more than {limits}: the kubelet cuts it for pods",
            )


class Cluster(msgspec.Struct, frozen=True):
    """Where the cluster's DNS is, and its domain; empty is not known."""

    servers: tuple[str, ...] = ()
    domain: str = ""

    def completed(self, other: Cluster) -> Cluster:
        """This, with what is not known from `other`."""
        return Cluster(self.servers or other.servers, self.domain or other.domain)


class Kubelet(msgspec.Struct, frozen=True):
    """The part of a kubelet's configuration (kubelet.config.k8s.io/v1beta1) that matters here."""

    servers: tuple[str, ...] = msgspec.field(name="clusterDNS", default=())
    domain: str = msgspec.field(name="clusterDomain", default="")
    resolv_conf: str = msgspec.field(name="resolvConf", default="/etc/resolv.conf")

    @property
    def cluster(self) -> Cluster:
        """The cluster's DNS, as pods are told of it."""
        return Cluster(self.servers, self.domain.strip("."))


def read_resolv_conf(text: str) -> ResolvConf:
    """The settings in `text`. Of several search lists or domains the last counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    timeout = DEFAULT_TIMEOUT
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search" | "domain", *domains]:
                search = tuple(domain.rstrip(".") for domain in domains if domain.rstrip("."))
            case ["options", *options]:
                timeout = timeout_of(options) or timeout
    good = tuple(server for server in servers if is_address(server))
    return ResolvConf(good, tuple(server for server in servers if server not in good), search, timeout)


def timeout_of(options: list[str]) -> int:
    """The seconds that the last `timeout:` of `options` says, 0 without one."""
    values = [word.removeprefix("timeout:") for word in options if word.startswith("timeout:")]
    return min(int(values[-1]), LONGEST_TIMEOUT) if values and values[-1].isdecimal() else 0


def is_address(text: str) -> bool:
    """Whether `text` is an IP address, of an interface too (fe80::1%eth0)."""
    with suppress(ValueError):
        return bool(ip_address(text))
    return False


def loopbacks(conf: ResolvConf) -> list[str]:
    """Those nameservers that would be in each pod itself, if `conf` were passed on to it."""
    return [server for server in conf.asked if ip_address(server).is_loopback]


def cluster_of_search_list(conf: ResolvConf) -> Cluster:
    """What the settings of a pod say: their search list ends a pod's own domains with svc.DOMAIN and DOMAIN."""
    for first, second in zip(conf.search, conf.search[1:], strict=False):
        if first == f"svc.{second}":
            return Cluster(conf.asked, second)
    return Cluster()


def whole_names(names: tuple[str, ...], domain: str) -> tuple[str, ...]:
    """`names`, each with the cluster's domain."""
    return tuple(name if is_whole(name, domain) else f"{name}.{domain}" for name in names)


def is_whole(name: str, domain: str) -> bool:
    """Whether the cluster's domain need not be added to `name`."""
    return name.endswith(".") or (bool(domain) and name.endswith(f".{domain}"))

"""The addresses of a name, with one deadline and errors in words that stay the same."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.resolver

HOSTS = Path("/etc/hosts")


def told(error: dns.exception.DNSException) -> str:
    """What is wrong with a name; the rest of dnspython's message changes from time to time."""
    match error:
        case dns.resolver.NXDOMAIN():
            return "it does not exist"
        case dns.resolver.NoAnswer():
            return "it has no address"
        case dns.resolver.NoResolverConfiguration():
            return "/etc/resolv.conf names no nameserver"
        case dns.resolver.NoNameservers():
            return "all nameservers fail"
        case dns.exception.Timeout():
            return "no nameserver answers"
    return type(error).__name__


async def addresses(host: str, within: float) -> list[str]:
    """The addresses of `host`: itself if it is one, else those in /etc/hosts, else those that DNS knows.

    Raises:
        DNSException: there are none.
    """
    try:
        ip_address(host)
    except ValueError:
        known = in_hosts(HOSTS.read_text(errors="replace"), host) if HOSTS.exists() else []
    else:
        known = [host]
    if known:
        return known
    resolver = dns.asyncresolver.Resolver()
    resolver.use_search_by_default = True
    # Half of the time, as dnspython takes a little more: it is to be told that the name was in the way.
    return list((await resolver.resolve_name(host, lifetime=within / 2)).addresses())


def in_hosts(text: str, host: str) -> list[str]:
    """The addresses that `text`, in the format of hosts(5), gives a name."""
    rows = (line.partition("#")[0].lower().split() for line in text.splitlines())
    return [row[0] for row in rows if host.lower() in row[1:]]

"""The DNS monitor asks real nameservers, sick in all ways, on the gateway of a node of the test's own."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from network_support import Pair, Seen, entered, gateway_and_node, give_up, ip, look
from tests_support import eventually

from nodedoctor.host import Host
from workers.monitors.network.dns.monitor import DnsMonitor, comes_and_goes
from workers.monitors.network.dns.options import DnsOptions
from workers.monitors.network.dns.settings import (
    Cluster,
    Kubelet,
    ResolvConf,
    cluster_of_search_list,
    read_resolv_conf,
    whole_names,
)

FIRST, SECOND, SIXTH = "10.77.0.1", "10.77.0.9", "fd77::1"
NAME = "registry.example"
Message = dns.message.Message
Behaviour = Callable[[Message, bool], Message | bytes | None]
"""What a nameserver says to a query that came over TCP or not."""


def found(query: Message, tcp: bool) -> Message:
    """There is an IPv4 address."""
    answer = dns.message.make_response(query)
    if query.question[0].rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1"))
    return answer


def says(code: dns.rcode.Rcode) -> Behaviour:
    """Every answer has this code."""

    def behave(query: Message, tcp: bool) -> Message:
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return answer

    return behave


def empty(query: Message, tcp: bool) -> Message:
    return dns.message.make_response(query)


def only_ipv6(query: Message, tcp: bool) -> Message:
    answer = dns.message.make_response(query)
    if query.question[0].rdtype == dns.rdatatype.AAAA:
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "AAAA", "2001:db8::1"))
    return answer


def mute(query: Message, tcp: bool) -> None:
    return None


def garbage(query: Message, tcp: bool) -> bytes:
    return b"\xff" * 7


def wrong_number(query: Message, tcp: bool) -> Message:
    answer = found(query, tcp)
    answer.id = query.id ^ 1
    return answer


def another_name(query: Message, tcp: bool) -> Message:
    other = dns.message.make_query("elsewhere.example", dns.rdatatype.A, id=query.id)
    return found(other, tcp)


def slow(query: Message, tcp: bool) -> Message:
    time.sleep(0.3)
    return found(query, tcp)


def too_late(query: Message, tcp: bool) -> Message:
    time.sleep(1.2)
    return found(query, tcp)


def truncated(query: Message, tcp: bool) -> Message:
    if tcp:
        return found(query, tcp)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.TC
    return answer


def truncated_and_mute(query: Message, tcp: bool) -> Message | None:
    return None if tcp else truncated(query, tcp)


class Nameserver:
    """A nameserver on the gateway that behaves as it is told to."""

    def __init__(self, pair: Pair, address: str) -> None:
        self.behave: Behaviour = found
        self.queries: list[Message] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with entered(pair.gateway):
            self.udp = socket.socket(family, socket.SOCK_DGRAM)
            self.udp.bind((address, 53))
            self.tcp = socket.create_server((address, 53), family=family)
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.serve_udp), threading.Thread(target=self.serve_tcp)]
        for thread in self.threads:
            thread.start()

    def answer(self, wire: bytes, tcp: bool) -> bytes:
        query = dns.message.from_wire(wire)
        self.queries.append(query)
        reply = self.behave(query, tcp)
        return reply.to_wire() if isinstance(reply, Message) else reply or b""

    def serve_udp(self) -> None:
        with suppress(OSError):
            while not self.ended.is_set():
                wire, peer = self.udp.recvfrom(65535)
                if wire and (reply := self.answer(wire, False)):
                    self.udp.sendto(reply, peer)

    def serve_tcp(self) -> None:
        with suppress(OSError):
            while True:
                with self.tcp.accept()[0] as connection:
                    wire = connection.recv(65535)
                    if reply := self.answer(wire[2:], True):
                        connection.sendall(struct.pack("!H", len(reply)) + reply)
                    else:
                        connection.recv(1)

    def close(self) -> None:
        self.ended.set()
        for sock in (self.udp, self.tcp):
            with suppress(OSError):  # an unconnected socket says that it is, and wakes all the same
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()


class Node:
    """A node whose resolv.conf names nameservers on its gateway."""

    def __init__(self, pair: Pair, folder: Path, stack: ExitStack) -> None:
        self.pair, self.folder, self.stack = pair, folder, stack
        (folder / "etc").mkdir()
        self.write("/etc/resolv.conf", f"nameserver {FIRST}\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def nameserver(self, address: str = FIRST) -> Nameserver:
        server = Nameserver(self.pair, address)
        self.stack.callback(server.close)
        return server

    def monitor(self, **options: Any) -> DnsMonitor:
        given = {"queryTimeout": "400ms", "slowThreshold": "250ms", "clusterNames": [], **options}
        chosen = msgspec.convert(given, DnsOptions)
        assert list(chosen.faults()) == []
        return DnsMonitor("dns", chosen, Host(root=self.folder))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """The test runs on the node."""
    with gateway_and_node() as pair, ExitStack() as stack:
        ip("address", "add", f"{SECOND}/24", "dev", "wire", namespace=pair.gateway)
        stack.enter_context(entered(pair.node))
        yield Node(pair, tmp_path, stack)


def problems(seen: Seen) -> dict[str, str]:
    """The messages of the conditions that are True."""
    return {kind: verdict.message for kind, verdict in seen.verdicts.items() if verdict.status == "True"}


def reasons(seen: Seen) -> dict[str, str]:
    return {kind: verdict.reason for kind, verdict in seen.verdicts.items() if verdict.status == "True"}


@contextmanager
def dnsmasq(pair: Pair, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real one on the gateway, that asks nobody else."""
    command = [
        "ip",
        "netns",
        "exec",
        pair.gateway,
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
    ]
    command += ["--conf-file=/dev/null", "--pid-file=", "--user=root", "--log-facility=-", *arguments]
    try:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    except OSError as error:
        give_up(error)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_dnsmasq_that_hangs_dies_and_lives(node: Node) -> None:
    monitor = node.monitor(externalNames=[NAME])
    with dnsmasq(node.pair, f"--address=/{NAME}/192.0.2.1") as process:
        eventually("it answers", lambda: problems(look(monitor)) == {})
        process.send_signal(signal.SIGSTOP)
        assert problems(look(monitor)) == {
            "DNSUnhealthy": f"no nameserver answers ({FIRST}): no answer in time",
            "NameserverFailing": f"{FIRST}: no answer in time",
        }
        process.send_signal(signal.SIGCONT)
        assert problems(look(monitor)) == {}
        process.kill()
        process.wait()
        seen = look(monitor)
        assert reasons(seen) == {
            "DNSUnhealthy": "ConnectionRefused",
            "NameserverFailing": "ConnectionRefused",
        }
        assert seen.metric("dns_nameserver_up", nameserver=FIRST) == 0
        assert seen.metric("dns_response_seconds", nameserver=FIRST) is None
    with dnsmasq(node.pair, f"--address=/{NAME}/192.0.2.1"):
        eventually("it answers again", lambda: problems(look(monitor)) == {})


def test_without_names_a_dnsmasq_that_knows_nobody_to_ask_is_asked_for_nothing_and_is_fine(
    node: Node,
) -> None:
    monitor = node.monitor()
    with dnsmasq(node.pair):
        eventually("it answers", lambda: problems(look(monitor)) == {})
        seen = look(node.monitor(externalNames=[NAME]))
    assert reasons(seen) == {"DNSUnhealthy": "QueryRefused"}


def test_without_names_nothing_is_asked_that_goes_further_than_the_nameserver(node: Node) -> None:
    server = node.nameserver()
    server.behave = says(dns.rcode.SERVFAIL)
    seen = look(node.monitor())
    assert problems(seen) == {}
    assert seen.metric("dns_nameserver_up", nameserver=FIRST) == 1
    (query,) = server.queries
    assert str(query.question[0].name) == "localhost."
    assert not query.flags & dns.flags.RD


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(says(dns.rcode.NXDOMAIN), "NameNotFound", id="NXDOMAIN"),
        pytest.param(says(dns.rcode.SERVFAIL), "ServerFailure", id="SERVFAIL"),
        pytest.param(says(dns.rcode.REFUSED), "QueryRefused", id="REFUSED"),
        pytest.param(says(dns.rcode.NOTIMP), "QueryRejected", id="NOTIMP"),
        pytest.param(empty, "NoAddress", id="no address"),
        pytest.param(truncated_and_mute, "TCPFailed", id="truncated, and nothing by TCP"),
    ],
)
def test_a_name_that_is_not_resolved_is_a_problem_until_it_is(
    node: Node, behaviour: Behaviour, reason: str
) -> None:
    server, monitor = node.nameserver(), node.monitor(externalNames=[NAME])
    assert problems(look(monitor)) == {}
    server.behave = behaviour
    seen = look(monitor)
    assert reasons(seen) == {"DNSUnhealthy": reason}
    assert f"{NAME} can't be resolved ({FIRST})" in problems(seen)["DNSUnhealthy"]
    server.behave = found
    assert problems(look(monitor)) == {}


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(mute, "Timeout", id="silence"),
        pytest.param(garbage, "InvalidAnswer", id="garbage"),
        pytest.param(wrong_number, "InvalidAnswer", id="an answer with another number"),
        pytest.param(another_name, "InvalidAnswer", id="an answer to another question"),
    ],
)
def test_what_is_no_answer_makes_a_nameserver_fail_until_it_answers(
    node: Node, behaviour: Behaviour, reason: str
) -> None:
    server, monitor = node.nameserver(), node.monitor()
    server.behave = behaviour
    seen = look(monitor)
    assert reasons(seen) == {"DNSUnhealthy": reason, "NameserverFailing": reason}
    assert FIRST in problems(seen)["NameserverFailing"]
    server.behave = found
    assert problems(look(monitor)) == {}


def test_a_nameserver_without_a_way_to_it_is_unreachable_until_there_is_one(node: Node) -> None:
    node.nameserver()
    monitor = node.monitor()
    ip("route", "add", "unreachable", f"{FIRST}/32", namespace=node.pair.node)
    assert reasons(look(monitor))["DNSUnhealthy"] == "Unreachable"
    ip("route", "del", "unreachable", f"{FIRST}/32", namespace=node.pair.node)
    assert problems(look(monitor)) == {}


@pytest.mark.parametrize("behaviour", [truncated, only_ipv6])
def test_answers_by_tcp_and_names_with_ipv6_alone_are_fine(node: Node, behaviour: Behaviour) -> None:
    server = node.nameserver()
    server.behave = behaviour
    assert problems(look(node.monitor(externalNames=[NAME]))) == {}
    assert len(server.queries) == 2


def test_one_dead_nameserver_of_two_is_named_and_names_are_still_resolved(node: Node) -> None:
    node.write("/etc/resolv.conf", f"nameserver {FIRST}\nnameserver {SECOND}\n")
    node.nameserver()
    monitor = node.monitor(externalNames=[NAME])
    assert problems(look(monitor)) == {"NameserverFailing": f"{SECOND}: nobody listens there"}
    node.nameserver(SECOND)
    assert problems(look(monitor)) == {}


def test_a_nameserver_that_does_not_know_what_the_other_does_is_named(node: Node) -> None:
    node.write("/etc/resolv.conf", f"nameserver {FIRST}\nnameserver {SECOND}\n")
    first, second = node.nameserver(), node.nameserver(SECOND)
    monitor = node.monitor(externalNames=[NAME])
    second.behave = says(dns.rcode.NXDOMAIN)
    assert problems(look(monitor)) == {
        "NameserverFailing": f"{SECOND} does not resolve {NAME}, which others do: there is no such name (NXDOMAIN)"
    }
    second.behave = found
    first.behave = says(dns.rcode.REFUSED)
    assert reasons(look(monitor)) == {"NameserverFailing": "QueryRefused"}, "the library asks the next"
    first.behave = says(dns.rcode.NXDOMAIN)
    assert reasons(look(monitor)) == {"DNSUnhealthy": "NameNotFound", "NameserverFailing": "NameNotFound"}


def test_a_nameserver_with_ipv6_is_asked(node: Node) -> None:
    node.write("/etc/resolv.conf", f"nameserver {SIXTH}\n")
    monitor = node.monitor(externalNames=[NAME])
    assert problems(look(monitor))["NameserverFailing"] == f"{SIXTH}: nobody listens there"
    node.nameserver(SIXTH)
    assert problems(look(monitor)) == {}


def test_slow_answers_are_a_warning_until_they_are_fast(node: Node) -> None:
    server, monitor = node.nameserver(), node.monitor(externalNames=[NAME])
    server.behave = slow
    seen = look(monitor)
    assert problems(seen) == {"DNSSlow": f"{FIRST} takes longer than 250ms to answer"}
    assert seen.verdicts["DNSSlow"].severity == "warning"
    assert seen.metric("dns_response_seconds", nameserver=FIRST) >= 0.3
    server.behave = found
    assert problems(look(monitor)) == {}


def test_queries_that_are_lost_now_and_then_are_a_warning_until_no_more_are(node: Node) -> None:
    server = node.nameserver()
    monitor = node.monitor(window=6, minimumSamples=6, intermittentThreshold=30)
    for behaviour in (mute, found, mute, found, found):
        server.behave = behaviour
        assert "DNSIntermittent" not in problems(look(monitor)), "too few queries"
    server.behave = mute
    assert (
        problems(look(monitor))["DNSIntermittent"]
        == f"{FIRST} answers, and fails 30 % of the queries or more"
    )
    server.behave = found
    seen = look(monitor)
    assert seen.verdicts["DNSIntermittent"].severity == "warning"
    assert seen.metric("dns_failed_ratio", nameserver=FIRST) == pytest.approx(2 / 6)
    eventually("they are forgotten", lambda: problems(look(monitor)) == {})


def test_a_nameserver_that_fails_now_and_then_is_intermittent_too(node: Node) -> None:
    server = node.nameserver()
    monitor = node.monitor(externalNames=[NAME], window=4, minimumSamples=4)
    for behaviour in (found, says(dns.rcode.SERVFAIL), found, says(dns.rcode.SERVFAIL)):
        server.behave = behaviour
        seen = look(monitor)
    assert "DNSIntermittent" in problems(seen)
    for behaviour in (found, says(dns.rcode.NXDOMAIN), found, says(dns.rcode.NXDOMAIN)):
        server.behave = behaviour
        seen = look(monitor)
    assert "DNSIntermittent" not in problems(seen), "the name is what is missing"


def test_a_single_outage_is_not_intermittent(node: Node) -> None:
    server = node.nameserver()
    monitor = node.monitor(window=6, minimumSamples=4)
    for behaviour in (found, found, says(dns.rcode.SERVFAIL), mute, found, found, found):
        server.behave = behaviour
        assert "DNSIntermittent" not in problems(look(monitor))


def test_a_nameserver_that_is_not_asked_any_more_is_forgotten(node: Node) -> None:
    monitor = node.monitor()
    look(monitor)
    node.write("/etc/resolv.conf", f"nameserver {SECOND}\n")
    seen = look(monitor)
    assert seen.metric("dns_failed_ratio", nameserver=FIRST) is None
    assert seen.metric("dns_failed_ratio", nameserver=SECOND) == 1


def test_behind_the_stub_of_systemd_resolved_its_nameservers_are_asked_too(node: Node) -> None:
    node.write("/etc/resolv.conf", "nameserver 127.0.0.53\n")
    node.write("/run/systemd/resolve/resolv.conf", f"nameserver {FIRST}\n")
    monitor = node.monitor()
    stub = Nameserver(Pair(node.pair.node, node.pair.node), "127.0.0.53")
    node.stack.callback(stub.close)
    assert problems(look(monitor)) == {"NameserverFailing": f"{FIRST}: nobody listens there"}
    node.nameserver()
    assert problems(look(monitor)) == {}
    (node.folder / "run/systemd/resolve/resolv.conf").unlink()
    assert look(monitor).metric("dns_nameserver_up", nameserver=FIRST) is None


KUBELET = f"kind: KubeletConfiguration\nclusterDNS: [{SECOND}]\nclusterDomain: corp.internal\nother: 1\n"


def test_the_dns_of_the_cluster_is_where_the_kubelet_says(node: Node) -> None:
    node.write("/var/lib/kubelet/config.yaml", KUBELET)
    first, cluster = node.nameserver(), node.nameserver(SECOND)
    monitor = node.monitor(clusterNames=["kubernetes.default.svc"])
    assert problems(look(monitor)) == {}
    assert [str(q.question[0].name) for q in cluster.queries] == ["kubernetes.default.svc.corp.internal."]
    assert [str(q.question[0].name) for q in first.queries] == ["localhost."]
    cluster.behave = says(dns.rcode.NXDOMAIN)
    assert problems(look(monitor)) == {
        "ClusterDNSUnhealthy": f"kubernetes.default.svc.corp.internal can't be resolved ({SECOND}): "
        "there is no such name (NXDOMAIN)"
    }
    cluster.behave = mute
    assert problems(look(monitor)) == {
        "ClusterDNSUnhealthy": f"no nameserver answers ({SECOND}): no answer in time",
        "NameserverFailing": f"cluster DNS {SECOND}: no answer in time",
    }
    cluster.behave = found
    assert problems(look(monitor)) == {}


def test_the_dns_of_the_cluster_may_be_in_the_search_list_or_in_the_options(node: Node) -> None:
    server, names = node.nameserver(), {"clusterNames": ["kubernetes.default.svc", "a.b."]}
    node.write("/etc/resolv.conf", f"search ns.svc.k8s.lan svc.k8s.lan k8s.lan\nnameserver {FIRST}\n")
    assert problems(look(node.monitor(**names))) == {}
    assert {str(q.question[0].name) for q in server.queries} == {
        "localhost.", "kubernetes.default.svc.k8s.lan.", "a.b.",
    }  # fmt: skip
    other = node.nameserver(SECOND)
    look(node.monitor(**names, clusterDns=[SECOND], clusterDomain="other.lan"))
    assert {str(q.question[0].name) for q in other.queries} == {"kubernetes.default.svc.other.lan.", "a.b."}


@pytest.mark.parametrize(
    ("kubelet", "options", "reason"),
    [
        pytest.param("", {}, "NoClusterDNS", id="no kubelet"),
        pytest.param("[", {}, "NoClusterDNS", id="another file"),
        pytest.param("clusterDomain: a.b\n", {}, "NoClusterDNS", id="no servers"),
        pytest.param(f"clusterDNS: [{FIRST}]\n", {}, "NoClusterDomain", id="no domain"),
        pytest.param("", {"clusterDns": [FIRST]}, "NoClusterDomain", id="servers as an option alone"),
    ],
)
def test_where_nobody_says_what_the_cluster_has_nothing_is_known_of_its_dns(
    node: Node, kubelet: str, options: dict[str, Any], reason: str
) -> None:
    node.nameserver()
    if kubelet:
        node.write("/var/lib/kubelet/config.yaml", kubelet)
    seen = look(node.monitor(clusterNames=["kubernetes.default.svc"], **options))
    verdict = seen.verdicts["ClusterDNSUnhealthy"]
    assert (verdict.status, verdict.reason) == ("Unknown", reason)
    assert "/var/lib/kubelet/config.yaml" in verdict.message
    assert "set cluster" in verdict.message
    assert problems(seen) == {}


@pytest.mark.parametrize(
    ("text", "reason", "part"),
    [
        pytest.param(None, "NoNameservers", "names no nameserver", id="no file"),
        pytest.param("", "NoNameservers", "names no nameserver", id="an empty file"),
        pytest.param(
            f"nameserver {FIRST}\nnameserver dns.example\n", "InvalidNameserver", "'dns.example'", id="a name"
        ),
        pytest.param(
            f"nameserver {FIRST}\n" * 3 + f"nameserver {SECOND}\n",
            "TooManyNameservers",
            f"{SECOND} is never asked",
            id="too many nameservers",
        ),
        pytest.param(
            f"nameserver {FIRST}\nsearch " + " ".join(f"d{i}.lan" for i in range(33)) + "\n",
            "SearchListTooLong",
            "32 domains",
            id="too many domains",
        ),
        pytest.param(
            f"nameserver {FIRST}\nsearch " + " ".join("d" * 60 + f"{i}.lan" for i in range(32)) + "\n",
            "SearchListTooLong",
            "2048 characters",
            id="domains too long",
        ),
    ],
)
def test_settings_that_are_wrong_are_a_warning_until_they_are_right(
    node: Node, text: str | None, reason: str, part: str
) -> None:
    node.nameserver()
    monitor = node.monitor()
    if text is None:
        (node.folder / "etc/resolv.conf").unlink()
    else:
        node.write("/etc/resolv.conf", text)
    verdict = look(monitor).verdicts["ResolvConfInvalid"]
    assert (verdict.status, verdict.reason, verdict.severity) == ("True", reason, "warning")
    assert verdict.message.startswith("/etc/resolv.conf ")
    assert part in verdict.message
    node.write("/etc/resolv.conf", f"nameserver {FIRST}\n")
    assert problems(look(monitor)) == {}


def test_a_loopback_that_the_kubelet_passes_on_to_pods_is_a_warning_until_it_does_not(node: Node) -> None:
    node.nameserver()
    node.write("/run/pods.conf", "nameserver 127.0.0.53\n")
    node.write("/var/lib/kubelet/config.yaml", "resolvConf: /run/pods.conf\n")
    monitor = node.monitor()
    assert problems(look(monitor)) == {
        "ResolvConfInvalid": "the kubelet passes /run/pods.conf on to pods: there nobody answers at 127.0.0.53"
    }
    node.write("/run/pods.conf", f"nameserver {FIRST}\n")
    assert problems(look(monitor)) == {}
    node.write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n")
    node.write("/etc/resolv.conf", "nameserver ::1\n")
    assert reasons(look(monitor))["ResolvConfInvalid"] == "LoopbackPassedToPods"


def test_without_nameservers_only_names_that_are_asked_for_are_a_problem(node: Node) -> None:
    node.write("/etc/resolv.conf", "# nobody\n")
    assert look(node.monitor()).verdicts["DNSUnhealthy"].status == "Unknown"
    assert reasons(look(node.monitor(externalNames=[NAME])))["DNSUnhealthy"] == "NoNameservers"


def test_nameservers_in_the_options_are_asked_instead(node: Node) -> None:
    node.nameserver(SECOND)
    seen = look(node.monitor(nameservers=[SECOND]))
    assert problems(seen) == {}
    assert "ResolvConfInvalid" not in seen.verdicts


def test_no_answer_is_waited_for_longer_than_the_settings_allow(node: Node) -> None:
    """Else an answer would be fine here that comes too late for everybody else."""
    node.write("/etc/resolv.conf", f"nameserver {FIRST}\noptions ndots:5 timeout:1\n")
    server = node.nameserver()
    server.behave = too_late
    assert reasons(look(node.monitor(queryTimeout="20s")))["DNSUnhealthy"] == "Timeout"


@pytest.mark.parametrize(
    ("text", "conf"),
    [
        pytest.param("", ResolvConf(), id="nothing"),
        pytest.param("nameserver\nsearch\noptions\nx\n", ResolvConf(), id="half of it"),
        pytest.param("; nameserver 1.1.1.1\n#nameserver 1.1.1.1\n", ResolvConf(), id="comments"),
        pytest.param("domain a.b.\nsearch c. d\n", ResolvConf(search=("c", "d")), id="the last counts"),
        pytest.param(
            "nameserver\tfe80::1%eth0\nnameserver 300.1.1.1 # x\n",
            ResolvConf(nameservers=("fe80::1%eth0",), unusable=("300.1.1.1",)),
            id="addresses",
        ),
        pytest.param("options timeout:2 ndots:3\noptions edns0\n", ResolvConf(timeout=2), id="options"),
        pytest.param("options timeout:99\n", ResolvConf(timeout=30), id="more than is possible"),
        pytest.param("options timeout:x timeout:0\n", ResolvConf(), id="no time"),
    ],
)
def test_settings_are_read_as_the_c_library_does(text: str, conf: ResolvConf) -> None:
    assert read_resolv_conf(text) == conf


def test_a_cluster_is_recognized() -> None:
    assert Kubelet().cluster == Cluster()
    assert msgspec.yaml.decode(KUBELET, type=Kubelet).cluster == Cluster((SECOND,), "corp.internal")
    pod = ResolvConf((FIRST,), search=("ns.svc.a.b", "svc.a.b", "a.b", "corp.lan"))
    assert cluster_of_search_list(pod) == Cluster((FIRST,), "a.b")
    assert cluster_of_search_list(ResolvConf((FIRST,), search=("svc.corp.lan", "x"))) == Cluster()
    assert whole_names(("x.svc", "x.svc.a.b", "y."), "a.b") == ("x.svc.a.b", "x.svc.a.b", "y.")


def test_only_answers_that_stop_more_than_once_come_and_go() -> None:
    assert not comes_and_goes([True, False, False, True, True])
    assert comes_and_goes([True, False, True, False])


@pytest.mark.parametrize(
    ("options", "path"),
    [
        pytest.param({"nameservers": ["1.1.1.1", "dns.example"]}, "nameservers[1]", id="a nameserver's name"),
        pytest.param({"clusterDns": ["x"]}, "clusterDns[0]", id="a cluster DNS's name"),
        pytest.param({"externalNames": ["a..b"]}, "externalNames", id="no name"),
        pytest.param({"clusterNames": ["."]}, "clusterNames", id="the root"),
        pytest.param({"clusterDomain": "a..b"}, "clusterDomain", id="no domain"),
        pytest.param({"queryTimeout": "0s", "slowThreshold": "0s"}, "queryTimeout", id="no time"),
        pytest.param({"slowThreshold": "3s"}, "slowThreshold", id="slower than possible"),
        pytest.param({"window": 5}, "minimumSamples", id="more samples than are kept"),
    ],
)
def test_options_that_can_not_be_right_are_faults(options: dict[str, Any], path: str) -> None:
    assert path in [where for where, _ in msgspec.convert(options, DnsOptions).faults()]

"""Whether names are resolved: by the nameservers of the node, each by itself, and by the cluster's DNS."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from nodedoctor.duration import seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation
from nodedoctor.types import Severity
from workers.monitors.network.dns.asking import PROBE, REASONS, Answer, Question, ask_all
from workers.monitors.network.dns.options import DnsOptions
from workers.monitors.network.dns.settings import (
    Cluster,
    Kubelet,
    ResolvConf,
    cluster_of_search_list,
    is_whole,
    loopbacks,
    read_resolv_conf,
    whole_names,
)

UNHEALTHY = ConditionType(
    "DNSUnhealthy", reason="NameNotFound", ok_reason="DNSWorks", reasons=(*REASONS, "NoNameservers")
)
CLUSTER = ConditionType(
    "ClusterDNSUnhealthy", reason="NameNotFound", ok_reason="ClusterDNSWorks", reasons=tuple(REASONS)
)
NAMESERVER = ConditionType(
    "NameserverFailing",
    reason="Timeout",
    ok_reason="NameserversAnswer",
    severity=Severity.WARNING,
    reasons=tuple(REASONS),
)
INTERMITTENT = ConditionType(
    "DNSIntermittent",
    reason="QueriesFailNowAndThen",
    ok_reason="QueriesAnsweredSteadily",
    severity=Severity.WARNING,
)
SLOW = ConditionType("DNSSlow", reason="SlowAnswers", ok_reason="AnswersInTime", severity=Severity.WARNING)
CONF = ConditionType(
    "ResolvConfInvalid",
    reason="NoNameservers",
    ok_reason="ResolvConfIsSound",
    severity=Severity.WARNING,
    reasons=(
        "NoNameservers",
        "InvalidNameserver",
        "TooManyNameservers",
        "SearchListTooLong",
        "LoopbackPassedToPods",
    ),
)
UP = Gauge("dns_nameserver_up", "1 if the nameserver answers", ("nameserver",))
DURATION = Gauge(
    "dns_response_seconds", "Slowest answer of the nameserver in the last check", ("nameserver",)
)
FAILED = Gauge("dns_failed_ratio", "Share of the last queries that the nameserver failed", ("nameserver",))
STUBS = {"127.0.0.53", "127.0.0.54"}
"""Where systemd-resolved(8) listens."""
UPSTREAMS = "/run/systemd/resolve/resolv.conf"
"""The nameservers that it asks."""

Answers = dict[Question, Answer]


class DnsMonitor(Monitor[DnsOptions]):
    """Asks the node's nameservers and the cluster's DNS, each by itself and all at once.

    The node's are those of resolv.conf(5), or behind the stub of systemd-resolved(8) also those that it asks. A name
    is resolved if the C library would resolve it: it passes over nameservers that don't answer, fail or refuse, and
    believes the first of the others. The cluster's DNS is that of the kubelet's configuration
    (kubelet.config.k8s.io/v1beta1) or of a pod's search list. No query is repeated: what gets lost is counted.
    """

    kind, options_type = "dns-health-check", DnsOptions
    conditions = (UNHEALTHY, CLUSTER, NAMESERVER, INTERMITTENT, SLOW, CONF)
    metrics = (UP, DURATION, FAILED)

    def __init__(self, name: str, options: DnsOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.histories: dict[str, deque[bool]] = {}

    @classmethod
    def conditions_of(cls, name: str, options: DnsOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003
        """Without names of the cluster nothing is said of its DNS, nor without resolv.conf of that."""
        left_out = {CLUSTER: not options.cluster_names, CONF: bool(options.nameservers)}
        return tuple(condition for condition in cls.conditions if not left_out.get(condition))

    def check(self) -> Iterator[Observation]:
        """Look at the settings, then ask everybody and judge the answers."""
        conf = self.settings(self.options.resolv_conf)
        kubelet, missing = self.kubelet()
        if not self.options.nameservers:
            yield from self.conf_findings(conf, kubelet)
        node = Group("", self.options.nameservers or conf.asked, self.options.external_names)
        hidden = Group("", self.upstreams(node.servers), ())
        cluster = Group("cluster DNS ", (), ())
        if self.options.cluster_names:
            try:
                cluster = self.cluster(conf, kubelet, missing)
            except Undetermined as error:
                yield CLUSTER.unknown(str(error), error.reason)
        groups = (node, hidden, cluster)
        limit = min(seconds(self.options.query_timeout), conf.timeout)
        answers = asyncio.run(ask_all((q for group in groups for q in group.questions()), limit))
        yield from self.node_findings(node, answers)
        if cluster.servers:
            yield from resolution(CLUSTER, cluster, answers)
        yield from self.server_findings(groups, answers)

    def settings(self, path: str) -> ResolvConf:
        """What a resolv.conf of the node says; nothing if there is none."""
        try:
            return read_resolv_conf(self.host.path(path).read_text(errors="replace"))
        except FileNotFoundError:
            return ResolvConf()

    def conf_findings(self, conf: ResolvConf, kubelet: Kubelet | None) -> Iterator[Finding]:
        """What is wrong with the settings, for the node or for its pods."""
        yield CONF.when(False, "")
        for reason, message in conf.faults():
            yield CONF.when(True, f"{self.options.resolv_conf} {message}", reason)
        if kubelet and kubelet.resolv_conf:
            for server in loopbacks(self.settings(kubelet.resolv_conf)):
                message = (
                    f"the kubelet passes {kubelet.resolv_conf} on to pods: there nobody answers at {server}"
                )
                yield CONF.when(True, message, "LoopbackPassedToPods")

    def upstreams(self, servers: tuple[str, ...]) -> tuple[str, ...]:
        """Whom systemd-resolved asks, if it is among `servers`."""
        if STUBS.isdisjoint(servers):
            return ()
        try:
            return self.settings(UPSTREAMS).nameservers
        except OSError:  # it may keep them to itself
            return ()

    def cluster(self, conf: ResolvConf, kubelet: Kubelet | None, missing: str) -> Group:
        """The cluster's DNS, and what it has to know.

        Raises:
            Undetermined: nobody says where it is, or what its domain is; the kubelet for the reason `missing`.
        """
        known = Cluster(self.options.cluster_dns, self.options.cluster_domain.strip("."))
        known = known.completed(kubelet.cluster if kubelet else Cluster())
        known = known.completed(cluster_of_search_list(conf))
        if not known.servers:
            text = f"where the cluster's DNS is is not known: {missing}; or set clusterDns"
            raise Undetermined(text, "NoClusterDNS")
        names = self.options.cluster_names
        if not known.domain and not all(is_whole(name, "") for name in names):
            text = f"the cluster's domain is not known: {missing}; or set clusterDomain"
            raise Undetermined(text, "NoClusterDomain")
        return Group("cluster DNS ", known.servers, whole_names(names, known.domain))

    def kubelet(self) -> tuple[Kubelet | None, str]:
        """The kubelet's configuration, and what is wrong with it if it says too little."""
        path = self.options.kubelet_config
        try:
            text = self.host.path(path).read_text(errors="replace")
            return msgspec.yaml.decode(text, type=Kubelet), f"{path} does not say it"
        except OSError as error:
            return None, f"{path} can't be read ({error.strerror}), name another one as kubeletConfig"
        except msgspec.MsgspecError:
            return None, f"{path} is no kubelet's configuration, name another one as kubeletConfig"

    def node_findings(self, node: Group, answers: Answers) -> Iterator[Finding]:
        """Whether the node can resolve names."""
        if node.servers:
            yield from resolution(UNHEALTHY, node, answers)
        elif node.names:
            yield UNHEALTHY.when(True, "there is no nameserver to ask", "NoNameservers")
        else:
            yield UNHEALTHY.unknown(
                "there is no nameserver to ask, and no name is asked for", "NoNameservers"
            )

    def server_findings(self, groups: Iterable[Group], answers: Answers) -> Iterator[Observation]:
        """What is wrong with each nameserver by itself."""
        for condition in (NAMESERVER, INTERMITTENT, SLOW):
            yield condition.when(False, "")
        self.remember(answers)
        for group in groups:
            yield from group.failing(answers)
        for server, history in self.histories.items():
            mine = [answer for question, answer in answers.items() if question.server == server]
            yield from self.pace(server, mine)
            failed = history.count(False) / len(history)
            yield FAILED(failed, nameserver=server)
            limit = self.options.intermittent_threshold
            often = len(history) >= self.options.minimum_samples and failed * 100 >= limit
            message = f"{server} answers, and fails {limit:g} % of the queries or more"
            yield INTERMITTENT.when(often and comes_and_goes(history), message)

    def remember(self, answers: Answers) -> None:
        """Note for each nameserver which queries it failed, and forget those that are not asked any more."""
        before, self.histories = self.histories, {}
        for question, answer in answers.items():
            server = question.server
            history = before.get(server, deque(maxlen=self.options.window))
            history.append(not answer.silent and answer.reason != "ServerFailure")
            self.histories[server] = before[server] = history

    def pace(self, server: str, answers: list[Answer]) -> Iterator[Observation]:
        """How fast `server` gave those of its `answers` that came."""
        slowest = max((answer.took for answer in answers if not answer.silent), default=None)
        yield UP(float(slowest is not None), nameserver=server)
        if slowest is not None:
            yield DURATION(slowest, nameserver=server)
            limit = self.options.slow_threshold
            yield SLOW.when(slowest > seconds(limit), f"{server} takes longer than {limit} to answer")


class Group(msgspec.Struct, frozen=True):
    """Nameservers that the same is expected of: to resolve `names`, or just to answer."""

    title: str
    servers: tuple[str, ...]
    names: tuple[str, ...]

    def questions(self) -> Iterator[Question]:
        """What to ask them."""
        return (Question(server, name) for server in self.servers for name in self.names or (PROBE,))

    def failing(self, answers: Answers) -> Iterator[Finding]:
        """Those that don't answer, or don't resolve what others of them do."""
        for server in self.servers:
            mine = [(q, answers[q]) for q in self.questions() if q.server == server]
            who = f"{self.title}{server}"
            if all(answer.silent for _, answer in mine):
                yield NAMESERVER.when(True, f"{who}: {REASONS[mine[0][1].reason]}", mine[0][1].reason)
                continue
            for question, answer in mine:
                others = any(not answers[Question(other, question.name)].reason for other in self.servers)
                message = f"{who} does not resolve {question.name}, which others do: "
                wrong = bool(answer.reason) and others
                yield NAMESERVER.when(wrong, message + REASONS.get(answer.reason, ""), answer.reason)


def resolution(condition: ConditionType, group: Group, answers: Answers) -> Iterator[Finding]:
    """Whether `group` answers, and whether the C library could resolve each name with it."""
    mine = [answers[question] for question in group.questions()]
    dead = all(answer.silent for answer in mine)
    who = ", ".join(group.servers)
    yield condition.when(
        dead, f"no nameserver answers ({who}): {REASONS.get(mine[0].reason, '')}", mine[0].reason
    )
    for name in () if dead else group.names:
        in_order = [answers[Question(server, name)] for server in group.servers]
        reason = next((answer for answer in in_order if answer.final), in_order[0]).reason
        message = f"{name} can't be resolved ({who}): {REASONS.get(reason, '')}"
        yield condition.when(bool(reason), message, reason)


def comes_and_goes(history: Iterable[bool]) -> bool:
    """Whether answers stopped more than once: a single outage, however long, is no intermittent fault."""
    return sum(before and not after for before, after in pairwise(history)) > 1

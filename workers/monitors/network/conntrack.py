"""How full the table of tracked connections is, and whether the kernel drops what does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from nodedoctor.host import Host
from nodedoctor.monitor import (
    ConditionType,
    Gauge,
    Monitor,
    Observation,
    Options,
    Percent,
    counter,
    order_faults,
)
from nodedoctor.types import Severity

NEARLY_FULL = ConditionType(
    "ConntrackTableNearlyFull",
    reason="ConntrackTableAlmostFull",
    ok_reason="ConntrackTableHasRoom",
    warning_reason="ConntrackTableFillingUp",
)
DROPPING = ConditionType(
    "ConntrackDropping",
    reason="ConnectionsDropped",
    ok_reason="NoConnectionsDropped",
    severity=Severity.WARNING,
)
ENTRIES = Gauge("conntrack_entries", "Connections that the kernel tracks")
MAX = Gauge("conntrack_max", "Connections that the kernel tracks at most; 0 is no limit")
USED = Gauge("conntrack_used_ratio", "Share of the table of tracked connections in use")
DROPS = counter(
    "conntrack_drops_total", "Packets dropped and connections forgotten, of all processors", ("cause",)
)
CAUSES = ("insert_failed", "drop", "early_drop")
"""The columns that count what was lost. A packet may count in the first two."""


class ConntrackOptions(Options, frozen=True):
    """Thresholds."""

    warning_threshold: Percent = 80
    """Percent of the table in use at which to warn."""
    critical_threshold: Percent = 95
    """Percent of the table in use that is a problem."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem."""
        yield from order_faults(
            "warningThreshold", self.warning_threshold, "criticalThreshold", self.critical_threshold
        )


class ConntrackMonitor(Monitor[ConntrackOptions]):
    """Compares the number of tracked connections with its limit, and notices what the kernel dropped of them.

    Reads nf_conntrack_count and nf_conntrack_max (Documentation/networking/nf_conntrack-sysctl.rst) and
    /proc/net/stat/nf_conntrack, of the network that it runs in: it needs the host's. The counters grow since boot:
    only growth between two checks is a problem. Where the kernel has no connection tracking, nothing can be lost.
    """

    kind, options_type = "conntrack-health-check", ConntrackOptions
    conditions = (NEARLY_FULL, DROPPING)
    metrics = (ENTRIES, MAX, USED, DROPS)
    timeout = 5.0

    def __init__(self, name: str, options: ConntrackOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.drops: dict[str, int] = {}

    def check(self) -> Iterator[Observation]:
        """Look at the table, then at what was lost since the last check."""
        try:
            entries, limit = self.setting("nf_conntrack_count"), self.setting("nf_conntrack_max")
        except FileNotFoundError:
            yield NEARLY_FULL.when(False, "")
            yield DROPPING.when(False, "")
            return
        yield from self.check_table(entries, limit)
        yield from self.check_drops()

    def setting(self, name: str) -> int:
        """One number below /proc/sys/net/netfilter."""
        return int((self.host.proc / "sys/net/netfilter" / name).read_text())

    def check_table(self, entries: int, limit: int) -> Iterator[Observation]:
        """Whether `entries` come near to `limit`; 0 is no limit."""
        used = entries / limit if limit else 0.0
        yield ENTRIES(entries)
        yield MAX(limit)
        yield USED(used)
        yield NEARLY_FULL.graded(
            used * 100,
            self.options.warning_threshold,
            self.options.critical_threshold,
            lambda percent: f"the table of tracked connections is fuller than {percent:g} %",
        )

    def check_drops(self) -> Iterator[Observation]:
        """Whether something was lost since the last check."""
        try:
            now = drops((self.host.proc / "net/stat/nf_conntrack").read_text())
        except FileNotFoundError:
            text = "the kernel does not tell what it drops: it needs CONFIG_NF_CONNTRACK_PROCFS"
            yield DROPPING.unknown(text, "NoConntrackStatistics")
            return
        before, self.drops = self.drops, now
        for cause, count in now.items():
            yield DROPS(count, cause=cause)
        dropped = any(count > before.get(cause, count) for cause, count in now.items())
        yield DROPPING.when(dropped, "the kernel drops packets or forgets connections that it can't track")


def drops(text: str) -> dict[str, int]:
    """What was lost, by cause, in the text of /proc/net/stat/nf_conntrack: a head, then a line for each processor.

    The columns differ between kernels, their names do not; the numbers are hexadecimal.
    """
    head, *rows = (line.split() for line in text.splitlines())
    columns = {cause: head.index(cause) for cause in CAUSES}
    return {cause: sum(int(row[column], 16) for row in rows) for cause, column in columns.items()}

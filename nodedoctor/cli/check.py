"""`node-doctor check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from nodedoctor import log
from nodedoctor.cli.options import configuration, output
from nodedoctor.cli.tables import as_json, colored, table
from nodedoctor.config.load import load, node_name
from nodedoctor.config.model import MonitorEntry
from nodedoctor.errors import ConfigurationError
from nodedoctor.registry import MONITORS, monitor_type
from nodedoctor.registry import names as names_of
from nodedoctor.roster import Roster, roster_of, spec_of
from nodedoctor.types import ConditionStatus, Result, Status
from nodedoctor.words import did_you_mean


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Also run one monitor of each type that is not configured and works without options.",
)
@configuration
@output
def check(
    names: tuple[str, ...],
    *,
    every: bool,
    files: tuple[Path, ...],
    npd: tuple[Path, ...],
    flags: tuple[str, ...],
    form: str,
) -> None:
    r"""Run the configured monitors once, each in its own process under its timeout, and print what they find.

    It needs no running agent and changes nothing. Exit code 1 if any has a problem.

    \b
    Examples:
      node-doctor check
      node-doctor check --all
      node-doctor check disk memory -o json
    """
    from supervisor.once import check_all

    log.set_up("error", log.default_form(), "check")
    config = load(files, flags, npd=npd).config
    roster = roster_of(config, node_name(config))
    chosen = choose(with_every_type(roster) if every else roster, names)
    rows = [row(name, kind, status) for name, kind, status in check_all(chosen)]
    if form == "json":
        click.echo(as_json(rows))
    else:
        lines = [
            (r["name"], r["type"], colored(r["state"]), f"{r['duration']:.3f} s", r["text"]) for r in rows
        ]
        click.echo(table(("MONITOR", "TYPE", "STATE", "TOOK", "WHAT"), lines))
    sys.exit(1 if any(r["state"] == Result.PROBLEM for r in rows) else 0)


def with_every_type(roster: Roster) -> Roster:
    """`roster` and, under its type's name, a monitor of each type that it lacks and that needs no options."""
    taken = {spec.kind.kind for spec in roster.monitors} | {spec.name for spec in roster.monitors}
    missing = [kind for kind in names_of(MONITORS) if kind not in taken and runs_by_itself(kind)]
    more = [spec_of(MonitorEntry(name=kind, type=kind)) for kind in missing]
    return msgspec.structs.replace(roster, monitors=(*roster.monitors, *more))


def runs_by_itself(kind: str) -> bool:
    """Whether the type looks at something without being told at what."""
    options = monitor_type(kind).options_type
    try:
        return not list(msgspec.convert({}, options).faults())
    except msgspec.ValidationError:
        return False


def choose(roster: Roster, names: tuple[str, ...]) -> Roster:
    """`roster` with the monitors called `names` alone; all if there are no names.

    Raises:
        ConfigurationError: there is no monitor of one of the names.
    """
    known = [spec.name for spec in roster.monitors]
    faults = [
        f"there is no monitor {n!r}; known: {', '.join(known)}{did_you_mean(n, known)}"
        for n in names
        if n not in known
    ]
    if faults:
        raise ConfigurationError(faults)
    monitors = tuple(spec for spec in roster.monitors if not names or spec.name in names)
    return msgspec.structs.replace(roster, monitors=monitors)


def row(name: str, kind: str, status: Status) -> dict[str, Any]:
    """One monitor's result."""
    return {
        "name": name,
        "type": kind,
        "state": status.result,
        "conditions": status.conditions,
        "events": status.events,
        "metrics": status.metrics,
        "duration": status.duration,
        "text": in_a_line(status),
    }


def in_a_line(status: Status) -> str:
    """What is wrong or can't be told; if nothing, what was looked at."""
    told = [c for c in status.conditions if c.type != "MonitorFailing" or c.status is ConditionStatus.TRUE]
    bad = [c for c in told if c.status is not ConditionStatus.FALSE or (c.message and c.severity != "info")]
    if bad:
        types: dict[str, list[str]] = {}
        for c in bad:
            types.setdefault(f"{c.status}: {c.message or c.reason}", []).append(c.type)
        return "; ".join(f"{', '.join(names)} {text}" for text, names in types.items())
    return ", ".join(dict.fromkeys(c.reason for c in told))

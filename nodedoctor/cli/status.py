"""`node-doctor status`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nodedoctor.cli.ask import ask
from nodedoctor.cli.options import output, run_folder
from nodedoctor.cli.tables import as_json, colored, table
from nodedoctor.duration import human
from nodedoctor.errors import AgentUnreachableError
from nodedoctor.folders import run_dir as folder


@click.command()
@run_folder
@output
def status(run_dir: Path | None, form: str) -> None:
    r"""Ask the running agent for the node's state.

    Exit code 0 healthy, 1 problems, 3 no agent answers.

    \b
    Examples:
      node-doctor status
      node-doctor status -o json
    """
    code, body = ask(folder(run_dir), "/status")
    if code != 200:
        raise AgentUnreachableError(body.get("error", {}).get("message", f"the agent answered {code}"))
    if form == "json":
        click.echo(as_json(body))
    else:
        click.echo(as_text(body))
    sys.exit(1 if body["problems"] else 0)


def as_text(body: dict[str, Any]) -> str:
    """The state for people."""
    conditions = [
        (c["type"], colored(c["status"]), c["reason"], c["message"], c["monitor"]) for c in body["conditions"]
    ]
    monitors = [
        (m["name"], colored(m["state"]), m["checks"], m["restarts"], m["lastCheck"] or "never")
        for m in body["monitors"]
    ]
    exporters = [(e["name"], colored(e["state"]), e["message"]) for e in body["exporters"]]
    parts = [
        f"{body['node']} is {colored(body['status'])}; node-doctor {body['version']}, up for {human(body['uptime'])}",
        table(("CONDITION", "STATUS", "REASON", "MESSAGE", "MONITOR"), conditions),
        table(("MONITOR", "STATE", "CHECKS", "RESTARTS", "LAST CHECK"), monitors),
        table(("EXPORTER", "STATE", "MESSAGE"), exporters),
    ]
    parts += [f"{path} is not active: {why}" for path, why in body["inactive"].items()]
    return "\n\n".join(parts)

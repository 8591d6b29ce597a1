"""`node-doctor probe`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nodedoctor.cli.ask import ask
from nodedoctor.cli.options import run_folder
from nodedoctor.errors import AgentUnreachableError
from nodedoctor.folders import run_dir as folder

PATHS = {"live": "/livez", "ready": "/ready"}


@click.command()
@click.argument("what", type=click.Choice(list(PATHS)))
@run_folder
def probe(what: str, run_dir: Path | None) -> None:
    r"""Ask over the unix socket whether the agent is live or ready, for exec probes: exit code 0 or 1 within 3 s.

    \b
    Examples:
      node-doctor probe live
      node-doctor probe ready
    """
    try:
        code, body = ask(folder(run_dir), PATHS[what], timeout=2.5)
    except AgentUnreachableError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if code != 200:
        click.echo(f"not {what}: {'; '.join(body.get('reasons', [])) or body}", err=True)
        sys.exit(1)
    click.echo(what)

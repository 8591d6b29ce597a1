"""`node-doctor validate`."""

from __future__ import annotations

from pathlib import Path

import click

from nodedoctor.cli.options import FILE
from nodedoctor.config.load import load


@click.command()
@click.argument("files", nargs=-1, type=FILE)
def validate(files: tuple[Path, ...]) -> None:
    r"""Check configuration files, together, as `run` would load them; print every fault.

    \b
    Examples:
      node-doctor validate
      node-doctor validate base.yaml node.yaml
    """
    config = load(files).config
    names = " + ".join(str(path) for path in files) or "the configuration"
    running = [entry.name for entry in config.monitors if entry.enabled]
    click.echo(f"{names}: valid; {len(running)} monitors: {', '.join(running) or 'none'}")
    for path, why in config.inactive():
        click.echo(f"{path}: not active: {why}")

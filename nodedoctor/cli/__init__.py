"""The command line: one module a command."""

from __future__ import annotations

import sys

import click

from nodedoctor.cli.check import check
from nodedoctor.cli.config import config
from nodedoctor.cli.monitors import monitors
from nodedoctor.cli.probe import probe
from nodedoctor.cli.run import run
from nodedoctor.cli.status import status
from nodedoctor.cli.tap import tap
from nodedoctor.cli.validate import validate
from nodedoctor.errors import NodeDoctorError
from nodedoctor.version import version

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
@click.version_option(version(), prog_name="node-doctor")
def cli() -> None:
    """Detects what is wrong with this node and says so where people look.

    Exit codes: 0 fine, 1 a problem was found, 2 wrong usage or configuration, 3 the agent can't be reached.
    """


for command in (run, validate, config, check, monitors, status, tap, probe):
    cli.add_command(command)


def main() -> None:
    """Run the command line; an expected error is one message and its exit code."""
    try:
        cli()
    except NodeDoctorError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)

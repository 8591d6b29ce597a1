"""`node-doctor run`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from nodedoctor import log
from nodedoctor.bus.sockets import HEALTH, address
from nodedoctor.cli.options import configuration, run_folder, state_folder
from nodedoctor.config.load import load, node_name
from nodedoctor.config.model import Config
from nodedoctor.folders import make_private, run_dir, state_dir
from nodedoctor.roster import roster_of
from nodedoctor.version import version

logger = logging.getLogger(__name__)


@click.command()
@configuration
@click.option("--log-level", type=click.Choice(list(log.LEVELS)), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(["json", "text"]), help="Default: text on a terminal, json otherwise."
)
@run_folder
@state_folder
def run(
    files: tuple[Path, ...],
    npd: tuple[Path, ...],
    flags: tuple[str, ...],
    log_level: str,
    log_format: str | None,
    run_dir: Path | None,
    state_dir: Path | None,
) -> None:
    r"""Start the agent in the foreground.

    SIGTERM and SIGINT stop it within 10 s; SIGUSR1 logs the state of every worker.

    \b
    Examples:
      node-doctor run
      node-doctor run --config node.yaml --set exporters.http.hostPort=8081
      node-doctor run --npd-config kernel-monitor.json --npd-config custom-plugin-monitor.json
    """
    log.set_up(log_level, log_format or log.default_form())
    start(load(files, flags, npd=npd).config, run_dir, state_dir)


def start(config: Config, run_given: Path | None, state_given: Path | None) -> None:
    """Be the supervisor until the agent is stopped."""
    from supervisor.guard import own_supervisor

    own_supervisor()
    from supervisor.core import Supervisor
    from supervisor.lock import locked

    roster = roster_of(config, node_name(config))
    folder = make_private(run_dir(run_given))
    address(folder, HEALTH)
    state = make_private(state_dir(state_given))
    with locked(folder / "supervisor.lock", "another agent"):
        for path, why in roster.inactive.items():
            logger.warning("%s is not active: %s", path, why)
        monitors = ", ".join(spec.name for spec in roster.monitors) or "no monitors"
        logger.info("node-doctor %s on %s: %s; sockets in %s", version(), roster.node, monitors, folder)
        Supervisor(roster, version(), folder, state).run()
        logger.info("stopped")

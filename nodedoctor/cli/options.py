"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


def configuration(command: F) -> F:
    """`--config`, `--npd-config` and `--set`."""
    command = click.option(
        "--set", "flags", metavar="PATH=VALUE", multiple=True, help="Set one value; repeatable, later wins."
    )(command)
    command = click.option(
        "--npd-config",
        "npd",
        metavar="FILE",
        type=FILE,
        multiple=True,
        help="Configuration file of Node Problem Detector; repeatable. Its monitors run beside those of --config,"
        " and instead of the default ones.",
    )(command)
    return click.option(
        "--config",
        "files",
        metavar="FILE",
        type=FILE,
        multiple=True,
        help="Configuration file; repeatable, later wins. Default: $NODE_DOCTOR_CONFIG, else"
        " /etc/node-doctor/config.yaml if it exists, else the embedded default.",
    )(command)


def run_folder(command: F) -> F:
    """`--run-dir`."""
    return click.option(
        "--run-dir", type=FILE, help="Folder of the agent's sockets. Default: /run/node-doctor as root."
    )(command)


def state_folder(command: F) -> F:
    """`--state-dir`."""
    return click.option(
        "--state-dir",
        type=FILE,
        help="Folder of what survives a restart. Default: /var/lib/node-doctor as root.",
    )(command)


def output(command: F) -> F:
    """`-o table` or `-o json`."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
    )(command)

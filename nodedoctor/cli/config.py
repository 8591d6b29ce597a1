"""`node-doctor config`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from nodedoctor.cli.options import FILE, configuration
from nodedoctor.config.layers import dotted, items_of
from nodedoctor.config.load import load
from nodedoctor.config.text import PathOf

SECRET = re.compile(r"(?i)(password|passwd|secret|token|authorization|credential|api[-_]?key|cookie)")
FILE_OF_SECRET = re.compile(r"(?i)(file|path|folder|dir)$")
USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
REDACTED = "(redacted)"


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@configuration
@click.option("--origin", is_flag=True, help="Say for each value which layer set it.")
def show(files: tuple[Path, ...], npd: tuple[Path, ...], flags: tuple[str, ...], *, origin: bool) -> None:
    r"""Print the effective configuration, secrets redacted.

    \b
    Examples:
      node-doctor config show
      node-doctor config show --config node.yaml --origin
    """
    loaded = load(files, flags, npd=npd)
    values = redacted(msgspec.to_builtins(loaded.config))
    if not origin:
        click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)
        return
    for path, value in leaves(values, ()):
        click.echo(f"{dotted(path)}: {yaml_value(value)}  # {origin_of(path, loaded.origins)}")


@config.command(name="convert")
@click.option("--from", "form", type=click.Choice(["npd"]), required=True, help="Whose files they are.")
@click.argument("files", nargs=-1, type=FILE, required=True)
def convert_files(form: str, files: tuple[Path, ...]) -> None:  # noqa: ARG001 - there is one choice
    r"""Print the configuration that does what the files of Node Problem Detector say.

    What is to be known of them stands in comments at its head.

    \b
    Examples:
      node-doctor config convert --from npd kernel-monitor.json readonly-monitor.json > node-doctor.yaml
    """
    from nodedoctor.npd.convert import convert

    click.echo(convert(files).text(), nl=False)


def origin_of(path: PathOf, origins: dict[str, str]) -> str:
    """Which layer set the value at `path`; nobody set what has only the default of its class."""
    return origins.get(dotted(path), "built-in default")


def redacted(value: Any, key: str = "") -> Any:  # noqa: ANN401 - any part of the configuration
    """`value` without what nobody else should read: texts under telling keys, and credentials in addresses."""
    if isinstance(value, dict):
        return {name: redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, key) for item in value]
    if not isinstance(value, str) or not value:
        return value
    if SECRET.search(key) and not FILE_OF_SECRET.search(key):
        return REDACTED
    return USERINFO.sub(f"{REDACTED}@", value)


def leaves(value: Any, path: PathOf) -> Iterator[tuple[PathOf, Any]]:  # noqa: ANN401 - any part of the configuration
    """Yield every value that has no parts, with its path."""
    parts = list(items_of(value))
    if not parts:
        yield path, value
    for key, item in parts:
        yield from leaves(item, (*path, key))


def yaml_value(value: object) -> str:
    """`value` in one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=1 << 20).removesuffix("\n").removesuffix("\n...")
    )

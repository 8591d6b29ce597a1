"""The one way from files, environment and flags to a valid configuration, for a start and for everything else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nodedoctor.config.layers import Layers, dotted, process_environment
from nodedoctor.config.model import Config, Exporters, MonitorEntry
from nodedoctor.config.rules import listed, monitor_faults, period_faults, rule_faults
from nodedoctor.config.schema import Fault, schema_faults
from nodedoctor.config.text import PathOf, parse, read_document
from nodedoctor.errors import ConfigurationError

SYSTEM_FILE = Path("/etc/node-doctor/config.yaml")
DEFAULT = "embedded default"
IDENTITY = ("name", "type", "enabled", "config", "dependsOn")
"""What others of a monitor's kind, and those that depend on it, must know of it."""
T = TypeVar("T")


class Loaded(msgspec.Struct, frozen=True):
    """A valid configuration, and for each value, by its path, which layer set it."""

    config: Config
    origins: dict[str, str]


def load(
    paths: Iterable[Path] = (),
    flags: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    npd: Iterable[Path] = (),
) -> Loaded:
    """The configuration of these layers, later ones over earlier: default, `paths`, `npd`, `environ`, `flags`.

    Args:
        paths: Files; none: $NODE_DOCTOR_CONFIG, else /etc/node-doctor/config.yaml if it exists.
        flags: Each PATH=VALUE.
        environ: The environment; None is this process's.
        npd: Node Problem Detector's files. Their monitors join those of `paths`, and replace the default ones.

    Raises:
        ConfigurationError: with every fault that was found.
    """
    environ = process_environment() if environ is None else environ
    layers = Layers(environ)
    layers.add_document(parse(DEFAULT, (files("nodedoctor") / "etc/config.yaml").read_text()))
    for path in list(paths) or default_files(environ):
        try:
            layers.add_document(read_document(path))
        except ConfigurationError as error:
            layers.faults += error.faults
    if npd := list(npd):
        # What most agents never need would be in the memory of all their processes.
        from nodedoctor.npd.convert import convert

        try:
            layers.add_converted(convert(npd).data, ", ".join(map(str, npd)), instead_of=DEFAULT)
        except ConfigurationError as error:
            layers.faults += error.faults
    layers.add_environment()
    layers.add_flags(flags)
    return validated(layers)


def default_files(environ: Mapping[str, str], system: Path = SYSTEM_FILE) -> list[Path]:
    """The files to read when none was named."""
    named = environ.get("NODE_DOCTOR_CONFIG")
    if named:
        return [Path(name) for name in named.split(":")]
    return [system] if there(system) else []


def there(path: Path) -> bool:
    """Whether there is something at `path`; what can't be looked at is there, so that it is told and not passed over."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}
    return True


def validated(layers: Layers) -> Loaded:
    """The configuration that `layers` make.

    Raises:
        ConfigurationError: with every fault that was found.
    """
    monitors = listed(layers.data, "monitors")
    faults = value_faults(layers.data, monitors)
    if layers.read_references(path for path, _ in faults):
        faults = value_faults(layers.data, monitors)
    faults = [fault for fault in (*faults, *period_faults(layers.data)) if fault[0] not in layers.unset]
    faults += layers.unset_faults()
    told = [*layers.faults, *(layers.told(fault) for fault in faults)]
    entries = entries_of(monitors, faults)
    exporters = typed(layers.data.get("exporters", {}), Exporters) or Exporters()
    told += [layers.told(fault) for fault in rule_faults(entries, exporters)]
    if told:
        raise ConfigurationError(list(dict.fromkeys(told)))
    config = msgspec.convert(layers.data, Config)
    return Loaded(config, {dotted(path): origin for path, origin in layers.origins.items()})


def value_faults(data: dict[str, Any], monitors: list[Any]) -> list[Fault]:
    """What the schemas, and each monitor's own rules, say of the values."""
    faults = list(schema_faults(data, Config))
    for index, entry in enumerate(monitors):
        faults += monitor_faults(entry, ("monitors", index))
    return faults


def entries_of(monitors: list[Any], faults: Iterable[Fault]) -> dict[int, MonitorEntry]:
    """The monitors by their place; of one with a fault, what is needed to judge the others, as far as it is right."""
    faulty = {(path[1], path[2]) for path, _ in faults if is_own(path)}
    entries = {}
    for index, raw in enumerate(monitors):
        entry = typed(raw, MonitorEntry)
        if entry is None and isinstance(raw, dict):
            right = {key: raw[key] for key in IDENTITY if key in raw and (index, key) not in faulty}
            entry = typed(right, MonitorEntry)
        if entry is not None:
            entries[index] = entry
    return entries


def is_own(path: PathOf) -> bool:
    """Whether `path` leads to a key of a monitor, and not to one of the options of its type."""
    return path[:1] == ("monitors",) and len(path) > 2 and (path[2] != "config" or len(path) == 3)


def typed(raw: object, kind: type[T]) -> T | None:
    """`raw` as a `kind`, or None if it does not fit, which the schema's faults tell."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        return None


def node_name(config: Config, environ: Mapping[str, str] | None = None) -> str:
    """The node's name: settings.nodeName, else $NODE_NAME, else the host's."""
    environ = process_environment() if environ is None else environ
    return config.settings.node_name or environ.get("NODE_NAME", "") or socket.gethostname()

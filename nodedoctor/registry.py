"""Finds monitor and exporter types through entry points, the built-in ones like everybody else's."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nodedoctor.errors import ConfigurationError
from nodedoctor.exporter import Exporter
from nodedoctor.monitor import Monitor

MONITORS = "node_doctor.monitors"
EXPORTERS = "node_doctor.exporters"


@cache
def names(group: str) -> tuple[str, ...]:
    """The names that are registered in `group`, sorted."""
    return tuple(sorted(found(group)))


def monitor_type(kind: str) -> type[Monitor[Any]]:
    """The class of the monitor type `kind`.

    Raises:
        ConfigurationError: nobody registered it, or what is registered can't be loaded.
    """
    found_type: type[Monitor[Any]] = load(MONITORS, kind, Monitor)
    return found_type


def exporter_type(name: str) -> type[Exporter[Any]]:
    """The class of the exporter `name`.

    Raises:
        ConfigurationError: nobody registered it, or what is registered can't be loaded.
    """
    found_type: type[Exporter[Any]] = load(EXPORTERS, name, Exporter)
    return found_type


@cache
def found(group: str) -> dict[str, EntryPoint]:
    """The entry points of `group` by name."""
    return {point.name: point for point in entry_points(group=group)}


@cache
def load(group: str, name: str, base: type[Any]) -> Any:  # noqa: ANN401 - whatever class `base` is of
    """The class that is registered as `name` in `group`, checked to be a subclass of `base`."""
    point = found(group).get(name)
    if point is None:
        known = ", ".join(names(group)) or "none; is node-doctor installed in this environment?"
        raise ConfigurationError([f"{name!r} is not registered in {group}; known: {known}"])
    origin = f"{name!r} ({point.value}{f' of {point.dist.name}' if point.dist else ''})"
    try:
        loaded = point.load()
    except Exception as error:  # somebody else's module may raise anything while it is imported
        raise ConfigurationError([f"{origin} can't be loaded: {type(error).__name__}: {error}"]) from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigurationError([f"{origin} is not a subclass of {base.__module__}.{base.__qualname__}"])
    return loaded

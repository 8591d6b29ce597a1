"""PyPI and Debian have another package named supervisor: say so before it is mistaken for this one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from nodedoctor.errors import ConfigurationError


def own_supervisor() -> None:
    """Refuse to start where both are installed.

    Raises:
        ConfigurationError: the other package is in the same environment, and some of its modules may be loaded.
    """
    try:
        other = distribution("supervisor")
    except PackageNotFoundError:
        return
    where = other.locate_file("supervisor")
    text = f"{where} is of the package 'supervisor' {other.version}, {__file__} of node-doctor: both can't be in one"
    raise ConfigurationError([f"{text} environment; install node-doctor in a virtual environment of its own"])

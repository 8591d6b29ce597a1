"""Configuration files, and what loading them says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nodedoctor.config.load import Loaded, load
from nodedoctor.errors import ConfigurationError

HEAD = "apiVersion: node-doctor.io/v1alpha1\nkind: NodeDoctorConfig\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file whose first two lines are the head, and gives its path."""

    def write(text: str, name: str = "c.yaml") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + text)
        return path

    return write


@pytest.fixture
def loaded(written: Callable[..., Path]) -> Callable[..., Loaded]:
    """The configuration of one file with this text, in an empty environment unless one is given."""

    def from_text(text: str, *flags: str, **environ: str) -> Loaded:
        return load([written(text)], flags, environ)

    return from_text


@pytest.fixture
def faults(loaded: Callable[..., Loaded], tmp_path: Path) -> Callable[..., list[str]]:
    """The faults of one file with this text, the folder's name left out."""

    def of(text: str, *flags: str, **environ: str) -> list[str]:
        try:
            loaded(text, *flags, **environ)
        except ConfigurationError as error:
            return [fault.replace(f"{tmp_path}/", "") for fault in error.faults]
        return []

    return of

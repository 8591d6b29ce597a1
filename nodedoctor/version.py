"""The version that runs."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """As installed."""
    return metadata.version("node-doctor")

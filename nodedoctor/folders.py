"""Where the agent keeps its sockets and its state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nodedoctor.errors import ConfigurationError


def run_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The run folder: as given, $NODE_DOCTOR_RUN_DIR, /run/node-doctor as root, else $XDG_RUNTIME_DIR/node-doctor."""
    if given or environ.get("NODE_DOCTOR_RUN_DIR"):
        return Path(given or environ["NODE_DOCTOR_RUN_DIR"]).absolute()
    if os.geteuid() == 0:
        return Path("/run/node-doctor")
    return Path(environ.get("XDG_RUNTIME_DIR") or f"/tmp/node-doctor-{os.geteuid()}") / "node-doctor"  # noqa: S108 - its owner is checked


def state_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder: as given, $NODE_DOCTOR_STATE_DIR, /var/lib/node-doctor as root, else in $XDG_STATE_HOME."""
    if given or environ.get("NODE_DOCTOR_STATE_DIR"):
        return Path(given or environ["NODE_DOCTOR_STATE_DIR"]).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/node-doctor")
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "node-doctor"


def make_private(folder: Path) -> Path:
    """Make `folder`, for this user alone: who can write into it can forge what triggers repairs.

    Raises:
        ConfigurationError: it can't be made, or belongs to somebody else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.stat().st_uid
        if owner != os.geteuid():
            raise ConfigurationError(
                [f"{folder}: belongs to uid {owner}, not to {os.geteuid()}; choose another folder"]
            )
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            [f"{folder}: can't be made: {error.strerror}; choose another folder"]
        ) from None
    return folder

"""A file system that is frozen: writing to it hangs in the kernel, and SIGKILL does not end that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_support import Agent, eventually


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of its own; thawed and unmounted at the end."""
    image, point = tmp_path / "image", tmp_path / "mount"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-qF", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no loop mount: {error}")
    yield point
    subprocess.run(["fsfreeze", "-u", point], check=False, capture_output=True)
    subprocess.run(["umount", "--lazy", point], check=True)


def test_a_frozen_file_system_is_found_by_the_write_probe_and_is_well_once_thawed(
    agent: Callable[..., Agent], filesystem: Path
) -> None:
    paths = f"{{paths: [{{path: {filesystem}, writeProbe: true}}]}}"
    one = agent(
        f"[{{name: d, type: disk-health-check, interval: 1s, timeout: 500ms, config: {paths}}}]"
    ).ready()
    one.becomes("DiskWriteFailed", "False")
    subprocess.run(["fsfreeze", "-f", filesystem], check=True)
    eventually("it is stuck", lambda: one.worker("monitor d")["stuck"] > 0)
    one.becomes("MonitorHung", "True")
    subprocess.run(["fsfreeze", "-u", filesystem], check=True)
    eventually("nobody is stuck", lambda: one.worker("monitor d")["stuck"] == 0)
    one.becomes("MonitorHung", "False")
    one.becomes("DiskWriteFailed", "False")

"""system-stats-monitor files: which figures of the machine to export, and under which names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.entries import Draft, without_defaults
from nodedoctor.npd.files import SystemStatsFile
from nodedoctor.npd.goduration import ours


def stats_draft(name: str, file: SystemStatsFile) -> Draft:
    """The monitor for the file `name`.

    Raises:
        ConfigurationError: it reads another /proc than the machine's.
    """
    if file.proc_path.rstrip("/") != "/proc":
        raise ConfigurationError([f"{name}: procPath: found {file.proc_path!r}, allowed: /proc"])
    config: dict[str, Any] = {}
    for key, part in file.parts():
        names = {
            metric: told.display_name.replace("/", "_")
            for metric, told in part.metrics_configs.items()
            if told.display_name
        }
        if names:
            config[key] = {"metrics": names, **options_of(key, name, file)}
    return Draft("system-stats", "system-stats", config, interval=ours(file.invoke_interval))


def options_of(key: str, name: str, file: SystemStatsFile) -> dict[str, Any]:
    """What a part has besides its metrics."""
    if key == "disk":
        return {
            "includeRootBlockDevices": file.disk.include_root_blk,
            "includeAllAttachedBlockDevices": file.disk.include_all_attached_blk,
        }
    if key == "net":
        return without_defaults({"excludeInterfaces": file.net.exclude_interface_regexp})
    if key == "osFeature":
        return {
            "knownModules": str((Path(name).parent / file.os_feature.known_modules_config_path).absolute())
        }
    return {}

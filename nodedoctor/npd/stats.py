"""system-stats-monitor files: which figures of the machine to export, and under which names."""

from __future__ import annotations

from typing import Any

from nodedoctor.npd.entries import Draft, without_defaults
from nodedoctor.npd.files import SystemStatsFile
from nodedoctor.npd.goduration import ours

SECTIONS = {
    "cpu": "cpu",
    "disk": "disk",
    "host": "host",
    "memory": "memory",
    "net": "net",
    "os_feature": "osFeature",
}


def stats_draft(file: SystemStatsFile) -> Draft:
    """The monitor for `file`."""
    config: dict[str, Any] = {}
    for attribute, section in SECTIONS.items():
        component = getattr(file, attribute)
        if component and component.metrics_configs:
            names = {
                metric: told.display_name.replace("/", "_")
                for metric, told in component.metrics_configs.items()
            }
            config[section] = {"metrics": names}
    if "disk" in config and file.disk:
        config["disk"] |= switches(file.disk)
    if "net" in config and file.net:
        config["net"] |= without_defaults({"excludeInterfaces": file.net.exclude_interface_regexp})
    if "osFeature" in config and file.os_feature:
        config["osFeature"] |= without_defaults({"knownModules": file.os_feature.known_modules_config_path})
    return Draft("system-stats", "system-stats", config, interval=ours(file.invoke_interval))

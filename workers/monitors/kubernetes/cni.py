"""Whether pods can get a network: the CNI configuration that the runtime takes, and the plugins that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options
from workers.cri import find_endpoint
from workers.kubelet import kubelet_of

NOT_CONFIGURED = ConditionType(
    "CNINotConfigured",
    reason="CNIConfigMissing",
    ok_reason="CNIConfigured",
    warning_reason="CNIConfigAmbiguous",
    reasons=("CNIConfigMissing", "CNIConfigInvalid", "CNIPluginMissing"),
)
FILES = Gauge("cni_config_files", "Files in the configuration folder that the runtime could take")
FOLDERS = (
    "/etc/cni/net.d",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/lib/rancher/rke2/agent/etc/cni/net.d",
    "/var/snap/microk8s/current/args/cni-network",
)
BINARIES = (
    "/opt/cni/bin",
    "/usr/lib/cni",
    "/usr/libexec/cni",
    "/var/lib/rancher/k3s/data/cni",
    "/var/lib/rancher/k3s/data/current/bin",
    "/var/snap/microk8s/current/opt/cni/bin",
)
PASSING_OVER = {"crio.sock", "cri-dockerd.sock"}
"""Sockets of the runtimes that pass over a configuration that they can't use."""
SUFFIXES = {".conf", ".conflist", ".json"}
VERSION = re.compile(r"\d+\.\d+\.\d+\Z")


class CNIOptions(Options, frozen=True):
    """Where the runtime looks."""

    conf_dir: str = ""
    """The runtime's configuration folder on the node; by default the first that is there of those in use."""
    bin_dirs: tuple[str, ...] = ()
    """The folders that the runtime takes plugins from; by default those in use, /opt/cni/bin first."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Folders that can't be."""
        named = {"confDir": self.conf_dir} if self.conf_dir else {}
        for option, path in (named | {f"binDirs[{i}]": path for i, path in enumerate(self.bin_dirs)}).items():
            if not path.startswith("/") or "\0" in path:
                yield option, f"found {path!r}, allowed: an absolute path"


class Network(msgspec.Struct, frozen=True):
    """What a configuration says: whether it tells its version, the plugins that it takes, and those for addresses."""

    versioned: bool
    plugins: tuple[str, ...]
    ipams: tuple[str, ...]


class Judged(msgspec.Struct, frozen=True):
    """One configuration: what was found, and whether a runtime that passes over what it can't use takes it."""

    name: str
    findings: list[Finding]
    taken: bool


class CNIMonitor(Monitor[CNIOptions]):
    """Reads the configuration as libcni does (CNI specification, sections 1 and 2; containernetworking/cni, libcni).

    The first file by name that ends in .conf, .conflist or .json wins; what stands in the others is never used. With
    containerd (go-cni) no pod gets a network while that file is broken. CRI-O (ocicni; unless its cni_default_network
    names one) and cri-dockerd pass over a file that is broken or names a plugin that is not there, and take the next.
    Plugins are programs called as their type, the ones that hand out addresses (`ipam`) too; for those no runtime looks
    beforehand.
    """

    kind, options_type = "cni-health-check", CNIOptions
    conditions = (NOT_CONFIGURED,)
    metrics = (FILES,)
    interval = 60.0

    def check(self) -> Iterator[Observation]:
        """Find the configuration that wins, then its plugins."""
        folder = self.options.conf_dir or first_folder(self.host)
        files = candidates(self.host.path(folder))
        yield FILES(len(files))
        if not files:
            yield self.missing(folder)
            return
        judged = [self.judged(f"{folder}/{f.name}") for f in (files if passes_over(self.host) else files[:1])]
        winner = next((one for one in judged if one.taken), judged[0])
        yield from winner.findings
        text = f"{folder} has more than one configuration, of which {Path(winner.name).name} alone is used"
        yield NOT_CONFIGURED.warn_when(len(files) > 1, text)
        for one in judged[: judged.index(winner)]:
            yield NOT_CONFIGURED.warn_when(True, f"the runtime passes over {one.name}, which it can't use")

    def missing(self, folder: str) -> Finding:
        """What it means that there is no configuration, which a machine without a kubelet does not need."""
        if not self.options.conf_dir and not has_kubelet(self.host):
            raise Undetermined(f"no kubelet is on this machine, and no network in {folder}", "NotKubernetes")
        return NOT_CONFIGURED.when(
            True, f"{folder} has no network configuration: the network add-on's pod has not written one"
        )

    def judged(self, name: str) -> Judged:
        """What the configuration `name` is worth."""
        try:
            network = network_of(self.host.path(name).read_bytes(), many=name.endswith(".conflist"))
        except ValueError as error:
            invalid = NOT_CONFIGURED.when(True, f"{name} can't be used: {error}", "CNIConfigInvalid")
            return Judged(name, [invalid], taken=False)
        plugins = [self.program(name, plugin) for plugin in network.plugins]
        ipams = [self.program(name, plugin) for plugin in network.ipams]
        text = f"{name} has no cniVersion, which is taken for 0.1.0"
        version = NOT_CONFIGURED.warn_when(not network.versioned, text)
        return Judged(name, [*plugins, *ipams, version], taken=not any(plugin.bad for plugin in plugins))

    def program(self, name: str, plugin: str) -> Finding:
        """Whether the program of a plugin that the configuration `name` takes is there and can be run."""
        folders = self.options.bin_dirs or BINARIES
        hidden = ""
        for folder in folders:
            try:
                path = self.host.path(f"{folder}/{plugin}")
                if path.is_file() and path.stat().st_mode & 0o111:
                    return NOT_CONFIGURED.when(False, "")
            except PermissionError:
                hidden = hidden or folder
        if hidden:
            return NOT_CONFIGURED.unknown(f"{hidden} can't be looked into, run as root", "PermissionDenied")
        text = f"{name} takes the plugin {plugin}, which is no program in {', '.join(folders)}"
        return NOT_CONFIGURED.when(True, text, "CNIPluginMissing")


def first_folder(host: Host) -> str:
    """The configuration folder in use: the first that has a configuration, else the usual one."""
    return next((folder for folder in FOLDERS if candidates(host.path(folder))), FOLDERS[0])


def candidates(folder: Path) -> list[Path]:
    """The files that a runtime takes from its configuration folder, the one that wins first."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.is_dir())
    except FileNotFoundError:
        return []


def passes_over(host: Host) -> bool:
    """Whether the runtime takes the next configuration when it can't use one; not if it is not known which it is."""
    try:
        endpoint = find_endpoint(host)
    except (PermissionError, Undetermined):
        return False
    return endpoint is not None and Path(endpoint.path).name in PASSING_OVER


def has_kubelet(host: Host) -> bool:
    """Whether the machine has a kubelet; one whose files can't be read or understood is one."""
    try:
        return kubelet_of(host) is not None
    except (PermissionError, ValueError):
        return True


def network_of(content: bytes, *, many: bool) -> Network:
    """What a configuration says; `many` is whether its name makes it a list of plugins, not a single one.

    Raises:
        ValueError: a runtime can't use it.
    """
    try:
        network = json.loads(content)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(network, dict):
        raise ValueError("it is no JSON object")
    version = network.get("cniVersion", "")
    if not isinstance(version, str) or (version and not VERSION.match(version)):
        raise ValueError("its cniVersion is none")
    if not network.get("name") or not isinstance(network["name"], str):
        raise ValueError("it has no name")
    plugins = network.get("plugins") if many else [network]
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("it has no list of plugins")
    kinds, ipams = [kind_of(p) for p in plugins], [kind_of(p.get("ipam")) for p in plugins if kind_of(p)]
    if not all(kinds):
        raise ValueError("a plugin has no type")
    return Network(bool(version), tuple(dict.fromkeys(kinds)), tuple(dict.fromkeys(filter(None, ipams))))


def kind_of(plugin: Any) -> str:  # noqa: ANN401 - it comes from a file
    """The program that a plugin of a configuration, or its `ipam`, takes; empty if it names none."""
    kind = plugin.get("type") if isinstance(plugin, dict) else None
    return kind if isinstance(kind, str) and "/" not in kind and "\0" not in kind else ""

"""What the kubelet was told, by its command line and its configuration files; it need not run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nodedoctor.host import Host

ROOT = "/var/lib/kubelet"
ARGUMENTS_FILE = f"{ROOT}/kubeadm-flags.env"
"""Where kubeadm writes flags, for when the kubelet's process can't be seen."""
CONFIG = f"{ROOT}/config.yaml"
DROP_INS = (
    "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d",
    "/var/lib/rancher/rke2/agent/etc/kubelet.conf.d",
)
"""Where distributions whose kubelet is no process of its own write what they tell it."""
EVICTION = {
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
"""At which amounts left of its disks the kubelet evicts if it was told nothing; "Node-pressure Eviction"."""
FLAGS = {
    "container-runtime-endpoint": "containerRuntimeEndpoint",
    "max-pods": "maxPods",
    "pods-per-core": "podsPerCore",
}
EVICTION_FLAGS = {"eviction-hard": "evictionHard", "eviction-soft": "evictionSoft"}
"""Their values are made of SIGNAL<AMOUNT, with commas."""


class Settings(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) that monitors want to know."""

    container_runtime_endpoint: str = ""
    max_pods: int = 110
    pods_per_core: int = 0
    eviction_hard: dict[str, str] | None = None
    eviction_soft: dict[str, str] = {}
    merge_default_eviction_settings: bool = False

    def pods(self, cores: int) -> int:
        """How many pods it takes on a machine with so many cores."""
        return min(self.max_pods, self.pods_per_core * cores or self.max_pods)

    def thresholds(self, signal: str) -> tuple[str, ...]:
        """The amounts left at which it evicts for `signal`, as they were written: the hard one, then the soft one.

        Hard ones that it was told replace the defaults all together, unless they are to be merged.
        """
        hard = EVICTION if self.eviction_hard is None else self.eviction_hard
        if self.merge_default_eviction_settings:
            hard = EVICTION | hard
        return tuple(amounts[signal] for amounts in (hard, self.eviction_soft) if signal in amounts)


class Kubelet(msgspec.Struct, frozen=True):
    """This machine's kubelet: its root folder, and its settings."""

    root: str
    settings: Settings


def kubelet_of(host: Host) -> Kubelet | None:
    """This machine's kubelet, or None if it has none.

    Raises:
        OSError: its files can't be read (PermissionError).
        ValueError: its configuration can't be understood.
    """
    flags = flags_of(command_line(host) or arguments_file(host))
    root = flags.get("root-dir", ROOT)
    layers = [read(path) for path in config_files(host, flags)]
    if not flags and not layers and not host.path(root).is_dir():
        return None
    told: dict[str, Any] = {}
    for layer in [*layers, from_flags(flags)]:
        told = merged(told, layer)
    return Kubelet(root, msgspec.convert(told, Settings, strict=False))


def command_line(host: Host) -> list[str]:
    """The arguments of the process called kubelet; empty if there is none, or none to be seen."""
    for comm in host.proc.glob("[0-9]*/comm"):
        try:
            if comm.read_text(errors="replace") == "kubelet\n":
                return (comm.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return []


def arguments_file(host: Host) -> list[str]:
    """The arguments that kubeadm has written down."""
    try:
        _, _, words = host.path(ARGUMENTS_FILE).read_text(errors="replace").partition("=")
    except FileNotFoundError:
        return []
    return [word for quoted in shlex.split(words) for word in quoted.split()]


def flags_of(words: Iterable[str]) -> dict[str, str]:
    """The flags in a command line, by name: --NAME=VALUE or --NAME VALUE."""
    flags, name = {}, ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value
        elif name and not flags[name]:
            flags[name] = word
    return flags


def config_files(host: Host, flags: dict[str, str]) -> list[Path]:
    """The configuration files that are there, the ones that win last."""
    folders = (flags["config-dir"],) if "config-dir" in flags else DROP_INS
    files = [host.path(flags.get("config") or CONFIG)]
    for folder in folders:
        files += sorted(host.path(folder).glob("*.conf"))
    return [path for path in files if path.is_file()]


def read(path: Path) -> dict[str, Any]:
    """What stands in one configuration file; JSON is YAML too."""
    try:
        content = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no KubeletConfiguration")
    return {name: value for name, value in content.items() if value is not None}


def from_flags(flags: dict[str, str]) -> dict[str, Any]:
    """The settings among the flags, as they would stand in a configuration file."""
    told: dict[str, Any] = {setting: flags[flag] for flag, setting in FLAGS.items() if flag in flags}
    for flag, setting in EVICTION_FLAGS.items():
        if flag in flags:
            pairs = (pair.split("<", 1) for pair in flags[flag].split(",") if "<" in pair)
            told[setting] = {signal.strip(): amount.strip() for signal, amount in pairs}
    return told


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two layers of settings: `above` wins, and maps are merged key by key."""
    both = below | above
    for setting, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(setting), dict):
            both[setting] = below[setting] | value
    return both

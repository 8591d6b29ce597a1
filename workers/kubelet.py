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


class Settings(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) that monitors want to know."""

    container_runtime_endpoint: str = ""


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
        told |= layer
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
    flag = "container-runtime-endpoint"
    return {"containerRuntimeEndpoint": flags[flag]} if flag in flags else {}

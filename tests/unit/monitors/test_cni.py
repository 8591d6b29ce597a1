"""The CNI monitor against real configurations and the plugins of the package containernetworking-plugins."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, give_up, look

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from workers.monitors.kubernetes.cni import CNIMonitor, CNIOptions

PLUGINS = Path("/usr/lib/cni")
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}],
}


class Node:
    """A node's folders below a test's own root, with a kubelet and real plugins."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configurations = root / "etc/cni/net.d"
        self.programs = root / "opt/cni/bin"
        for folder in (self.configurations, self.programs, root / "var/lib/kubelet", root / "proc"):
            folder.mkdir(parents=True)
        for plugin in ("bridge", "host-local", "portmap"):
            self.install(plugin)

    def install(self, plugin: str) -> None:
        """Put a real plugin where the node's are."""
        try:
            shutil.copy(PLUGINS / plugin, self.programs)
        except FileNotFoundError as error:
            give_up(error)

    def write(self, name: str, content: Any) -> Path:
        """Write a configuration."""
        path = self.configurations / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def monitor(self, **options: Any) -> CNIMonitor:
        """One that looks at this node."""
        settings = msgspec.convert(options, CNIOptions)
        assert not list(settings.faults())
        return CNIMonitor("cni", settings, Host(root=self.root, proc=self.root / "proc"))

    def look(self, **options: Any) -> Seen:
        """What one check finds."""
        return look(self.monitor(**options))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def why(seen: Seen) -> tuple[str, str]:
    """Status and reason of the condition."""
    return str(seen["CNINotConfigured"]), seen.verdicts["CNINotConfigured"].reason


def message(seen: Seen) -> str:
    return seen.verdicts["CNINotConfigured"].message


def test_a_network_is_configured_once_there_is_a_file_and_until_it_is_gone(node: Node) -> None:
    seen = node.look()
    assert why(seen) == ("True", "CNIConfigMissing")
    assert message(seen).startswith("/etc/cni/net.d has no network configuration")
    path = node.write("10-pods.conflist", BRIDGE)
    seen = node.look()
    assert why(seen) == ("False", "CNIConfigured")
    assert seen.metric("cni_config_files") == 1
    path.unlink()
    assert why(node.look()) == ("True", "CNIConfigMissing")


@pytest.mark.parametrize("plugin", ["portmap", "host-local"])
def test_a_plugin_that_is_gone_is_named_until_it_is_back(node: Node, plugin: str) -> None:
    node.write("10-pods.conflist", BRIDGE)
    (node.programs / plugin).unlink()
    seen = node.look()
    assert why(seen) == ("True", "CNIPluginMissing")
    assert message(seen).startswith(
        f"/etc/cni/net.d/10-pods.conflist takes the plugin {plugin}, which is no program"
    )
    node.install(plugin)
    assert why(node.look()) == ("False", "CNIConfigured")


def test_a_plugin_that_nobody_may_run_is_as_good_as_gone(node: Node) -> None:
    node.write("10-pods.conflist", BRIDGE)
    (node.programs / "portmap").chmod(0o644)
    assert why(node.look()) == ("True", "CNIPluginMissing")


def test_a_plugin_behind_a_link_of_the_node_is_found_below_its_root(node: Node) -> None:
    node.write("10-pods.conflist", BRIDGE)
    (node.root / "data").mkdir()
    (node.programs / "portmap").rename(node.root / "data/portmap")
    (node.programs / "portmap").symlink_to("/data/portmap")
    assert why(node.look()) == ("False", "CNIConfigured")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param('{"name": "pods", "plugins": [', "it is no JSON", id="cut off"),
        pytest.param("[]", "it is no JSON object", id="a list"),
        pytest.param(BRIDGE | {"cniVersion": "new"}, "its cniVersion is none", id="a version that is none"),
        pytest.param(BRIDGE | {"cniVersion": 1}, "its cniVersion is none", id="a number as version"),
        pytest.param(BRIDGE | {"name": ""}, "it has no name", id="no name"),
        pytest.param(BRIDGE | {"plugins": []}, "it has no list of plugins", id="no plugin"),
        pytest.param(BRIDGE | {"plugins": [{}]}, "a plugin has no type", id="no type"),
        pytest.param(BRIDGE | {"plugins": [{"type": "../x"}]}, "a plugin has no type", id="a path as type"),
    ],
)
def test_a_file_that_no_runtime_can_use_is_invalid_until_it_is_mended(
    node: Node, content: Any, says: str
) -> None:
    node.write("10-pods.conflist", content)
    seen = node.look()
    assert why(seen) == ("True", "CNIConfigInvalid")
    assert message(seen).startswith(f"/etc/cni/net.d/10-pods.conflist can't be used: {says}")
    node.write("10-pods.conflist", BRIDGE)
    assert why(node.look()) == ("False", "CNIConfigured")


def test_of_several_files_the_first_by_name_is_judged_and_the_others_are_warned_of(node: Node) -> None:
    node.write("20-broken.conflist", "{")
    node.write("00-notes.txt", "{")
    node.write("10-single.conf", {"cniVersion": "1.0.0", "name": "one", "type": "bridge"})
    seen = node.look()
    assert why(seen) == ("False", "CNIConfigAmbiguous")
    assert "of which 10-single.conf alone is used" in message(seen)
    node.write("05-broken.json", "{")
    assert why(node.look()) == ("True", "CNIConfigInvalid")


def listen(node: Node, path: str) -> None:
    """A runtime's socket on `node`."""
    place = node.root / path
    place.parent.mkdir(parents=True)
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(place))


BRIDGE_WITHOUT_PROGRAM = BRIDGE | {"plugins": [{"type": "gone"}]}


@pytest.mark.parametrize("broken", ["{", BRIDGE_WITHOUT_PROGRAM], ids=["no JSON", "a plugin that is gone"])
@pytest.mark.parametrize("path", ["run/crio/crio.sock", "run/cri-dockerd.sock"])
def test_cri_o_passes_over_a_file_that_it_can_not_use(node: Node, path: str, broken: Any) -> None:
    listen(node, path)
    first = node.write("05-broken.conflist", broken)
    assert str(node.look()["CNINotConfigured"]) == "True"
    node.write("10-pods.conflist", BRIDGE)
    seen = node.look()
    assert why(seen) == ("False", "CNIConfigAmbiguous")
    assert "passes over /etc/cni/net.d/05-broken.conflist" in message(seen)
    assert "10-pods.conflist alone is used" in message(seen)
    first.unlink()
    assert why(node.look()) == ("False", "CNIConfigured")


def test_cri_o_takes_a_file_whose_plugin_for_addresses_is_gone_and_no_pod_gets_one(node: Node) -> None:
    listen(node, "run/crio/crio.sock")
    node.write("05-pods.conflist", BRIDGE)
    node.write("10-portmap.conflist", BRIDGE | {"plugins": [{"type": "portmap"}]})
    (node.programs / "host-local").unlink()
    assert why(node.look()) == ("True", "CNIPluginMissing")
    assert "takes the plugin host-local" in message(node.look())


def test_containerd_takes_the_first_file_however_broken_it_is(node: Node) -> None:
    listen(node, "run/containerd/containerd.sock")
    node.write("10-pods.conflist", BRIDGE)
    node.write("05-broken.conflist", "{")
    assert why(node.look()) == ("True", "CNIConfigInvalid")


def test_a_configuration_without_a_version_is_warned_of(node: Node) -> None:
    node.write("10-pods.conflist", {"name": "pods", "plugins": [{"type": "bridge"}]})
    seen = node.look()
    assert str(seen["CNINotConfigured"]) == "False"
    assert "has no cniVersion" in message(seen)


def test_a_machine_that_is_no_node_is_undetermined(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    with pytest.raises(Undetermined, match="no kubelet") as caught:
        list(CNIMonitor("cni", CNIOptions(), Host(root=tmp_path, proc=tmp_path / "proc")).check())
    assert caught.value.reason == "NotKubernetes"


def test_k3s_has_its_folder_elsewhere(node: Node) -> None:
    node.configurations.rmdir()
    node.configurations = node.root / "var/lib/rancher/k3s/agent/etc/cni/net.d"
    node.configurations.mkdir(parents=True)
    node.write("10-flannel.conflist", BRIDGE)
    assert why(node.look()) == ("False", "CNIConfigured")


def test_the_options_name_other_folders(node: Node) -> None:
    node.write("10-pods.conflist", BRIDGE)
    assert why(node.look(confDir="/srv/cni")) == ("True", "CNIConfigMissing")
    seen = node.look(binDirs=["/srv/bin"])
    assert why(seen) == ("True", "CNIPluginMissing")
    assert "no program in /srv/bin" in message(seen)


def test_folders_must_be_absolute() -> None:
    assert {o for o, _ in CNIOptions(conf_dir="cni", bin_dirs=("bin",)).faults()} == {"confDir", "binDirs[0]"}


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="takes root to become nobody"
)
@pytest.mark.parametrize(
    ("hidden", "told"), [("etc/cni/net.d/10-pods.conflist", "denied"), ("opt/cni/bin", "{None}")]
)
def test_who_may_not_look_does_not_know(node: Node, hidden: str, told: str) -> None:
    node.write("10-pods.conflist", BRIDGE)
    node.root.chmod(0o755)
    (node.root / hidden).chmod(0o600)
    code = """
import os, sys
from pathlib import Path
from nodedoctor.host import Host
from nodedoctor.monitor import Finding
from workers.monitors.kubernetes.cni import CNIMonitor, CNIOptions
root = Path(sys.argv[1])
os.chdir(root)
os.chroot(root)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    items = list(CNIMonitor("cni", CNIOptions(), Host()).check())
    print({item.bad for item in items if isinstance(item, Finding)} - {False})
except PermissionError:
    print("denied")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(node.root)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == told

"""Paths of a node that is mounted somewhere in the agent's container."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodedoctor.host import Host, root_of_host


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's root with the links that real ones have."""
    (tmp_path / "run/containerd").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    (tmp_path / "etc/escape").symlink_to("../../../../etc/passwd")
    (tmp_path / "etc/circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("/var/run/containerd/a.sock", "run/containerd/a.sock", id="an absolute link"),
        pytest.param("/etc/resolv.conf", "run/resolv.conf", id="a relative link"),
        pytest.param("/etc/escape", "etc/passwd", id="a link that would leave the root"),
        pytest.param("/etc/none/such", "etc/none/such", id="what is not there"),
        pytest.param("/", "", id="the root itself"),
    ],
)
def test_links_of_the_node_are_followed_below_its_root(root: Path, name: str, found: str) -> None:
    assert Host(root=root).path(name) == root / found


def test_links_in_a_circle_are_an_error(root: Path) -> None:
    with pytest.raises(OSError, match="too many symbolic links"):
        Host(root=root).path("/etc/circle")


def test_without_a_container_a_path_is_itself() -> None:
    assert Host().path("/var/run/x") == Path("/var/run/x")


def test_a_configured_root_is_taken_as_it_is(tmp_path: Path) -> None:
    assert root_of_host(str(tmp_path)) == tmp_path
    assert root_of_host("") in {Path("/"), Path("/host")}

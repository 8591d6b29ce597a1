"""The monitor of certificates on real ones, that openssl makes with the lives and keys that are wanted."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from network_support import Seen, give_up, look

from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.types import ConditionStatus, Severity
from workers.monitors.kubernetes.certificate import CertificateMonitor, CertificateOptions

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
NOBODY = 65534
YEAR, DAY = timedelta(days=365), timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
KEYS = {
    "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ec": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ed25519": ["-algorithm", "ed25519"],
}
SETTINGS = """
[ca]
default_ca = here
[here]
database = index
rand_serial = yes
policy = any
unique_subject = no
[any]
commonName = supplied
organizationName = optional
"""


class Authority:
    """Issues certificates with `openssl ca`, which alone takes any begin and end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "settings").write_text(SETTINGS)
        (folder / "index").touch()
        self.key("ec", "key")
        self.root = self.issue("root", NOW + 9 * YEAR, own=True)

    def openssl(self, *words: str) -> bytes:
        try:
            return subprocess.run(
                ["openssl", *words], cwd=self.folder, check=True, capture_output=True
            ).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            give_up(error)

    def key(self, kind: str, name: str) -> None:
        self.openssl("genpkey", *KEYS[kind], "-out", name)

    def issue(
        self, name: str, ends: datetime, begins: datetime = NOW - YEAR, key: str = "ec", *, own: bool = False
    ) -> bytes:
        """A certificate in PEM, by the root or by itself."""
        if not own:
            self.key(key, "leaf")
        signing = "key" if own else "leaf"
        subject = f"/O=system:nodes/CN={name}"
        digest = [] if key == "ed25519" else ["-sha256"]
        self.openssl("req", "-new", "-key", signing, "-subj", subject, "-out", "request", *digest)
        by = ["-selfsign"] if own else ["-cert", "root.pem"]
        times = ["-startdate", f"{begins:%Y%m%d%H%M%SZ}", "-enddate", f"{ends:%Y%m%d%H%M%SZ}"]
        self.openssl(
            *("ca", "-batch", "-notext", "-config", "settings", "-keyfile", "key", "-md", "sha256"),
            *("-outdir", ".", "-in", "request", "-out", f"{name}.pem", *by, *times),
        )
        return (self.folder / f"{name}.pem").read_bytes()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The root of a node with a folder for what the options name."""
    (tmp_path / "pki").mkdir()
    return tmp_path


def monitor_of(node: Path, *paths: str, **options: Any) -> CertificateMonitor:
    converted = msgspec.convert({"paths": paths, **options}, CertificateOptions)
    assert list(converted.faults()) == []
    return CertificateMonitor("certificates", converted, Host(root=node))


def told(seen: Seen, condition: str) -> tuple[ConditionStatus, str, str]:
    verdict = seen.verdicts[condition]
    return verdict.status, verdict.reason, verdict.message


@pytest.mark.parametrize("key", list(KEYS))
@pytest.mark.parametrize(
    ("left", "reason", "words"),
    [(-DAY, "Expired", "has expired"), (5 * DAY, "ExpiresSoon", "expires in less than 7d")],
)
def test_one_that_ends_is_told_until_it_is_renewed(
    authority: Authority, node: Path, key: str, left: timedelta, reason: str, words: str
) -> None:
    monitor = monitor_of(node, "/pki/node.pem")
    (node / "pki/node.pem").write_bytes(authority.issue("worker", NOW + left, key=key))
    seen = look(monitor)
    assert told(seen, "CertificateExpiring") == (TRUE, reason, f"/pki/node.pem (worker) {words}")
    ends = seen.metric("certificate_expiry_timestamp_seconds", path="/pki/node.pem", subject="worker")
    assert ends == (NOW + left).timestamp()
    (node / "pki/node.pem").write_bytes(authority.issue("worker", NOW + YEAR, key=key))
    seen = look(monitor)
    assert (seen["CertificateExpiring"], seen["CertificateUnusable"]) == (FALSE, FALSE)


def test_one_that_ends_in_weeks_is_warned_of(authority: Authority, node: Path) -> None:
    (node / "pki/node.pem").write_bytes(authority.issue("worker", NOW + 20 * DAY))
    verdict = look(monitor_of(node, "/pki/node.pem")).verdicts["CertificateExpiring"]
    assert (verdict.status, verdict.severity) == (FALSE, Severity.WARNING)
    assert verdict.message == "/pki/node.pem (worker) expires in less than 30d"
    verdict = look(monitor_of(node, "/pki/node.pem", warning="10d")).verdicts["CertificateExpiring"]
    assert verdict.severity is Severity.INFO


@pytest.mark.parametrize(
    ("hours", "status", "severity"),
    [(5, FALSE, Severity.INFO), (2, FALSE, Severity.WARNING), (0.3, TRUE, Severity.ERROR)],
)
def test_one_that_lives_a_day_is_measured_by_its_life(
    authority: Authority, node: Path, hours: float, status: ConditionStatus, severity: Severity
) -> None:
    ends = NOW + timedelta(hours=hours)
    (node / "pki/node.pem").write_bytes(authority.issue("worker", ends, ends - DAY))
    verdict = look(monitor_of(node, "/pki/node.pem")).verdicts["CertificateExpiring"]
    assert (verdict.status, verdict.severity) == (status, severity)


def test_one_from_the_future_is_unusable(authority: Authority, node: Path) -> None:
    monitor = monitor_of(node, "/pki/node.pem")
    (node / "pki/node.pem").write_bytes(authority.issue("worker", NOW + YEAR, NOW + DAY))
    message = "/pki/node.pem (worker) is not valid yet: is the clock right?"
    assert told(look(monitor), "CertificateUnusable") == (TRUE, "NotYetValid", message)
    (node / "pki/node.pem").write_bytes(authority.issue("worker", NOW + YEAR))
    assert look(monitor)["CertificateUnusable"] is FALSE


def test_a_chain_ends_with_its_first_part(authority: Authority, node: Path) -> None:
    leaf, middle = authority.issue("worker", NOW + YEAR), authority.issue("middle", NOW + DAY)
    (node / "pki/node.pem").write_bytes(leaf + middle)
    message = "/pki/node.pem (worker), through middle, expires in less than 7d"
    assert told(look(monitor_of(node, "/pki/*.pem")), "CertificateExpiring") == (TRUE, "ExpiresSoon", message)


def test_an_old_root_next_to_its_successor_is_no_problem(authority: Authority, node: Path) -> None:
    old = authority.issue("old", NOW - DAY, own=True)
    (node / "pki/ca.crt").write_bytes(old + authority.root)
    assert look(monitor_of(node, "/pki/ca.crt"))["CertificateExpiring"] is FALSE
    (node / "pki/ca.crt").write_bytes(old)
    assert look(monitor_of(node, "/pki/ca.crt"))["CertificateExpiring"] is TRUE


def test_an_end_beyond_2050_is_read(authority: Authority, node: Path) -> None:
    ends = datetime(2087, 6, 5, 4, 3, 2, tzinfo=UTC)
    (node / "pki/node.pem").write_bytes(authority.issue("worker", ends))
    seen = look(monitor_of(node, "/pki/node.pem"))
    assert [metric.value for metric in seen.metrics] == [ends.timestamp()]
    assert seen["CertificateExpiring"] is FALSE


def test_the_kubelets_are_found_through_their_links_on_the_node(authority: Authority, node: Path) -> None:
    pki = node / "var/lib/kubelet/pki"
    pki.mkdir(parents=True)
    with pytest.raises(Undetermined, match="no certificates"):
        list(monitor_of(node).check())
    key = (authority.folder / "leaf").read_bytes() if (authority.folder / "leaf").exists() else b""
    (pki / "old.pem").write_bytes(authority.issue("system:node:a", NOW - DAY) + key)
    (pki / "new.pem").write_bytes(authority.issue("system:node:a", NOW + YEAR) + key)
    current = pki / "kubelet-client-current.pem"
    current.symlink_to("/var/lib/kubelet/pki/old.pem")
    message = "/var/lib/kubelet/pki/kubelet-client-current.pem (system:node:a) has expired"
    assert told(look(monitor_of(node)), "CertificateExpiring") == (TRUE, "Expired", message)
    current.unlink()
    current.symlink_to("/var/lib/kubelet/pki/new.pem")
    assert look(monitor_of(node))["CertificateExpiring"] is FALSE


def test_a_self_signed_one_that_was_replaced_is_passed_over(authority: Authority, node: Path) -> None:
    pki = node / "var/lib/kubelet/pki"
    pki.mkdir(parents=True)
    (pki / "kubelet.crt").write_bytes(authority.issue("own", NOW - DAY, own=True))
    assert look(monitor_of(node))["CertificateExpiring"] is TRUE
    (pki / "kubelet-server-current.pem").write_bytes(authority.issue("served", NOW + YEAR))
    assert look(monitor_of(node))["CertificateExpiring"] is FALSE


def kubeconfig(user: dict[str, str], cluster: dict[str, str]) -> bytes:
    document = {
        "kind": "Config",
        "clusters": [{"name": "prod", "cluster": {"server": "https://[::1]", **cluster}}],
        "users": [{"name": "admin", "user": user}],
    }
    return msgspec.yaml.encode(document)


def test_a_kubeconfigs_own_certificates_are_read(authority: Authority, node: Path) -> None:
    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    monitor, root = monitor_of(node, "/pki/admin.conf"), data(authority.root)
    file = node / "pki/admin.conf"
    bad = data(authority.issue("admin", NOW - DAY))
    file.write_bytes(kubeconfig({"client-certificate-data": bad}, {"certificate-authority-data": root}))
    message = "/pki/admin.conf#user/admin (admin) has expired"
    assert told(look(monitor), "CertificateExpiring") == (TRUE, "Expired", message)
    good = data(authority.issue("admin", NOW + YEAR))
    file.write_bytes(
        kubeconfig({"client-certificate-data": good}, {"certificate-authority-data": "A" + root})
    )
    seen = look(monitor)
    assert seen["CertificateExpiring"] is FALSE
    message = "/pki/admin.conf#cluster/prod holds no certificate, or a damaged one"
    assert told(seen, "CertificateUnusable") == (TRUE, "Invalid", message)
    file.write_bytes(kubeconfig({"client-certificate-data": good}, {"certificate-authority-data": root}))
    assert look(monitor)["CertificateUnusable"] is FALSE


def test_what_a_kubeconfig_points_to_is_read(authority: Authority, node: Path) -> None:
    names = {"client-certificate": "admin.pem"}, {"certificate-authority": "/pki/ca.crt"}
    (node / "pki/admin.conf").write_bytes(kubeconfig(*names))
    (node / "pki/admin.pem").write_bytes(authority.issue("admin", NOW + DAY))
    seen = look(monitor_of(node, "/pki/admin.conf"))
    message = "/pki/admin.pem (admin) expires in less than 7d"
    assert told(seen, "CertificateExpiring") == (TRUE, "ExpiresSoon", message)
    assert told(seen, "CertificateUnusable") == (TRUE, "Missing", "/pki/ca.crt is missing")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0\xff" * 99,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAA",
        b"clusters: [",
        b"clusters: {a: 1}",
        b"x" * (1 << 21),
    ],
)
def test_garbage_is_told_and_hides_no_other(authority: Authority, node: Path, garbage: bytes) -> None:
    monitor = monitor_of(node, "/pki/*.pem")
    (node / "pki/a.pem").write_bytes(garbage)
    (node / "pki/b.pem").write_bytes(authority.issue("worker", NOW - DAY))
    seen = look(monitor)
    message = "/pki/a.pem holds no certificate, or a damaged one"
    assert told(seen, "CertificateUnusable") == (TRUE, "Invalid", message)
    assert seen["CertificateExpiring"] is TRUE
    (node / "pki/a.pem").unlink()
    assert look(monitor)["CertificateUnusable"] is FALSE


def test_a_damaged_one_never_stops_the_check(authority: Authority, node: Path) -> None:
    good = base64.b64decode(b"".join(authority.root.splitlines()[1:-1]))
    for place in range(0, len(good), 3):
        damaged = good[:place] + bytes([good[place] ^ 0x15]) + good[place + 1 :]
        text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(damaged) + b"-----END CERTIFICATE-----\n"
        (node / "pki/a.pem").write_bytes(text)
        look(monitor_of(node, "/pki/a.pem"))


@pytest.mark.parametrize("path", ["/pki/*.crt", "/none/*.crt", "/pki/node.crt", "/pki/a.pem/b"])
def test_what_was_asked_for_and_is_not_there_is_missing(node: Path, path: str) -> None:
    (node / "pki/a.pem").touch()
    seen = look(monitor_of(node, path))
    status, reason, message = told(seen, "CertificateUnusable")
    assert (status, reason, path in message) == (TRUE, "Missing", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("path", ["/pki/a.pem", "/pki/*.pem", "/pki/open.pem"])
def test_what_may_not_be_read_is_unknown(authority: Authority, node: Path, path: str) -> None:
    for name in ("a", "open"):
        (node / f"pki/{name}.pem").write_bytes(authority.root)
    (node / "pki/a.pem").chmod(0o600)
    (node / "pki/open.pem").chmod(0o644)
    (node / "pki").chmod(0o755 if path == "/pki/a.pem" else 0o700)
    seen = as_nobody(node, lambda: repr(look(CertificateMonitor("c", CertificateOptions((path,)), HERE))))
    assert seen.count("<ConditionStatus.UNKNOWN: 'Unknown'>, reason='PermissionDenied'") == 2, seen


HERE = Host(root=Path("/proc/self/cwd/."))


def as_nobody(folder: Path, work: Callable[[], str]) -> str:
    """What `work` gives in a process of the user nobody that works in `folder`."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            folder.chmod(0o755)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write_end, work().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"critical": "30d"}, "critical"),
        ({"critical": "0s"}, "critical"),
        ({"paths": ["pki/a.pem"]}, "paths[0]"),
        ({"paths": ["/a", "/*/a.pem"]}, "paths[1]"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], fault: str) -> None:
    assert [path for path, _ in msgspec.convert(options, CertificateOptions).faults()] == [fault]

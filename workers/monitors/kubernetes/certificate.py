"""Whether the node's certificates are valid, and for how much longer."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options, Percent
from workers.certificates import Certificate, embedded, is_kubeconfig, read_kubeconfig, read_pem

EXPIRING = ConditionType(
    "CertificateExpiring",
    reason="ExpiresSoon",
    ok_reason="CertificatesLastLonger",
    warning_reason="ExpiresSoon",
    reasons=("ExpiresSoon", "Expired"),
)
UNUSABLE = ConditionType(
    "CertificateUnusable",
    reason="Invalid",
    ok_reason="CertificatesUsable",
    reasons=("Invalid", "Missing", "NotYetValid"),
)
EXPIRES = Gauge(
    "certificate_expiry_timestamp_seconds",
    "When the certificate expires, in seconds since 1970; of a chain the first to do so",
    ("path", "subject"),
)
PKI = "/var/lib/kubelet/pki"
SERVING, SELF_SIGNED = f"{PKI}/kubelet-server-current.pem", f"{PKI}/kubelet.crt"
USUAL = (
    f"{PKI}/kubelet-client-current.pem",
    SERVING,
    SELF_SIGNED,
    "/etc/kubernetes/pki/*.crt",
    "/etc/kubernetes/pki/etcd/*.crt",
    "/var/lib/rancher/k3s/agent/*.crt",
    "/var/lib/rancher/rke2/agent/*.crt",
)
"""Where kubeadm, EKS, k3s and RKE2 keep them."""
LARGEST = 1 << 20
"""Bytes that are read of a file; a system's whole bundle of authorities has a quarter of it."""


class CertificateOptions(Options, frozen=True):
    """Which certificates, and how long before their end they are told of."""

    paths: tuple[str, ...] = ()
    """PEM files, kubeconfig files, and patterns such as /etc/kubernetes/pki/*.crt; each must be there. By default those
    of the kubelet and of the control plane that kubeadm, EKS, k3s and RKE2 make, as far as they are there."""
    warning: Duration = "30d"
    """A certificate that ends sooner is warned of."""
    critical: Duration = "7d"
    """A certificate that ends sooner is a problem."""
    share_left: Percent = 10
    """Percent of its lifetime that a certificate must have left at most to be warned of: one that lives a day is renewed
    within its last 30 to 10 percent. Where this is shorter than `warning`, `critical` is shortened alike."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Thresholds in the wrong order, paths that can't be looked for."""
        if not 0 < seconds(self.critical) < seconds(self.warning):
            yield "critical", f"found {self.critical!r}, allowed: more than 0, below warning ({self.warning})"
        for number, path in enumerate(self.paths):
            if not path.startswith("/") or is_pattern(posixpath.dirname(path)):
                yield (
                    f"paths[{number}]",
                    f"found {path!r}, allowed: an absolute path, * in its last part only",
                )


class CertificateMonitor(Monitor[CertificateOptions]):
    """Reads certificates (RFC 5280) from files and from kubeconfigs and compares their validity with the clock.

    Of a chain the first to end counts. In a bundle of roots one can stand in for another, so the last counts. The
    kubelet renews its own: https://kubernetes.io/docs/tasks/tls/certificate-rotation/.
    """

    kind, options_type = "certificate-health-check", CertificateOptions
    conditions = (EXPIRING, UNUSABLE)
    metrics = (EXPIRES,)
    capabilities = ("CAP_DAC_READ_SEARCH",)
    interval = 300.0

    def check(self) -> Iterator[Observation]:
        """Look at each of them once."""
        seen: set[str] = set()
        told = False
        for wanted in self.options.paths or USUAL:
            for observation in self.look_for(wanted, seen):
                told = True
                yield observation
        if not told:
            raise Undetermined("there are no certificates in the usual places: set paths", "NoCertificates")

    def look_for(self, wanted: str, seen: set[str]) -> Iterator[Observation]:
        """The files that `wanted` stands for, each once."""
        try:
            names = self.names(wanted)
        except OSError as error:
            yield from unreadable(posixpath.dirname(wanted), error)
            return
        if not names and self.options.paths:
            yield UNUSABLE.when(True, f"no file is called {wanted}", "Missing")
            yield EXPIRING.when(False, "")
        for name in names:
            yield from self.look_at(name, seen)

    def names(self, wanted: str) -> list[str]:
        """The paths on the node that `wanted` stands for."""
        folder, last = posixpath.split(wanted)
        if not is_pattern(last):
            return [] if wanted == SELF_SIGNED and self.is_replaced() else [wanted]
        try:
            entries = sorted(entry.name for entry in self.host.path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [posixpath.join(folder, entry) for entry in entries if fnmatchcase(entry, last)]

    def is_replaced(self) -> bool:
        """Whether the kubelet serves with a certificate of the cluster: its self-signed one then only lies there."""
        return not self.options.paths and self.host.path(SERVING).exists()

    def look_at(self, name: str, seen: set[str]) -> Iterator[Observation]:
        """One file, unless it was looked at before."""
        if name in seen:
            return
        seen.add(name)
        try:
            text = content(self.host.path(name))
            if is_kubeconfig(text):
                yield from self.look_into(name, text, seen)
            else:
                yield from self.judge(name, read_pem(text))
        except (FileNotFoundError, NotADirectoryError):
            if self.options.paths:
                yield UNUSABLE.when(True, f"{name} is missing", "Missing")
                yield EXPIRING.when(False, "")
        except OSError as error:
            yield from unreadable(name, error)
        except ValueError:
            yield from invalid(name)

    def look_into(self, name: str, text: bytes, seen: set[str]) -> Iterator[Observation]:
        """What a kubeconfig holds, and what it points to."""
        yield UNUSABLE.when(False, "")
        yield EXPIRING.when(False, "")
        for part, file, data in read_kubeconfig(text).parts():
            if data:
                label = f"{name}#{part}"
                try:
                    yield from self.judge(label, embedded(data))
                except ValueError:
                    yield from invalid(label)
            elif file:
                yield from self.look_at(posixpath.join(posixpath.dirname(name), file), seen)

    def judge(self, name: str, chain: list[Certificate]) -> Iterator[Observation]:
        """What one file or one part of a kubeconfig holds."""
        choose = max if all(each.is_root for each in chain) else min
        first = choose(chain, key=lambda each: each.ends)
        now = datetime.now(UTC)
        who = f"{name} ({chain[0].subject})"
        if first is not chain[0]:
            who += f", through {first.subject},"
        yield EXPIRES(first.ends.timestamp(), path=name, subject=chain[0].subject)
        early = first.begins if choose is max else max(each.begins for each in chain)
        yield UNUSABLE.when(now < early, f"{who} is not valid yet: is the clock right?", "NotYetValid")
        yield expiring(who, first, now, self.options)


def expiring(who: str, certificate: Certificate, now: datetime, options: CertificateOptions) -> Finding:
    """Whether it ends too soon, measured by the thresholds or by its own short life."""
    left = (certificate.ends - now).total_seconds()
    if left <= 0:
        return EXPIRING.when(True, f"{who} has expired", "Expired")
    warning, critical = seconds(options.warning), seconds(options.critical)
    life = (certificate.ends - certificate.begins).total_seconds()
    scale = min(1.0, life * options.share_left / 100 / warning)
    if left < critical * scale:
        return EXPIRING.when(True, f"{who} expires {within(options.critical, scale)}")
    return EXPIRING.warn_when(left < warning * scale, f"{who} expires {within(options.warning, scale)}")


def within(threshold: str, scale: float) -> str:
    """The threshold in words, which a short life makes shorter."""
    return f"in less than {threshold}" if scale == 1 else "soon and was not renewed in time"


def unreadable(name: str, error: OSError) -> Iterator[Finding]:
    """A file that can't be read says nothing."""
    reason = "PermissionDenied" if isinstance(error, PermissionError) else "Unreadable"
    for condition in (EXPIRING, UNUSABLE):
        yield condition.unknown(f"{name} can't be read: {error.strerror}", reason)


def invalid(name: str) -> Iterator[Finding]:
    """A file that is read and holds no certificate."""
    yield UNUSABLE.when(True, f"{name} holds no certificate, or a damaged one")
    yield EXPIRING.when(False, "")


def is_pattern(name: str) -> bool:
    """Whether `name` stands for several."""
    return any(sign in name for sign in "*?[")


def content(path: Path) -> bytes:
    """What is in the file; a pipe is not waited for.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large for certificates.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        text = file.read(LARGEST + 1) or b""
    if len(text) > LARGEST:
        msg = "too large"
        raise ValueError(msg)
    return text

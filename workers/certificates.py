"""X.509 certificates as they lie in files: PEM, and what a kubeconfig holds or points to."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime

import msgspec
from asn1crypto import pem, x509

KUBECONFIG = b"clusters:"


class Certificate(msgspec.Struct, frozen=True):
    """What is asked of one certificate."""

    subject: str
    begins: datetime
    ends: datetime
    is_root: bool
    """It is its own issuer."""


class User(msgspec.Struct, rename="kebab"):
    """A kubeconfig's user, as far as certificates go."""

    client_certificate: str = ""
    client_certificate_data: str = ""


class Cluster(msgspec.Struct, rename="kebab"):
    """A kubeconfig's cluster, as far as certificates go."""

    certificate_authority: str = ""
    certificate_authority_data: str = ""


class NamedUser(msgspec.Struct):
    """One entry of `users`."""

    name: str
    user: User


class NamedCluster(msgspec.Struct):
    """One entry of `clusters`."""

    name: str
    cluster: Cluster


class Kubeconfig(msgspec.Struct):
    """https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/."""

    clusters: list[NamedCluster] | None = None
    users: list[NamedUser] | None = None

    def parts(self) -> Iterator[tuple[str, str, str]]:
        """What each entry is called, the file that it points to and what it holds itself, which goes first."""
        for each in self.users or ():
            yield f"user/{each.name}", each.user.client_certificate, each.user.client_certificate_data
        for one in self.clusters or ():
            authority = one.cluster
            yield (
                f"cluster/{one.name}",
                authority.certificate_authority,
                authority.certificate_authority_data,
            )


def is_kubeconfig(text: bytes) -> bool:
    """Whether `text` looks like a kubeconfig; PEM has no such line."""
    return any(line.startswith(KUBECONFIG) for line in text.splitlines())


def read_kubeconfig(text: bytes) -> Kubeconfig:
    """The kubeconfig in `text`.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.yaml.decode(text, type=Kubeconfig)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def embedded(data: str) -> list[Certificate]:
    """The certificates in a `-data` field of a kubeconfig.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    return read_pem(b64decode(data, validate=True))


def read_pem(text: bytes) -> list[Certificate]:
    """The certificates in `text`, in their order; keys between them are passed over.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    try:
        found = [parsed(der) for kind, _, der in pem.unarmor(text, multiple=True) if kind == "CERTIFICATE"]
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not found:
        msg = "there is no certificate in it"
        raise ValueError(msg)
    return found


def parsed(der: bytes) -> Certificate:
    """One certificate; RFC 5280."""
    certificate = x509.Certificate.load(der, strict=True)
    subject = certificate.subject
    name = subject.native.get("common_name")
    return Certificate(
        name if isinstance(name, str) else subject.human_friendly,
        certificate.not_valid_before,
        certificate.not_valid_after,
        subject == certificate.issuer,
    )

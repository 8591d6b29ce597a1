"""Where the API server is, and how this process shows who it is."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pykube import KubeConfig
from pykube.exceptions import PyKubeError
from yaml import YAMLError

from nodedoctor.errors import Undetermined

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""A pod's own credentials; https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/."""


class Credentials(msgspec.Struct, frozen=True):
    """How to reach one API server. Files are read anew at each use: tokens are rotated every hour."""

    url: str
    ca_file: str = ""
    ca_data: str = ""
    token_file: str = ""
    token_data: str = ""
    certificate: tuple[str, str] | None = None
    """The files of a client's certificate and its key."""
    unverified: bool = False

    def token(self) -> str:
        """The bearer token of this moment; empty without one."""
        return Path(self.token_file).read_text().strip() if self.token_file else self.token_data

    def tls(self) -> ssl.SSLContext:
        """The TLS settings for a connection."""
        context = ssl.create_default_context(cafile=self.ca_file or None, cadata=self.ca_data or None)
        if self.unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context


def find(kubeconfig: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> Credentials:
    """From the file `kubeconfig`, else a pod's service account, else the file in $KUBECONFIG.

    Raises:
        Undetermined: there is none of them, or the file is not usable.
        PermissionError: a file may not be read.
    """
    if kubeconfig:
        return from_file(kubeconfig)
    if host := environment.get("KUBERNETES_SERVICE_HOST"):
        address = f"[{host}]" if ":" in host else host
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        url = f"https://{address}:{port}"
        return Credentials(url, ca_file=str(account / "ca.crt"), token_file=str(account / "token"))
    if named := environment.get("KUBECONFIG"):
        return from_file(named)
    text = "this is no pod and there is no kubeconfig; set settings.kubeconfig, or url"
    raise Undetermined(text, "NoCluster")


def from_file(path: str) -> Credentials:
    """What the current context of the kubeconfig file `path` says.

    Raises:
        Undetermined: it is not there, or not usable.
        PermissionError: it may not be read.
    """
    try:
        config = KubeConfig.from_file(path)
        return of_context(config.cluster, config.user)
    except PermissionError:
        raise
    except (OSError, PyKubeError, YAMLError, KeyError, TypeError, ValueError) as error:
        text = f"the kubeconfig {path} can't be used: {type(error).__name__} {error}"
        raise Undetermined(text, "KubeconfigUnusable") from error


def of_context(cluster: dict[str, Any], user: dict[str, Any]) -> Credentials:
    """Credentials of a context's cluster and user, as pykube reads them."""
    authority, certificate = cluster.get("certificate-authority"), user.get("client-certificate")
    return Credentials(
        cluster["server"],
        ca_data=authority.bytes().decode() if authority else "",
        token_file=user.get("tokenFile") or "",
        token_data=user.get("token") or "",
        certificate=(certificate.filename(), user["client-key"].filename()) if certificate else None,
        unverified=bool(cluster.get("insecure-skip-tls-verify")),
    )

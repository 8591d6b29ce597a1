"""The Kubernetes API as the agent asks it: one request, one answer or one typed error, within one deadline.

pykube reads the credentials and signs the requests. What it lacks is here: a deadline for the whole call (its own
timeout begins anew with each byte), tokens that are rotated, errors that can be told apart, and no file in /tmp that
anybody could have put there first.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import requests
from pykube import HTTPClient, KubeConfig
from pykube.exceptions import PyKubeError
from yaml import YAMLError

from nodedoctor.errors import NodeDoctorError, Undetermined
from nodedoctor.version import version

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""A pod's own credentials; https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/."""
JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
LARGEST = 64 << 20
"""Bytes of an answer; a cluster with thousands of nodes has some ten megabytes of them."""
MOST_ABANDONED = 4
"""Calls that are past their deadline and still somewhere in a system call."""
SECRETS = ("certificate-authority", "client-certificate", "client-key")
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

T = TypeVar("T")


class APIError(NodeDoctorError):
    """A request failed. `result` names the kind of failure in metrics."""

    result: ClassVar[str] = "error"


class CredentialsError(APIError):
    """The credentials that are configured can't be used."""

    result = "credentials"


class UnreachableError(APIError):
    """No connection, or it broke."""

    result = "unreachable"


class DeadlineError(APIError):
    """No whole answer in time. Whether the request was carried out is not known."""

    result = "timeout"


class TLSError(APIError):
    """The server is not who it should be, or does not want this client."""

    result = "tls"


class UnauthorizedError(APIError):
    """The server does not know who asks."""

    result = "unauthorized"


class ForbiddenError(APIError):
    """The role lacks the `verb` on the `resource`."""

    result = "forbidden"

    def __init__(self, verb: str, resource: str) -> None:
        self.verb, self.resource = verb, resource
        super().__init__(f"not allowed to {verb} {resource}: the service account's role lacks this rule")


class NotFoundError(APIError):
    """The object, or its namespace, is not there."""

    result = "not_found"


class ConflictError(APIError):
    """It exists already, or was changed meanwhile."""

    result = "conflict"


class TooLargeError(APIError):
    """The request is larger than the server takes."""

    result = "too_large"


class InvalidError(APIError):
    """The server can't understand the request, or refuses what it says; sent again it will fail again."""

    result = "invalid"


class TooManyRequestsError(APIError):
    """The server is busy; `retry_after` are the seconds that it asks for, 0 if it says nothing."""

    result = "throttled"

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ServerError(APIError):
    """The server failed, or something that is no API server answers."""

    result = "server_error"


KINDS: dict[int, type[APIError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    404: NotFoundError,
    405: InvalidError,
    406: InvalidError,
    409: ConflictError,
    410: NotFoundError,
    413: TooLargeError,
    415: InvalidError,
    422: InvalidError,
}


class Secret:
    """A file in memory that nobody else can open; memfd_create(2). It ends with this object."""

    def __init__(self, content: bytes) -> None:
        self.descriptor = os.memfd_create("secret")
        os.write(self.descriptor, content)
        self.path = f"/proc/self/fd/{self.descriptor}"

    def __del__(self) -> None:
        os.close(self.descriptor)


class Access(msgspec.Struct, frozen=True):
    """Credentials, as pykube takes them. `secrets` are the files in memory that they name."""

    config: KubeConfig
    token_file: Path | None = None
    secrets: tuple[Secret, ...] = ()

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.config.cluster["server"]).rstrip("/")

    @property
    def named(self) -> bool:
        """Whether they say who asks."""
        user = self.config.user
        return bool(self.token_file or user.get("token") or user.get("client-certificate"))

    def token(self) -> str:
        """The bearer token of this moment, empty without one: the kubelet writes a new one every hour.

        Raises:
            OSError, ValueError: the file can't be read.
        """
        if self.token_file is None:
            return str(self.config.user.get("token") or "")
        return self.token_file.read_text().strip()

    def tls(self) -> ssl.SSLContext:
        """The TLS settings for a connection that is not pykube's.

        Raises:
            OSError: a file can't be read or is no certificate.
        """
        try:
            cluster, user = self.config.cluster, self.config.user
        except PyKubeError as error:
            raise FileNotFoundError(str(error)) from error
        authority, certificate = cluster.get("certificate-authority"), user.get("client-certificate")
        context = ssl.create_default_context(cafile=authority.filename() if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate.filename(), user["client-key"].filename())
        return context


class Reply(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StatusObject(msgspec.Struct, frozen=True):
    """The part of a Status that says what is wrong."""

    message: str = ""


def find(kubeconfig: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> Access | None:
    """A pod's service account, else the file `kubeconfig`, else the first one in $KUBECONFIG; None without any.

    Raises:
        CredentialsError: there is a file, and it can't be used.
    """
    if environment.get("KUBERNETES_SERVICE_HOST") and (account / "token").exists():
        return in_cluster(environment, account)
    path = kubeconfig or environment.get("KUBECONFIG", "").partition(os.pathsep)[0]
    return from_file(Path(path)) if path else None


def found(kubeconfig: str, environment: Mapping[str, str], account: Path = ACCOUNT) -> Access:
    """What `find` finds, for a check.

    Raises:
        Undetermined: there is nothing, or it can't be used.
        PermissionError: a file may not be read.
    """
    try:
        access = find(kubeconfig, environment, account)
    except CredentialsError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from None
        raise Undetermined(str(error), "KubeconfigUnusable") from error
    if access is None:
        text = "this is no pod with an account and there is no kubeconfig; set settings.kubeconfig, or url"
        raise Undetermined(text, "NoCluster")
    return access


def in_cluster(environment: Mapping[str, str], account: Path) -> Access:
    """The service account of the pod that this process runs in."""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    return checked(
        at(f"https://{address}:{port}", str(account / "ca.crt"), str(account / "token")), str(account)
    )


def at(url: str, ca_file: str, token_file: str) -> Access:
    """An API server by its address; without `ca_file` the system's authorities are trusted."""
    config = KubeConfig.from_url(url)
    if ca_file:
        config.doc["clusters"][0]["cluster"]["certificate-authority"] = ca_file
    config.doc["users"] = [{"name": "self", "user": {}}]
    config.doc["contexts"][0]["context"]["user"] = "self"
    return Access(config, Path(token_file) if token_file else None)


def from_file(path: Path) -> Access:
    """The current context of a kubeconfig file.

    Raises:
        CredentialsError: it can't be used.
    """
    secrets: list[Secret] = []
    try:
        config = KubeConfig.from_file(str(path))
        for part in (*config.doc.get("clusters", ()), *config.doc.get("users", ())):
            secrets += in_memory(part.get("cluster") or part.get("user") or {})
        token_file = config.user.get("tokenFile")
    except (OSError, PyKubeError, YAMLError, binascii.Error, *SHAPELESS) as error:
        raise unusable(str(path), error) from error
    return checked(
        Access(config, path.parent / token_file if token_file else None, tuple(secrets)), str(path)
    )


SHAPELESS = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a file raises that is YAML and no kubeconfig."""


def in_memory(part: dict[str, Any]) -> list[Secret]:
    """Have `part` of a kubeconfig name files in memory for the keys and certificates that stand in it as text.

    pykube would write them to /tmp: readable for everybody, under a name that anybody can take first.
    """
    files: list[Secret] = []
    for key in SECRETS:
        if text := part.pop(f"{key}-data", None):
            files.append(Secret(base64.b64decode(text, validate=True)))
            part[key] = files[-1].path
    return files


def checked(access: Access, origin: str) -> Access:
    """`access`, once its context, user and files are known to be there.

    Raises:
        CredentialsError: one of them is not.
    """
    try:
        _ = access.server, access.config.user
    except (OSError, PyKubeError, *SHAPELESS) as error:
        raise unusable(origin, error) from error
    return access


def unusable(origin: str, error: Exception) -> CredentialsError:
    """The error that says that credentials can't be used, and why."""
    return CredentialsError(f"the credentials in {origin} can't be used: {type(error).__name__} {error}")


class API:
    """One API server. For one thread at a time; nothing is retried here but a token that was just rotated.

    Args:
        access: Where it is, and who asks.
        proxy: The HTTP proxy on the way to it; empty: the kubeconfig's `proxy-url`. The environment is not followed.
    """

    def __init__(self, access: Access, proxy: str = "") -> None:
        self.access = access
        self.proxy = proxy or str(access.config.cluster.get("proxy-url") or "")
        self.client = self.connect()
        self.abandoned: list[threading.Thread] = []

    def connect(self) -> HTTPClient:
        """A client with a connection of its own."""
        client = HTTPClient(self.access.config)
        client.session.trust_env = False
        client.session.headers["User-Agent"] = f"node-doctor/{version()}"
        if self.proxy:
            client.session.proxies = {"http": self.proxy, "https": self.proxy}
        return client

    def request(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float = 10.0,
    ) -> T:
        """Ask once, and give the answer as an `answer`.

        Args:
            method: GET, POST, PATCH...
            path: From /api or /apis on.
            answer: What the JSON of the answer is decoded to.
            params: The query.
            body: Sent as JSON.
            content_type: Of the body.
            accept: In which forms the answer may come.
            timeout: Seconds from now to the last byte.

        Raises:
            APIError: of the kind that fits.
        """
        end = time.monotonic() + timeout
        sent = {
            "params": dict(params or {}),
            "data": None if body is None else msgspec.json.encode(body),
            "headers": {"Accept": accept, **({} if body is None else {"Content-Type": content_type})},
        }
        reply = self.within(end, method, path, sent)
        if reply.status == requests.codes.unauthorized and self.access.token_file:
            reply = self.within(end, method, path, sent)
        if reply.status >= 300:
            raise failure(method, path, reply)
        try:
            return msgspec.json.decode(reply.body, type=answer)
        except msgspec.MsgspecError as error:
            text = f"{method} {path}: the answer of {self.access.server} is not what an API server says"
            raise ServerError(text) from error

    def within(self, end: float, method: str, path: str, sent: dict[str, Any]) -> Reply:
        """The reply to one request, by a thread that is left alone if it takes longer than until `end`.

        Nothing else bounds everything: a name that is not resolved, a plugin that does not end, a byte now and then.
        """
        self.read_token()
        future: Future[Reply] = Future()
        client, server = self.client, self.access.server

        def call() -> Reply:
            return exchange(client, method, server + path, sent, end)

        thread = threading.Thread(target=settle, args=(future, call), name="request", daemon=True)
        thread.start()
        try:
            return future.result(max(0.0, end - time.monotonic()))
        except TimeoutError as error:
            if not future.done():
                self.abandon(thread)
            raise DeadlineError(f"{method} {path}: no whole answer of {server} in time") from error
        except (*FAILURES, NotImplementedError, subprocess.SubprocessError, *SHAPELESS) as error:
            raise explained(server, error) from error

    def abandon(self, thread: threading.Thread) -> None:
        """Go on without `thread` and its connection.

        Raises:
            RuntimeError: there are too many of them; this process is better replaced.
        """
        self.abandoned = [*(one for one in self.abandoned if one.is_alive()), thread]
        if len(self.abandoned) > MOST_ABANDONED:
            msg = f"{len(self.abandoned)} requests do not come back from {self.access.server}"
            raise RuntimeError(msg)
        self.client = self.connect()

    def read_token(self) -> None:
        """Take the token of this moment.

        Raises:
            UnauthorizedError: the file can't be read.
        """
        if self.access.token_file is None:
            return
        try:
            self.access.config.user["token"] = self.access.token()
        except (OSError, ValueError) as error:
            text = f"the token {self.access.token_file} can't be read: {type(error).__name__}"
            raise UnauthorizedError(text) from error


FAILURES = (requests.RequestException, PyKubeError, OSError)


def settle(future: Future[Reply], call: Callable[[], Reply]) -> None:
    """Make `future` what `call` gives or raises; the target of a thread."""
    try:
        future.set_result(call())
    except Exception as error:  # noqa: BLE001 - it is raised again where the future is awaited
        future.set_exception(error)


def exchange(client: HTTPClient, method: str, url: str, sent: dict[str, Any], end: float) -> Reply:
    """One request and its reply. It ends by itself soon after `end` as long as whole blocks keep coming."""
    left = max(0.001, end - time.monotonic())
    with client.session.request(
        method, url, **sent, stream=True, allow_redirects=False, timeout=left
    ) as response:
        body = bytearray()
        for piece in response.iter_content(1 << 16):
            body += piece
            if len(body) > LARGEST or time.monotonic() > end:
                raise requests.ReadTimeout(url)
        return Reply(response.status_code, response.headers, bytes(body))


def failure(method: str, path: str, reply: Reply) -> APIError:
    """The error for a reply that is none of success."""
    try:
        said = msgspec.json.decode(reply.body, type=StatusObject).message
    except msgspec.MsgspecError:
        said = ""
    text = f"{method} {path}: {reply.status} {said}".strip()
    if reply.status == requests.codes.forbidden:
        return ForbiddenError(*permission(method, path))
    if reply.status == requests.codes.too_many_requests:
        wait = reply.headers.get("Retry-After", "")
        return TooManyRequestsError(text, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
    return KINDS.get(reply.status, ServerError)(text)


def explained(server: str, error: BaseException) -> APIError:
    """The error for a request without a reply; its text is the same each time that the same thing is wrong."""
    cause = error
    while deeper := cause.__cause__ or cause.__context__:
        cause = deeper
    text = f"{server}: {cause.strerror or cause if isinstance(cause, OSError) else cause}"
    if isinstance(error, requests.exceptions.SSLError) or isinstance(cause, ssl.SSLError):
        return TLSError(f"{server}: no TLS connection: {cause}")
    if isinstance(error, requests.Timeout) or isinstance(cause, TimeoutError):
        return DeadlineError(f"{server}: no answer in time")
    if isinstance(error, requests.RequestException):
        return UnreachableError(text)
    return CredentialsError(f"the credentials for {server} can't be used: {type(cause).__name__} {cause}")


def permission(method: str, path: str) -> tuple[str, str]:
    """Verb and resource of a request, as a role names them.

    https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    verb = "list" if method == "GET" and len(parts) == 1 else VERBS[method]
    return verb, "/".join(parts[:1] + parts[2:3])

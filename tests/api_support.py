"""A double of the API server: real HTTP(S), state, and the rules of a real one for what the agent asks of it.

It has nodes, events and pods; strategic and JSON merge patches, resource versions, conflicts, the validation of events,
field selectors, answers with metadata alone, tokens, and the rights of manifests/. Every failure can be had, and a
request that was refused has changed nothing.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

MANIFESTS = Path(__file__).parent.parent / "manifests"
MERGE_KEYS = {"conditions": "type", "addresses": "type", "taints": "key", "ownerReferences": "uid"}
"""The patchMergeKey of lists; https://github.com/kubernetes/api/blob/master/core/v1/types.go."""
PATH = re.compile(
    r"/api/v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>nodes|events|pods)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status))?"
)
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LARGEST = 3 << 20
ACCOUNT = "system:serviceaccount:kube-system:node-doctor"

Json = dict[str, Any]
Act = Callable[["Handler"], bool]
"""A failure: answers in place of the server and gives True, or does something first and gives False."""


class Asked(NamedTuple):
    """One request as it came, and how it was answered (0 while it is not)."""

    at: float
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    accept: str
    body: Any
    size: int
    verb: str
    resource: str
    code: int


class Refused(Exception):  # noqa: N818 - an answer
    """The request is answered with a Status."""

    def __init__(self, code: int, reason: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}


class Fault:
    """A failure for the next `times` requests whose "METHOD path" matches."""

    def __init__(self, pattern: str, act: Act, times: float) -> None:
        self.pattern, self.act, self.times = re.compile(pattern), act, times


class APIServer:
    """The double. `objects` are by (resource, namespace, name); `asked` is what came, in order."""

    def __init__(
        self,
        *,
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
        token: str = "",
        roles: Iterable[str] = ("rbac.yaml",),
        port: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.version = 100
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.tokens = {token} if token else set()
        self.rules = [rule for name in roles for rule in rules_of(MANIFESTS / name)]
        self.before_patch: Callable[[], None] = lambda: None
        """Called between a patch's arrival and its application: somebody else writes at that moment."""
        self.connections: set[socket.socket] = set()
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.double = self
        self.tls = tls is not None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            if client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca)
            self.server.context = context
        self.port = self.server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End, and cut every connection."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):
            cut(connection)

    def kubeconfig(self, folder: Path, ca: Path | None = None, **user: str) -> Path:
        """A kubeconfig for this server, with these entries of its user."""
        cluster = {"server": self.url, **({"certificate-authority": str(ca)} if ca else {})}
        if not user and self.tokens:
            user = {"token": next(iter(self.tokens))}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def fault(self, pattern: str, act: Act, times: float = float("inf")) -> Fault:
        """Have requests fail from now on."""
        fault = Fault(pattern, act, times)
        with self.lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """No failure any more."""
        with self.lock:
            self.faults.clear()

    def add_node(self, name: str, **annotations: str) -> Json:
        """A node as a kubelet registers it."""
        when = "2026-01-01T00:00:00Z"
        kubelets = {
            kind: {
                "type": kind,
                "status": str(kind == "Ready"),
                "reason": f"Kubelet{kind}",
                "message": "kubelet says so",
                "lastHeartbeatTime": when,
                "lastTransitionTime": when,
            }
            for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "uid": f"uid-{time.time_ns()}", "annotations": annotations},
            "spec": {},
            "status": {"conditions": list(kubelets.values()), "capacity": {"pods": "110"}},
        }
        return self.put(("nodes", "", name), node)

    def put(self, key: tuple[str, str, str], made: Json) -> Json:
        """Store an object, as a new version of it."""
        with self.lock:
            self.version += 1
            made["metadata"]["resourceVersion"] = str(self.version)
            self.objects[key] = made
            return made

    def node(self, name: str) -> Json:
        """A copy of the node; empty without one."""
        with self.lock:
            return copy.deepcopy(self.objects.get(("nodes", "", name), {}))

    def conditions(self, name: str) -> dict[str, Json]:
        """The node's conditions by type."""
        return {c["type"]: c for c in self.node(name).get("status", {}).get("conditions", ())}

    def annotations(self, name: str) -> dict[str, str]:
        """The node's annotations."""
        found: dict[str, str] = self.node(name).get("metadata", {}).get("annotations", {})
        return found

    def events(self) -> list[Json]:
        """All events, oldest first."""
        with self.lock:
            return [copy.deepcopy(o) for (kind, _, _), o in self.objects.items() if kind == "events"]

    def set_condition(self, name: str, kind: str, **fields: str) -> None:
        """Somebody else changes a condition of the node."""
        with self.lock:
            node = self.node(name)
            merge(node["status"], {"conditions": [{"type": kind, **fields}]}, strategic=True)
            self.put(("nodes", "", name), node)

    def requests(self, method: str = "") -> list[Asked]:
        """What was asked with this method, or at all."""
        with self.lock:
            return [one for one in self.asked if one.method == method or not method]

    def serve(self, handler: Handler, body: bytes) -> Json:
        """The answer to one request.

        Raises:
            Refused: it is not granted.
        """
        url = urllib.parse.urlsplit(handler.path)
        match = PATH.fullmatch(url.path)
        if not match:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        self.authorize(handler, match)
        if len(body) > LARGEST:
            raise Refused(413, "RequestEntityTooLarge", f"Request entity too large: limit is {LARGEST}")
        query = dict(urllib.parse.parse_qsl(url.query))
        key = (match["resource"], match["namespace"] or "", match["name"] or "")
        if handler.command == "GET":
            return self.get(key, query)
        if handler.command == "POST":
            return self.create(key, decoded(body))
        return self.patch(handler, key, match["sub"] or "", decoded(body))

    def authorize(self, handler: Handler, match: re.Match[str]) -> None:
        """Who asks, and whether they may."""
        given = handler.headers.get("Authorization", "")
        if self.tokens and given.removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")
        verb, resource = asked_for(handler.command, match)
        if not any(verb in rule["verbs"] and resource in rule["resources"] for rule in self.rules):
            named = f' "{match["name"]}"' if match["name"] else ""
            where = (
                f'in the namespace "{match["namespace"]}"' if match["namespace"] else "at the cluster scope"
            )
            what = f'{resource}{named} is forbidden: User "{ACCOUNT}" cannot {verb} resource "{resource}"'
            raise Refused(403, "Forbidden", f'{what} in API group "" {where}')

    def get(self, key: tuple[str, str, str], query: dict[str, str]) -> Json:
        """One object, or those that the field selector names."""
        resource, namespace, name = key
        with self.lock:
            if name:
                return self.found(key)
            selected = dict(re.findall(r"([^=,]+)==?([^,]*)", query.get("fieldSelector", "")))
            items = [
                copy.deepcopy(o)
                for (kind, where, _), o in self.objects.items()
                if kind == resource and (not namespace or where == namespace) and fits(o, selected)
            ]
        kind = {"nodes": "NodeList", "pods": "PodList", "events": "EventList"}[resource]
        return {"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items}

    def found(self, key: tuple[str, str, str]) -> Json:
        """A copy of the object."""
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        return copy.deepcopy(self.objects[key])

    def create(self, key: tuple[str, str, str], made: Json) -> Json:
        """A new object."""
        resource, namespace, _ = key
        metadata = made.setdefault("metadata", {})
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{time.time_ns() % 36**5:05x}"[:253]
        if resource == "events":
            check_event(made, namespace)
        with self.lock:
            full = (resource, namespace, metadata["name"])
            if full in self.objects:
                raise Refused(409, "AlreadyExists", f'{resource} "{metadata["name"]}" already exists')
            metadata.update(uid=f"uid-{time.time_ns()}", creationTimestamp=now(), namespace=namespace)
            return copy.deepcopy(self.put(full, made))

    def patch(self, handler: Handler, key: tuple[str, str, str], sub: str, patch: Json) -> Json:
        """A changed object; one that is the same as before keeps its version."""
        kind = (handler.headers.get("Content-Type") or "").partition(";")[0]
        if kind not in {"application/strategic-merge-patch+json", "application/merge-patch+json"}:
            raise Refused(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format {kind}"
            )
        self.before_patch()
        with self.lock:
            old = self.found(key)
            expected = (patch.get("metadata") or {}).get("resourceVersion")
            if expected and expected != old["metadata"]["resourceVersion"]:
                text = "the object has been modified; please apply your changes to the latest version"
                raise Refused(409, "Conflict", f"Operation cannot be fulfilled on {key[0]}: {text}")
            new = merge(copy.deepcopy(old), patch, strategic="strategic" in kind)
            if key[0] == "nodes":
                kept = "spec" if sub else "status"
                new[kept] = old[kept]
                check_conditions(new)
            else:
                check_event(new, key[1])
            if new["metadata"]["name"] != key[2]:
                raise Refused(422, "Invalid", "metadata.name: field is immutable")
            return copy.deepcopy(old if new == old else self.put(key, new))


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128
    double: APIServer
    context: ssl.SSLContext | None = None

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread: TLS first, so that a client that fails it stops nobody else."""
        try:
            if self.context:
                request.settimeout(10)
                request = self.context.wrap_socket(request, server_side=True)
        except OSError:
            request.close()
            return
        self.double.connections.add(request)
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection ends."""
        self.double.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def answer(self) -> None:
        """Any request."""
        double = self.server.double
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        place = self.remember(body)
        with double.lock:
            text = f"{self.command} {self.path}"
            fault = next((f for f in double.faults if f.times > 0 and f.pattern.search(text)), None)
            if fault:
                fault.times -= 1
        if fault and fault.act(self):
            return
        try:
            answer, code = double.serve(self, body), 201 if self.command == "POST" else 200
            if "as=PartialObjectMetadata" in self.headers.get("Accept", ""):
                answer = {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": answer["metadata"],
                }
            headers: dict[str, str] = {}
        except Refused as refused:
            answer, code, headers = status_object(refused), refused.code, refused.headers
        double.asked[place] = double.asked[place]._replace(code=code)
        self.reply(code, json.dumps(answer).encode(), **headers)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815 - as http.server has it

    def remember(self, body: bytes) -> int:
        """Write the request down; the place in `asked`."""
        url = urllib.parse.urlsplit(self.path)
        match = PATH.fullmatch(url.path)
        verb, resource = asked_for(self.command, match) if match else ("", "")
        with self.server.double.lock:
            self.server.double.asked.append(
                Asked(
                    time.monotonic(),
                    self.command,
                    url.path,
                    dict(urllib.parse.parse_qsl(url.query)),
                    self.headers.get("Content-Type", ""),
                    self.headers.get("Accept", ""),
                    json.loads(body) if body else None,
                    len(body),
                    verb,
                    resource,
                    0,
                )
            )
            return len(self.server.double.asked) - 1

    def reply(self, code: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        """Send an answer."""
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Keep quiet."""


def refuse(code: int, reason: str, message: str = "", **headers: str) -> Act:
    """Answer with this status, and change nothing."""

    def act(handler: Handler) -> bool:
        status = status_object(Refused(code, reason, message or reason))
        double = handler.server.double
        double.asked[-1] = double.asked[-1]._replace(code=code)
        handler.reply(code, json.dumps(status).encode(), **headers)
        return True

    return act


def garbage(code: int = 200) -> Act:
    """What a proxy says in place of an API server."""

    def act(handler: Handler) -> bool:
        handler.reply(code, b"<html>hello</html>", "text/html")
        return True

    return act


def slow(seconds: float) -> Act:
    """Answer rightly, after a while."""

    def act(handler: Handler) -> bool:
        time.sleep(seconds)
        return False

    return act


def hang(seconds: float = 30) -> Act:
    """Answer nothing, until the client goes or the time is over."""

    def act(handler: Handler) -> bool:
        handler.connection.settimeout(seconds)
        with contextlib.suppress(OSError):
            handler.connection.recv(1)
        handler.close_connection = True
        return True

    return act


def trickle(pause: float = 0.05, headers: bool = False) -> Act:
    """Answer a byte now and then, from the body on or from the very first line on; for ever."""

    def act(handler: Handler) -> bool:
        start = (
            "HTTP/1.1 200 OK\r\nX-Slow: " if headers else "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        )
        try:
            handler.connection.sendall(start.encode())
            while True:
                handler.connection.sendall(b"x")
                time.sleep(pause)
        except OSError:
            handler.close_connection = True
            return True

    return act


def reset(after: bytes = b"") -> Act:
    """Break the connection, after these bytes."""

    def act(handler: Handler) -> bool:
        if after:
            handler.connection.sendall(after)
            time.sleep(0.05)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        return True

    return act


def then(act: Act) -> Act:
    """Carry the request out, and then fail to say so."""

    def carried(handler: Handler) -> bool:
        double = handler.server.double
        asked = double.asked[-1]
        double.serve(handler, json.dumps(asked.body).encode())
        return act(handler)

    return carried


def cut(connection: socket.socket) -> None:
    """End a connection that a thread may wait on."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def rules_of(file: Path) -> list[Json]:
    """The rules of all roles in a manifest."""
    return [r for d in yaml.safe_load_all(file.read_text()) for r in d.get("rules", ()) if "resources" in r]


def asked_for(method: str, match: re.Match[str]) -> tuple[str, str]:
    """Verb and resource as roles name them."""
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    verbs = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    return ("list" if method == "GET" and not match["name"] else verbs[method]), resource


def decoded(body: bytes) -> Json:
    """The body."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise Refused(400, "BadRequest", f"the object provided is unrecognized: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "BadRequest", "the object provided is no object")
    return found


def merge(old: Json, patch: Json, *, strategic: bool) -> Json:
    """`old` with `patch` laid over it.

    https://datatracker.ietf.org/doc/html/rfc7386, and
    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
    """
    for key, value in patch.items():
        if value is None:
            old.pop(key, None)
        elif isinstance(value, dict):
            under = old.get(key)
            old[key] = merge(under if isinstance(under, dict) else {}, value, strategic=strategic)
        elif strategic and key in MERGE_KEYS and isinstance(value, list):
            old[key] = merged_list(old.get(key) or [], value, MERGE_KEYS[key])
        else:
            old[key] = copy.deepcopy(value)
    return old


def merged_list(old: list[Json], patch: list[Json], by: str) -> list[Json]:
    """A list whose elements are known by a field."""
    for element in patch:
        if by not in element:
            raise Refused(400, "BadRequest", f"map: {element} does not contain declared merge key: {by}")
        known = next((one for one in old if one.get(by) == element[by]), None)
        if element.get("$patch") == "delete":
            old = [one for one in old if one is not known]
        elif known is not None:
            merge(known, element, strategic=True)
        else:
            old.append(copy.deepcopy(element))
    return old


def check_conditions(node: Json) -> None:
    """Times are times, and kept to the second; a status is one of three."""
    for condition in node["status"].get("conditions", ()):
        if not condition.get("type") or condition.get("status") not in {"True", "False", "Unknown"}:
            raise Refused(422, "Invalid", f"status.conditions: Invalid value: {condition}")
        for field in ("lastHeartbeatTime", "lastTransitionTime"):
            condition[field] = to_the_second(condition.get(field), field)


def check_event(event: Json, namespace: str) -> None:
    """What an event must be: https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/events.go."""
    faults: list[str] = []
    name = event["metadata"].get("name", "")
    if not SUBDOMAIN.fullmatch(name) or len(name) > 253:
        faults.append(f"metadata.name: Invalid value: {name!r}: must be a lowercase RFC 1123 subdomain")
    if event["metadata"].get("namespace", namespace) != namespace:
        raise Refused(400, "BadRequest", "the namespace of the provided object does not match the request")
    involved = event.get("involvedObject", {})
    where = involved.get("namespace", "")
    if event.get("eventTime"):
        faults += new_event_faults(event, where, namespace)
    elif namespace != (where or "default"):
        faults.append("involvedObject.namespace: does not match event.namespace")
    if not involved.get("kind") or not involved.get("name"):
        faults.append("involvedObject: Required value")
    if not isinstance(event.get("count", 0), int):
        raise Refused(
            400, "BadRequest", "json: cannot unmarshal into Go struct field Event.count of type int32"
        )
    for field in ("firstTimestamp", "lastTimestamp"):
        event[field] = to_the_second(event.get(field), field)
    if faults:
        raise Refused(422, "Invalid", f'Event "{name}" is invalid: [{", ".join(faults)}]')


def new_event_faults(event: Json, where: str, namespace: str) -> list[str]:
    """What is wrong with an event that has an eventTime: it has further duties."""
    if not MICRO_TIME.fullmatch(event["eventTime"]):
        raise Refused(400, "BadRequest", f"parsing time {event['eventTime']!r} as MicroTime")
    needed = ("reportingComponent", "reportingInstance", "action", "reason")
    faults = [f"{field}: Required value" for field in needed if not event.get(field)]
    limits = {"reportingInstance": 128, "action": 128, "reason": 128, "message": 1024}
    faults += [f"{f}: can have at most {n} bytes" for f, n in limits.items() if size(event, f) > n]
    if not where and namespace not in {"default", "kube-system"}:
        faults.append("involvedObject.namespace: does not match event.namespace")
    return faults


def size(event: Json, field: str) -> int:
    """Bytes of a text."""
    return len((event.get(field) or "").encode())


def to_the_second(text: object, field: str) -> str | None:
    """A time as the server keeps it."""
    if text is None:
        return None
    if not isinstance(text, str) or not TIME.fullmatch(text):
        raise Refused(400, "BadRequest", f'parsing time {text!r} in {field} as "2006-01-02T15:04:05Z07:00"')
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fits(made: Json, selected: dict[str, str]) -> bool:
    """Whether the fields of an object are those that were asked for."""
    for path, wanted in selected.items():
        value: Any = made
        for step in path.split("."):
            value = value.get(step, "") if isinstance(value, dict) else ""
        if value != wanted:
            return False
    return True


def status_object(refused: Refused) -> Json:
    """A Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": refused.reason,
        "message": refused.message,
        "code": refused.code,
    }


def now() -> str:
    """The wall clock as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def as_data(file: Path) -> str:
    """A file as it stands in a kubeconfig."""
    return base64.b64encode(file.read_bytes()).decode()

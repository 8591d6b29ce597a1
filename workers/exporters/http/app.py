"""The health API: every path of it, as a Flask application."""

from __future__ import annotations

import hmac
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flask
import msgspec
from werkzeug.exceptions import HTTPException

from nodedoctor.bus.messages import ExporterState, Snapshot, encoder
from nodedoctor.config.model import HttpExporter
from nodedoctor.exporter import Agent
from nodedoctor.health import Health, health
from nodedoctor.types import utc_now
from workers.exporters.exposition import exposition
from workers.exporters.http.page import page

OLDEST = 30.0
"""Age in seconds beyond which the broker's data say nothing about now."""
DEFAULT_LIMIT = 100
OPEN = {"/livez", "/ready"}
"""Paths that need no credentials: probes have none."""

logger = logging.getLogger(__name__)
View = Callable[[], flask.Response]


class Api:
    """Answers requests from the broker's state. Nothing here can change anything on the node."""

    def __init__(self, agent: Agent, namespace: str, *, npd_compatible: bool) -> None:
        self.agent = agent
        self.namespace = namespace
        self.npd_compatible = npd_compatible

    def snapshot(self) -> Snapshot:
        """The broker's state; 503 while it has never answered."""
        snapshot = self.agent.snapshot()
        if snapshot is None:
            flask.abort(503, "the broker has not answered yet")
        return snapshot

    def index(self) -> flask.Response:
        """The page for people."""
        return flask.Response(
            page(self.snapshot()), mimetype="text/html", headers={"Cache-Control": "no-store"}
        )

    def health(self) -> flask.Response:
        """The node's health; 503 when it is unhealthy."""
        snapshot = self.snapshot()
        state = health(snapshot)
        body = {"status": state, "node": snapshot.node, "problems": snapshot.problems, "timestamp": utc_now()}
        return answer(body, 503 if state is Health.UNHEALTHY else 200)

    def livez(self) -> flask.Response:
        """Whether the agent's core is alive: the broker answers, and the supervisor tells it of itself."""
        snapshot = self.agent.snapshot()
        reasons = []
        if self.agent.age() > OLDEST:
            reasons.append("the broker does not answer")
        elif snapshot and (snapshot.timestamp - snapshot.supervised).total_seconds() > OLDEST:
            reasons.append("the supervisor is silent")
        return answer({"alive": not reasons, "reasons": reasons}, 503 if reasons else 200)

    def ready(self) -> flask.Response:
        """Whether what is served here is about now and complete."""
        snapshot = self.agent.snapshot()
        reasons = (
            ["the broker has not answered yet"] if snapshot is None else unready(snapshot, self.agent.age())
        )
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    def status(self) -> flask.Response:
        """Everything."""
        snapshot = self.snapshot()
        return answer(
            {
                "node": snapshot.node,
                "version": snapshot.version,
                "status": health(snapshot),
                "timestamp": snapshot.timestamp,
                "uptime": (utc_now() - snapshot.started).total_seconds(),
                "conditions": snapshot.conditions,
                "problems": snapshot.problems,
                "monitors": snapshot.monitors,
                "workers": snapshot.workers,
                "exporters": snapshot.exporters,
                "remediation": snapshot.remediation,
                "inactive": snapshot.inactive,
            }
        )

    def conditions(self) -> flask.Response:
        """All conditions."""
        return answer({"conditions": self.snapshot().conditions})

    def events(self) -> flask.Response:
        """The newest events, newest first."""
        limit = asked_limit()
        newest = tuple(reversed(self.snapshot().events))
        return answer({"events": newest[:limit]})

    def monitors(self) -> flask.Response:
        """All monitors."""
        return answer({"monitors": self.snapshot().monitors})

    def monitor(self, name: str) -> flask.Response:
        """One monitor with its conditions."""
        snapshot = self.snapshot()
        for monitor in snapshot.monitors:
            if monitor.name == name:
                own = [condition for condition in snapshot.conditions if condition.monitor == name]
                return answer({**msgspec.to_builtins(monitor), "conditions": own})
        return flask.abort(404, f"there is no monitor {name!r}; GET /monitors lists them")

    def history(self) -> flask.Response:
        """What was repaired: nothing, in this version."""
        asked_limit()
        return answer({"items": []})

    def metrics(self) -> flask.Response:
        """The same as at the Prometheus exporter's port."""
        body, content_type = exposition(
            self.snapshot(),
            self.agent.age(),
            self.namespace,
            npd_compatible=self.npd_compatible,
            accept=flask.request.headers.get("Accept", ""),
        )
        return flask.Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})


def create_app(agent: Agent, options: HttpExporter, namespace: str, *, npd_compatible: bool) -> flask.Flask:
    """The application that serves `agent`'s state as `options` say; the other two are for `/metrics`."""
    app = flask.Flask("node-doctor", static_folder=None)
    app.url_map.merge_slashes = False
    api = Api(agent, namespace, npd_compatible=npd_compatible)
    views: dict[str, Callable[..., flask.Response]] = {
        "/": api.index,
        "/health": api.health,
        "/livez": api.livez,
        "/ready": api.ready,
        "/status": api.status,
        "/conditions": api.conditions,
        "/events": api.events,
        "/monitors": api.monitors,
        "/monitors/<name>": api.monitor,
        "/remediation/history": api.history,
        "/metrics": api.metrics,
    }
    handlers: dict[str, View] = {
        "overall-health": api.health,
        "readiness": api.ready,
        "liveness": api.livez,
        "prometheus-metrics": api.metrics,
        "detailed-status": api.status,
        "remediation-history": api.history,
    }
    views |= {endpoint.path: handlers[endpoint.handler] for endpoint in options.endpoints}
    for path, view in views.items():
        app.add_url_rule(path, path, view, methods=["GET"], provide_automatic_options=False)
    app.before_request(lambda: refuse_strangers(options))
    app.register_error_handler(Exception, failure)
    return app


def unready(snapshot: Snapshot, age: float) -> list[str]:
    """Why the agent is not ready; empty when it is."""
    reasons = [f"the broker has not answered for {age:.0f} s"] if age > OLDEST else []
    reasons += [f"monitor {m.name} has not reported yet" for m in snapshot.monitors if m.last_check is None]
    fine = {ExporterState.RUNNING, ExporterState.INACTIVE}
    for exporter in snapshot.exporters:
        if exporter.state not in fine:
            reasons.append(f"exporter {exporter.name} is {exporter.state}: {exporter.message}".rstrip(": "))
    return reasons


def asked_limit() -> int:
    """The number in `?limit=`, DEFAULT_LIMIT without one; 400 for anything else."""
    text = flask.request.args.get("limit", str(DEFAULT_LIMIT))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        flask.abort(400, f"limit: found {text[:20]!r}, allowed: a number from 0")
    return int(text)


def refuse_strangers(options: HttpExporter) -> None:
    """401 for who has no right to ask. The unix socket lies in a folder that only the agent's user can enter."""
    request = flask.request
    connection = request.environ.get("gunicorn.socket")
    local = connection is not None and connection.family == socket.AF_UNIX
    if local or request.path in OPEN:
        return
    if options.tls_client_ca_file and not (
        isinstance(connection, ssl.SSLSocket) and connection.getpeercert()
    ):
        flask.abort(401, "a client certificate is needed")
    if options.bearer_token_file and not right_token(
        request.headers.get("Authorization", ""), options.bearer_token_file
    ):
        flask.abort(401, "a bearer token is needed")


def right_token(header: str, path: str) -> bool:
    """Whether `header` carries the token in the file `path`, which may have been changed since the last request."""
    try:
        expected = Path(path).read_bytes().strip()
    except OSError as error:
        logger.error("bearerTokenFile %s can't be read, so that no token is right: %s", path, error.strerror)
        flask.abort(500, "the token can't be checked; the agent's log says why")
    word, _, token = header.partition(" ")
    return (
        bool(expected) and word.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), expected)
    )


def failure(error: Exception) -> flask.Response:
    """An error as JSON; what was not foreseen is logged and tells a stranger nothing."""
    if isinstance(error, HTTPException):
        code, message = error.code or 500, error.description or error.name
        headers: Iterable[tuple[str, str]] = [h for h in error.get_headers() if h[0] == "Allow"]
    else:
        logger.error("a request failed: %s", flask.request.path, exc_info=error)
        code, message, headers = 500, "the request failed; the agent's log says why", ()
    response = answer({"error": {"code": code, "message": message}}, code)
    response.headers.extend(dict(headers))
    if code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def answer(body: dict[str, Any], code: int = 200) -> flask.Response:
    """`body` as JSON that nobody keeps."""
    data = encoder.encode(body)
    return flask.Response(data, code, mimetype="application/json", headers={"Cache-Control": "no-store"})

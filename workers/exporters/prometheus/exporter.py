"""The metrics endpoint."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import SHUT_RDWR, socket
from socketserver import ThreadingMixIn
from typing import Any

from nodedoctor.bus.messages import ExporterState
from nodedoctor.config import model
from nodedoctor.exporter import Agent, Exporter
from workers.exporters.exposition import exposition
from workers.exporters.listening import explain, listen, waits

MOST_THREADS = 16
"""Requests that are served at once; more wait in the listening socket's queue."""
SLOWEST_CLIENT = 10.0
"""Seconds that a client has for its request and to take the response, together."""
LAST_RESPONSES = 1.0
"""Seconds that responses have to end after SIGTERM."""

logger = logging.getLogger(__name__)


class PrometheusExporter(Exporter[model.PrometheusExporter]):
    """Serves `/metrics` on its own port, and takes the port whenever it can be had."""

    options_type = model.PrometheusExporter
    capabilities = ("CAP_NET_BIND_SERVICE",)

    def run(self) -> None:
        """Serve until SIGTERM."""
        agent = self.context.connect()
        listener = self.take_port(agent)
        server = Server(listener, agent, self.options)
        agent.report(ExporterState.RUNNING)
        logger.info("metrics at http://%s:%d/metrics", self.options.bind_address, listener.getsockname()[1])
        try:
            server.serve_forever()
        finally:
            server.end()

    def take_port(self, agent: Agent) -> socket:
        """The listening socket; waits for it, and says so, while somebody else has the port."""
        told = ""
        for wait in waits():
            try:
                return listen(self.options.bind_address, self.options.port)
            except OSError as error:
                text = explain(error, self.options.bind_address, self.options.port)
            agent.report(ExporterState.UNAVAILABLE, text)
            if text != told:
                logger.error("%s; trying again", text)
            told = text
            time.sleep(wait)
        raise AssertionError


class Server(ThreadingMixIn, HTTPServer):
    """An HTTP server on a socket that listens already, with bounds for its threads and for each client's time."""

    daemon_threads = True

    def __init__(self, listener: socket, agent: Agent, options: model.PrometheusExporter) -> None:
        super().__init__(listener.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.agent = agent
        self.options = options
        self.places = threading.BoundedSemaphore(MOST_THREADS)
        self.due: dict[socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        """Serve in a thread of its own, once there is a place."""
        while not self.places.acquire(timeout=0.5):
            self.service_actions()
        self.due[request] = time.monotonic() + SLOWEST_CLIENT
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread is to be had
            self.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.leave(request)

    def leave(self, request: socket) -> None:
        """Give the place to another request."""
        del self.due[request]
        self.places.release()

    def service_actions(self) -> None:
        """Cut off, twice a second, who sends or takes a byte now and then: a timeout of the socket never ends that."""
        now = time.monotonic()
        for request in [request for request, due in self.due.copy().items() if due <= now]:
            # It may have ended by itself since.
            with contextlib.suppress(OSError):
                request.shutdown(SHUT_RDWR)

    def end(self) -> None:
        """Take no further request, and give the responses that are on their way a moment."""
        self.socket.close()
        end = time.monotonic() + LAST_RESPONSES
        while self.due and time.monotonic() < end:
            time.sleep(0.01)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as socketserver has it
        """A client that went away is no event."""
        logger.debug("a request of %s failed: %s", client_address, sys.exception())


class Handler(BaseHTTPRequestHandler):
    """Answers GET /metrics, and / with a link to it."""

    server: Server
    timeout = SLOWEST_CLIENT

    def do_GET(self) -> None:
        """Answer a scrape."""
        path = self.path.partition("?")[0]
        if path == "/":
            self.answer(
                HTTPStatus.OK, b'<a href="/metrics">node-doctor metrics</a>\n', "text/html; charset=utf-8"
            )
            return
        if path != "/metrics":
            self.answer(HTTPStatus.NOT_FOUND, b"only /metrics is here\n")
            return
        agent, options = self.server.agent, self.server.options
        snapshot = agent.snapshot()
        if snapshot is None:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the broker has not answered yet\n")
            return
        accept = self.headers.get("Accept", "")
        body, content_type = exposition(
            snapshot, agent.age(), options.namespace, npd_compatible=options.npd_compatible, accept=accept
        )
        self.answer(HTTPStatus.OK, body, content_type)

    do_HEAD = do_GET  # noqa: N815 - as http.server has it

    def answer(
        self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        """Send one response."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Keep scrapes out of the log."""

"""gunicorn as the health API needs it: two listeners of which one may come later, TLS on one of them alone."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn import glogging, sock
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import TConn, ThreadWorker
from setproctitle import setproctitle

from nodedoctor.bus.messages import ExporterState
from nodedoctor.bus.sockets import HEALTH
from nodedoctor.config.model import HttpExporter
from nodedoctor.exporter import Context
from workers.exporters.http.app import create_app
from workers.exporters.listening import explain, listen, waits
from workers.privileges import die_with_parent

TITLE = "node-doctor: exporter http"
SLOWEST_CLIENT = 10.0
"""Seconds that a TCP client has for its request and to take the response, together."""
MOST_CONNECTIONS = 200
"""TCP connections at once; gunicorn accepts up to 1000, so that there is always room for the unix socket's."""
THREADS, LOCAL_THREADS = 8, 4
"""How many requests are served at once over TCP, and besides them over the unix socket."""

logger = logging.getLogger(__name__)


class Log(glogging.Logger):  # type: ignore[misc] # gunicorn has no types
    """Has gunicorn's messages go where the agent's go."""

    def setup(self, cfg: Any) -> None:  # noqa: ANN401 - gunicorn has no types
        """Take gunicorn's own handlers away."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Serves both listeners. The unix socket, over which probes come, has no TLS and threads of its own.

    Slow clients of the port can keep all of the other threads waiting, and may not make the agent look dead.
    """

    def init_process(self) -> None:
        """Prepare what connections over the unix socket have for themselves, then serve."""
        self.plain = copy.deepcopy(self.cfg)
        self.plain.set("certfile", None)
        self.plain.set("keyfile", None)
        self.local_pool = ThreadPoolExecutor(LOCAL_THREADS)
        self.due: dict[TConn, float] = {}
        super().init_process()

    def accept(self, listener: sock.BaseSocket) -> None:
        """Take one connection, or turn it away when strangers have too many."""
        if listener.family == socket.AF_UNIX or self.nr_conns < MOST_CONNECTIONS:
            super().accept(listener)
            return
        # The client may have gone since.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            listener.accept()[0].close()

    def enqueue_req(self, conn: TConn) -> None:
        """Hand one request to the threads of its listener."""
        if conn.sock.family == socket.AF_UNIX:
            conn.cfg = self.plain
            future = self.local_pool.submit(self.handle, conn)
            future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))
        else:
            self.due[conn] = time.monotonic() + SLOWEST_CLIENT
            super().enqueue_req(conn)

    def finish_request(self, conn: TConn, done: Future[Any]) -> None:
        """A request has ended."""
        self.due.pop(conn, None)
        super().finish_request(conn, done)

    def notify(self) -> None:
        """Called each second by gunicorn's loop: cut off who sends or takes a byte now and then."""
        super().notify()
        now = time.monotonic()
        for conn in [conn for conn, due in self.due.items() if due <= now]:
            # It may have ended by itself since. A TLS socket's own shutdown disturbs the thread that reads from it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)


class Application(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """The settings, and the Flask application once a worker process has its own link to the broker."""

    def __init__(self, options: HttpExporter, context: Context) -> None:
        self.options = options
        self.context = context
        self.trouble = ""
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        options = self.options
        settings: dict[str, Any] = {
            "worker_class": f"{__name__}.Worker",
            "logger_class": f"{__name__}.Log",
            "loglevel": "warning",
            "workers": 1,
            "threads": THREADS,
            "timeout": 30,
            "graceful_timeout": 2,
            "keepalive": 5,
            "umask": 0o177,
            "control_socket_disable": True,
            # A heartbeat on a disk that hangs would stop the API when it is needed.
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108 - not for data
            "post_fork": self.post_fork,
        }
        if options.tls_enabled:
            settings |= {"certfile": options.tls_cert_file, "keyfile": options.tls_key_file}
        if options.tls_enabled and options.tls_client_ca_file:
            # Optional for TLS, since probes have none; the application refuses who needs one.
            settings |= {"ca_certs": options.tls_client_ca_file, "cert_reqs": 1}
        for name, value in settings.items():
            self.cfg.set(name, value)

    def post_fork(self, arbiter: Arbiter, _worker: Worker) -> None:
        """A gunicorn worker's first lines: its title, and to die with the arbiter."""
        setproctitle(f"{TITLE} worker")
        die_with_parent(arbiter.pid)

    def load(self) -> Any:  # noqa: ANN401 - a WSGI application
        """The application, with a link to the broker of this process's own."""
        agent = self.context.connect()
        state = ExporterState.UNAVAILABLE if self.trouble else ExporterState.RUNNING
        agent.report(state, self.trouble)
        metrics = self.context.config.exporters.prometheus
        return create_app(agent, self.options, metrics.namespace, npd_compatible=metrics.npd_compatible)


class PatientArbiter(Arbiter):  # type: ignore[misc] # gunicorn has no types
    """Serves the unix socket at once, and the TCP port from when it can be had.

    gunicorn's own way is to end when a port is taken; the API must be there to say so.
    """

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.waits: Iterator[float] = waits()
        self.retry_at: float | None = None
        path = app.context.run_dir / HEALTH
        self.LISTENERS = [sock.UnixSocket(str(path), self.cfg, self.log)]
        if app.options.host_port:
            self.take_port()

    def take_port(self) -> bool:
        """Try to have the TCP port; whether it is there now."""
        options = self.app.options
        trouble = certificate_fault(options)
        if not trouble:
            try:
                self.add(listen(options.bind_address, options.host_port))
            except OSError as error:
                trouble = explain(error, options.bind_address, options.host_port)
        if trouble and trouble != self.app.trouble:
            logger.error("%s; trying again", trouble)
        self.app.trouble = trouble
        self.retry_at = time.monotonic() + next(self.waits) if trouble else None
        return not trouble

    def add(self, listener: socket.socket) -> None:
        """Have the next worker serve `listener` too."""
        kind = sock.TCP6Socket if listener.family == socket.AF_INET6 else sock.TCPSocket
        name = listener.getsockname()
        self.LISTENERS = [*self.LISTENERS, kind(name, self.cfg, self.log, fd=listener.detach())]
        logger.info("health API at %s", self.LISTENERS[-1])

    def manage_workers(self) -> None:
        """Called at each turn of gunicorn's loop: try for the port when it is time, with a fresh worker to serve it."""
        setproctitle(TITLE)
        if self.retry_at is not None and time.monotonic() >= self.retry_at and self.take_port():
            self.reload()
            return
        super().manage_workers()


def certificate_fault(options: HttpExporter) -> str:
    """Why TLS is not possible, empty if it is: gunicorn itself reads the files when a client comes, and logs it each time."""
    if not options.tls_enabled:
        return ""
    try:
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=options.tls_client_ca_file or None
        )
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(options.tls_cert_file, options.tls_key_file or None, password="")
    except OSError as error:
        return f"TLS can't be had, see tlsCertFile, tlsKeyFile and tlsClientCaFile: {error}"
    return ""


def serve(options: HttpExporter, context: Context) -> None:
    """Serve the health API until SIGTERM."""
    PatientArbiter(Application(options, context)).run()

"""gunicorn as the health API needs it: two listeners of which one may come later, TLS on one of them alone."""

from __future__ import annotations

import copy
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent import futures
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
SLOWEST_CLIENT = 10
"""Seconds that a TCP client may keep a thread waiting: it must not take them all from the probes."""
THREADS = 8
LOCAL_THREADS = 4

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
        """Prepare what connections over the unix socket get, then serve."""
        self.plain = copy.deepcopy(self.cfg)
        self.plain.set("certfile", None)
        self.plain.set("keyfile", None)
        self.local_pool = futures.ThreadPoolExecutor(max_workers=LOCAL_THREADS)
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        """Take one connection."""
        pool = self.tpool
        if conn.sock.family == socket.AF_UNIX:
            conn.cfg, pool = self.plain, self.local_pool
        else:
            patience = struct.pack("ll", SLOWEST_CLIENT, 0)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))


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
        return create_app(agent, self.context.config)


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
        options, application = self.app.options, self.app
        try:
            listener = listen(options.bind_address, options.host_port)
        except OSError as error:
            text = explain(error, options.bind_address, options.host_port)
            if text != application.trouble:
                logger.error("%s; trying again", text)
            application.trouble = text
            self.retry_at = time.monotonic() + next(self.waits)
            return False
        kind = sock.TCP6Socket if listener.family == socket.AF_INET6 else sock.TCPSocket
        self.LISTENERS = [
            *self.LISTENERS,
            kind(listener.getsockname(), self.cfg, self.log, fd=listener.detach()),
        ]
        application.trouble, self.retry_at = "", None
        logger.info("health API at %s", self.LISTENERS[-1])
        return True

    def manage_workers(self) -> None:
        """Called at each turn of gunicorn's loop: try for the port when it is time, with a fresh worker to serve it."""
        setproctitle(TITLE)
        if self.retry_at is not None and time.monotonic() >= self.retry_at and self.take_port():
            self.reload()
            return
        super().manage_workers()


def serve(options: HttpExporter, context: Context) -> None:
    """Serve the health API until SIGTERM."""
    PatientArbiter(Application(options, context)).run()

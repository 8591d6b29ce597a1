"""The Kubernetes exporter's process: waits for the bus and for time, lets `Sync` decide, asks the API server."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter

import msgspec
import zmq

from nodedoctor.bus.messages import ConditionView, Envelope, EventRecord, ExporterState, Snapshot
from nodedoctor.bus.mirror import Mirror
from nodedoctor.config import model
from nodedoctor.config.load import node_name
from nodedoctor.duration import seconds
from nodedoctor.exporter import Agent, Exporter
from nodedoctor.roster import NO_CLUSTER
from nodedoctor.types import utc_now
from workers.exporters.kubernetes.request import Answer, Request
from workers.exporters.kubernetes.sync import Sync
from workers.exporters.listening import waits
from workers.kubernetes import (
    API,
    JSON,
    METADATA_ONLY,
    STRATEGIC,
    APIError,
    CredentialsError,
    TLSError,
    UnauthorizedError,
    find,
)

LAST_PATIENCE = 1.5
"""Seconds for the last ones; the supervisor waits little longer for this process to end."""
PARAMS = {"fieldManager": "node-doctor"}

condition_decoder = msgspec.json.Decoder(ConditionView)
event_decoder = msgspec.json.Decoder(EventRecord)
logger = logging.getLogger(__name__)


class KubernetesExporter(Exporter[model.KubernetesExporter]):
    """Writes conditions and annotations of the node, and its events."""

    options_type = model.KubernetesExporter

    def run(self) -> None:
        """Write until SIGTERM, then what is left to say."""
        agent = self.context.connect()
        config = self.context.config
        self.api = self.reach(agent)
        self.counts: Counter[str] = Counter()
        self.told: tuple[tuple[ExporterState, str], Counter[str]] | None = None
        self.sync = Sync(node_name(config).lower(), self.options, time.monotonic())
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        mirror = Mirror(context, self.context.run_dir)
        try:
            self.live(agent, mirror)
        finally:
            self.end()
            mirror.close()

    def reach(self, agent: Agent) -> API:
        """The API server; waits while there are no credentials, and says so once."""
        told = ""
        for wait in waits():
            try:
                access = find(self.context.config.settings.kubeconfig, os.environ)
                if access:
                    return API(access, self.options.proxy_url)
                state, text = ExporterState.INACTIVE, NO_CLUSTER
            except CredentialsError as error:
                state, text = ExporterState.UNAVAILABLE, str(error)
            agent.report(state, text)
            if text != told:
                logger.warning("nothing is written to the Kubernetes API: %s", text)
            told = text
            time.sleep(wait)
        raise AssertionError

    def live(self, agent: Agent, mirror: Mirror) -> None:
        """One turn for each thing that happens."""
        interval, patience = seconds(self.options.update_interval), seconds(self.options.request_timeout)
        look_at = time.monotonic() + interval
        while True:
            now = time.monotonic()
            if now >= look_at:
                # Changes of messages are not on the bus, and what was lost there is healed so, too.
                look_at = now + interval
                mirror.follower.resync()
            wait = min(self.sync.due(now), look_at) - now
            for item in mirror.receive(max(0.001, wait) if wait > 0 else 0.0):
                self.take(item, time.monotonic())
            request = self.sync.next(time.monotonic(), utc_now())
            if request is not None:
                self.send(request, patience)
            self.tell(agent)

    def take(self, item: Snapshot | Envelope, now: float) -> None:
        """What came over the bus."""
        if isinstance(item, Snapshot):
            self.sync.on_snapshot(item, now)
        elif item.topic.startswith("condition."):
            self.sync.on_condition(condition_decoder.decode(item.data), now)
        elif item.topic.startswith("event."):
            self.sync.on_event(event_decoder.decode(item.data), now)

    def send(self, request: Request, patience: float) -> None:
        """Ask the API server, and tell `sync` what came of it."""
        try:
            answer = self.ask(request, patience)
        except APIError as error:
            self.counts[f"{request.operation} {error.result}"] += 1
            self.sync.on_error(request, error, time.monotonic(), utc_now())
            if isinstance(error, CredentialsError | TLSError | UnauthorizedError):
                self.renew()
            return
        self.counts[f"{request.operation} ok"] += 1
        self.sync.on_answer(request, answer, time.monotonic())

    def ask(self, request: Request, patience: float) -> Answer:
        """The answer to one request.

        Raises:
            APIError: there is none, or it is a refusal.
        """
        return self.api.request(
            request.method,
            request.path,
            Answer,
            params=PARAMS,
            body=request.body,
            content_type=STRATEGIC if request.method == "PATCH" else JSON,
            accept=METADATA_ONLY,
            timeout=patience,
        )

    def renew(self) -> None:
        """Read the credentials again: somebody may have replaced the file."""
        try:
            access = find(self.context.config.settings.kubeconfig, os.environ)
        except CredentialsError as error:
            logger.debug("the credentials are kept: %s", error)
            return
        if access:
            self.api = API(access, self.options.proxy_url)

    def tell(self, agent: Agent) -> None:
        """Tell the broker how it goes, when that has changed."""
        counts = Counter(self.counts)
        counts["event-create dropped"] = self.sync.events.dropped
        state = self.sync.state()
        if (state, counts) != self.told:
            self.told = (state, counts)
            agent.report(*state, requests=dict(counts))

    def end(self) -> None:
        """Send what is left, as long as there is time for it."""
        deadline = time.monotonic() + LAST_PATIENCE
        request = self.sync.last_words(time.monotonic(), utc_now())
        while request is not None and (left := deadline - time.monotonic()) > 0:
            self.send(request, left)
            request = self.sync.next(time.monotonic(), utc_now())

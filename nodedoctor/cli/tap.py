"""`node-doctor tap`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import zmq

from nodedoctor.bus.messages import Envelope, envelope_decoder
from nodedoctor.bus.sockets import BUS, SnapshotClient, address, subscriber
from nodedoctor.cli.options import run_folder
from nodedoctor.errors import AgentUnreachableError
from nodedoctor.folders import run_dir as folder

PATIENCE = 3.0
"""Seconds that the broker has to answer before the bus counts as dead."""


@click.command()
@click.argument("prefixes", metavar="[PREFIX...]", nargs=-1)
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="End after S seconds.")
@run_folder
def tap(
    prefixes: tuple[str, ...], form: str, count: int | None, timeout: float | None, run_dir: Path | None
) -> None:
    r"""Print the messages of the bus as they pass, those whose topics begin with a PREFIX, or all.

    Topics: status.MONITOR, condition.TYPE, event.MONITOR, problem.TYPE, worker.NAME, exporter.NAME, heartbeat.
    With `-o json`, one JSON object a line.

    \b
    Examples:
      node-doctor tap
      node-doctor tap condition. problem. -o json
      node-doctor tap status.disk --count 1
    """
    where = folder(run_dir)
    if not (where / BUS).is_socket():
        msg = f"there is no bus at {where / BUS}; does the agent run, with this --run-dir?"
        raise AgentUnreachableError(msg)
    try:
        for number, (body, envelope) in enumerate(messages(where, prefixes, timeout), 1):
            click.echo(body.decode() if form == "json" else in_a_line(envelope))
            if number == count:
                return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        sys.stderr.close()


def messages(
    where: Path, prefixes: tuple[str, ...], timeout: float | None
) -> Iterator[tuple[bytes, Envelope]]:
    """Yield each message, raw and decoded, for `timeout` seconds."""
    context = zmq.Context(io_threads=1)
    socket = subscriber(context, *(prefixes or ("",)))
    socket.connect(address(where, BUS))
    try:
        require_broker(context, where)
        end = None if timeout is None else time.monotonic() + timeout
        while end is None or time.monotonic() < end:
            left = 1000 if end is None else max(1, int((end - time.monotonic()) * 1000))
            if socket.poll(left):
                _, body = socket.recv_multipart()
                yield body, envelope_decoder.decode(body)
    finally:
        socket.close()
        context.term()


def require_broker(context: zmq.Context[zmq.Socket[bytes]], where: Path) -> None:
    """Make sure that somebody serves the bus: the socket of an agent that was killed is still there.

    Raises:
        AgentUnreachableError: nobody answers.
    """
    client = SnapshotClient(context, where)
    try:
        if client.fetch(PATIENCE) is None:
            msg = f"nobody answers at {where}: the agent has ended, or its broker hangs"
            raise AgentUnreachableError(msg)
    finally:
        client.close()


def in_a_line(envelope: Envelope) -> str:
    """One message for people."""
    when = envelope.timestamp.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{when} {envelope.topic} #{envelope.seq} {bytes(envelope.data).decode()}"

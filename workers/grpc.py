"""One gRPC call over a Unix socket: a message there, a message back ("gRPC over HTTP2", the protocol's definition)."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from workers.protobuf import Malformed
from workers.unix import connected

PREFIX = struct.Struct(">?I")
"""What stands before a message: whether it is compressed, and its size."""
LARGEST = 16 * 1024 * 1024
"""Bytes of an answer; the kubelet takes as much of its runtime."""
STREAM = 1
"""A connection carries one call, and a client's first stream is 1."""
OK, DEADLINE_EXCEEDED, UNIMPLEMENTED = "0", "4", "12"


class StatusError(Exception):
    """The other side understood the call and answered with an error: `code` is gRPC's, a number in digits."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def unary(path: Path, method: str, request: bytes, deadline: float) -> bytes:
    """What the server at `path` answers when `method` is called with `request`.

    Args:
        path: A Unix socket.
        method: /SERVICE/METHOD.
        request: An encoded message.
        deadline: For all of it, in seconds of time.monotonic; a trickle does not prolong it.

    Raises:
        StatusError: it answered with an error.
        Malformed: it does not speak gRPC.
        TimeoutError: it did not answer in time.
        OSError: it can't be reached, or the connection broke.
    """
    with connected(path, deadline) as stream:
        call = Call(method, request, deadline - time.monotonic())
        while not call.ended:
            stream.send(call.connection.data_to_send())
            call.take(stream.receive())
    return call.answer()


class Call:
    """One call's side of an HTTP/2 connection, without the connection."""

    def __init__(self, method: str, request: bytes, timeout: float) -> None:
        self.connection = H2Connection(H2Configuration(header_encoding=None))
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.ended = False
        self.connection.initiate_connection()
        self.connection.send_headers(STREAM, headers_of(method, timeout))
        self.connection.send_data(STREAM, PREFIX.pack(False, len(request)) + request, end_stream=True)

    def take(self, data: bytes) -> None:
        """Read what the server has sent."""
        try:
            events = self.connection.receive_data(data)
        except ProtocolError as error:
            raise Malformed(f"no HTTP/2: {error}") from error
        for event in events:
            self.on(event)
            if self.ended:
                return

    def on(self, event: Event) -> None:
        """Take one event of the connection; the ones that are not named concern HTTP/2 alone."""
        match event:
            case ResponseReceived() | TrailersReceived():
                self.headers |= {as_text(name): as_text(value) for name, value in event.headers}
            case DataReceived():
                self.body += event.data
                if len(self.body) > LARGEST:
                    raise Malformed("the answer is too large")
                self.connection.acknowledge_received_data(event.flow_controlled_length, STREAM)
            case StreamEnded():
                self.ended = True
            case StreamReset():
                raise ConnectionError("the call was broken off (RST_STREAM)")
            case ConnectionTerminated():
                raise ConnectionError("the server is ending its connections (GOAWAY)")

    def answer(self) -> bytes:
        """The message that came."""
        code = self.headers.get("grpc-status", "")
        if self.headers.get(":status") != "200" or not code.isdecimal():
            raise Malformed("no gRPC answer")
        message = unquote(self.headers.get("grpc-message", ""), errors="replace")
        if code == DEADLINE_EXCEEDED:
            raise TimeoutError(message)
        if code != OK:
            raise StatusError(code, message)
        if len(self.body) < PREFIX.size:
            raise Malformed("the answer has no message")
        compressed, size = PREFIX.unpack_from(self.body)
        if compressed:
            raise Malformed("the answer is compressed, which was not asked for")
        if len(self.body) != PREFIX.size + size:
            raise Malformed("the answer is not one message")
        return bytes(self.body[PREFIX.size :])


def headers_of(method: str, timeout: float) -> list[tuple[str, str]]:
    """The headers of a call to `method` that is to be answered within `timeout` seconds."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{max(1, int(timeout * 1000))}m"),
        ("user-agent", "node-doctor"),
    ]


def as_text(word: bytes | str) -> str:
    """A header's name or value."""
    return word if isinstance(word, str) else word.decode(errors="replace")

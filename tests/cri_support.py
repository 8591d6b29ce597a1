"""A server that speaks gRPC as a test wants it, where a real runtime never would."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded


@contextmanager
def serving(path: Path, converse: Callable[[socket.socket], None]) -> Iterator[None]:
    """A server at `path` that has one conversation after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(0.05)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(2)
                try:
                    converse(client)
                except OSError:  # the monitor hung up
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        listener.close()
        path.unlink()


def until_it_hangs_up(client: socket.socket) -> None:
    """Reads what still comes: unread, it would make the end of the conversation a reset."""
    while client.recv(65536):
        pass


def grpc(body: bytes, code: str = "0", *, piece: int = 65536) -> Callable[[socket.socket], None]:
    """Answers every call with `body`, cut in pieces, and a gRPC status."""

    def converse(client: socket.socket) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        while True:
            client.sendall(connection.data_to_send())
            for event in connection.receive_data(client.recv(65536)):
                if isinstance(event, StreamEnded):
                    connection.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
                    message = struct.pack(">?I", False, len(body)) + body
                    for at in range(0, len(message), piece):
                        connection.send_data(1, message[at : at + piece])
                    trailers = [("grpc-status", code), ("grpc-message", "unknown%20service")]
                    connection.send_headers(1, trailers, end_stream=True)
                    client.sendall(connection.data_to_send())
                    until_it_hangs_up(client)
                    return

    return converse


def field(number: int, value: bytes) -> bytes:
    """One field of bytes."""
    return bytes([number << 3 | 2, len(value)]) + value

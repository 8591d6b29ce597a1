"""Questions to the kernel over rtnetlink(7)."""

from __future__ import annotations

import os
import socket
import struct

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_DUMP = 0x1, 0x2, 0x300
HEADER = 16
PATIENCE = 1.0


def ask(kind: int, body: bytes, *, dump: bool = False) -> list[bytes]:
    """The bodies of all messages that the kernel answers with.

    Raises:
        OSError: it does not, or may not be asked.
    """
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(PATIENCE)
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
        kernel.send(struct.pack("=IHHII", HEADER + len(body), kind, flags, 1, 0) + body)
        while not taken(kernel.recv(1 << 17), found):
            pass
    return found


def taken(data: bytes, found: list[bytes]) -> bool:
    """Add the bodies of the messages in `data`; whether the last one was among them.

    Raises:
        OSError: one of them says so.
    """
    while len(data) >= HEADER:
        length, kind, flags = struct.unpack_from("=IHH", data)
        if kind == NLMSG_DONE:
            return True
        if kind == NLMSG_ERROR:
            code = -struct.unpack_from("=i", data, HEADER)[0]
            raise OSError(code, os.strerror(code))
        found.append(data[HEADER:length])
        if not flags & NLM_F_MULTI:
            return True
        data = data[aligned(length) :]
    return False


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type; of several with one type the last."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[aligned(max(length, 4)) :]
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute to send."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def aligned(length: int) -> int:
    """Where the next one begins."""
    return (length + 3) & ~3

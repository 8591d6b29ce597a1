"""Reads messages in the wire format of Protocol Buffers (protobuf.dev, "Encoding") without generated code."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10
"""Bytes."""


class Malformed(ValueError):  # noqa: N818 - it is what the other side does, not a fault of the program
    """What came is not what the protocol allows."""


class Message:
    """One message: its values by the numbers of their fields. An absent field has its type's zero, as in proto3."""

    def __init__(self, data: bytes) -> None:
        self.values: dict[int, list[int | bytes]] = {}
        for number, value in fields(data):
            self.values.setdefault(number, []).append(value)

    def flag(self, number: int) -> bool:
        """A bool."""
        values = self.values.get(number, [0])
        if not isinstance(values[-1], int):
            raise Malformed(f"field {number} is no number")
        return bool(values[-1])

    def text(self, number: int) -> str:
        """A string."""
        return (self.all_bytes(number) or [b""])[-1].decode(errors="replace")

    def message(self, number: int) -> Message:
        """A message; an absent one is empty. One that came in parts is put together."""
        return Message(b"".join(self.all_bytes(number)))

    def messages(self, number: int) -> list[Message]:
        """A repeated message."""
        return [Message(value) for value in self.all_bytes(number)]

    def all_bytes(self, number: int) -> list[bytes]:
        """All values of a field that are made of bytes.

        Raises:
            Malformed: they are numbers.
        """
        values = [value for value in self.values.get(number, []) if isinstance(value, bytes)]
        if len(values) != len(self.values.get(number, [])):
            raise Malformed(f"field {number} is a number")
        return values


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of the message `data`.

    Raises:
        Malformed: it is none.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = varint(data, at)
        elif kind in {FIXED32, FIXED64}:
            size = 4 if kind == FIXED32 else 8
        else:
            raise Malformed(f"field {number} has the unknown wire type {kind}")
        if at + size > len(data):
            raise Malformed(f"field {number} is cut off")
        part, at = data[at : at + size], at + size
        yield number, part if kind == BYTES else int.from_bytes(part, "little")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that starts at `at`, and where what follows it starts."""
    value = 0
    for place, byte in enumerate(data[at : at + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise Malformed("a number has no end")

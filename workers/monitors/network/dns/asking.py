"""Asking nameservers, all at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from contextlib import closing

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import msgspec

PORT = 53
LARGEST = 65535
PROBE = "localhost."
"""A name that a nameserver answers for itself, or refuses to; RFC 6761, section 6.3."""
SILENT = {
    "Timeout": "no answer in time",
    "ConnectionRefused": "nobody listens there",
    "Unreachable": "there is no way there",
    "InvalidAnswer": "what comes back is no answer to the question",
}
"""Reasons of those that don't answer."""
PASSED_ON = SILENT | {
    "ServerFailure": "it fails (SERVFAIL)",
    "QueryRefused": "it refuses to answer (REFUSED)",
    "QueryRejected": "it does not understand the question",
    "TCPFailed": "its answer is too long for UDP, and by TCP there is none",
}
"""Reasons for which the C library asks the next nameserver."""
REASONS = PASSED_ON | {
    "NameNotFound": "there is no such name (NXDOMAIN)",
    "NoAddress": "the name has no address",
}
"""Everything that can be wrong with an answer, and what to say of it."""
OF_CODE = {
    dns.rcode.NOERROR: "",
    dns.rcode.NXDOMAIN: "NameNotFound",
    dns.rcode.SERVFAIL: "ServerFailure",
    dns.rcode.REFUSED: "QueryRefused",
}


class TCPFailed(Exception):  # noqa: N818 - it is what a nameserver does, not a fault of the program
    """A nameserver asks to be asked over TCP, and then does not answer."""


class Question(msgspec.Struct, frozen=True):
    """Which nameserver is asked for the addresses of which name."""

    server: str
    name: str


class Answer(msgspec.Struct, frozen=True):
    """What came back: the seconds that it took, and what is wrong with it; no reason if nothing is."""

    took: float
    reason: str = ""

    @property
    def silent(self) -> bool:
        """Whether the nameserver did not answer."""
        return self.reason in SILENT

    @property
    def final(self) -> bool:
        """Whether the C library is content with it and asks nobody else."""
        return self.reason not in PASSED_ON


async def ask_all(questions: Iterable[Question], within: float) -> dict[Question, Answer]:
    """The answer to each of `questions`, after at most `within` seconds."""
    different = list(dict.fromkeys(questions))
    answers = await asyncio.gather(*(ask(question, within) for question in different))
    return dict(zip(different, answers, strict=True))


async def ask(question: Question, within: float) -> Answer:
    """Ask for the IPv4 addresses of a name, and if it has none for its IPv6 addresses."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(within):
            reason = await reason_of(question, dns.rdatatype.A, within)
            if reason == "NoAddress":
                reason = await reason_of(question, dns.rdatatype.AAAA, within)
    except TimeoutError:
        reason = "Timeout"
    except ConnectionRefusedError:
        reason = "ConnectionRefused"
    except OSError:
        reason = "Unreachable"
    except TCPFailed:
        reason = "TCPFailed"
    except dns.exception.DNSException:
        reason = "InvalidAnswer"
    return Answer(time.monotonic() - began, reason)


async def reason_of(question: Question, kind: dns.rdatatype.RdataType, within: float) -> str:
    """What is wrong with one answer.

    Raises:
        OSError: there is none.
        DNSException: it can't be read, or belongs to another question.
        TCPFailed: it is truncated, and there is none by TCP.
    """
    query = dns.message.make_query(question.name, kind)
    if question.name == PROBE:
        query.flags &= ~dns.flags.RD
    answer = await exchange(query, question.server, within)
    if question.name == PROBE:
        return ""
    reason = OF_CODE.get(answer.rcode(), "QueryRejected")
    found = any(rows.rdtype == kind for rows in answer.answer)
    return reason if reason or found else "NoAddress"


async def exchange(query: dns.message.Message, server: str, within: float) -> dns.message.Message:
    """The answer to `query` over UDP, or over TCP if that is truncated (RFC 7766).

    A connected socket takes what comes from the nameserver alone, and hears that nobody listens there.
    """
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, place = socket.getaddrinfo(
        server, PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )[0]
    with closing(socket.socket(family, kind, protocol)) as sock:
        sock.setblocking(False)
        sock.connect(place)
        await loop.sock_sendall(sock, query.to_wire())
        wire = await loop.sock_recv(sock, LARGEST)
    try:
        answer = dns.message.from_wire(wire, raise_on_truncation=True)
    except dns.message.Truncated:
        return await exchange_by_tcp(query, server, within)
    if not query.is_response(answer):
        raise dns.exception.FormError
    return answer


async def exchange_by_tcp(query: dns.message.Message, server: str, within: float) -> dns.message.Message:
    """The answer to `query` over TCP, within half the time: what is told is then that it was TCP."""
    try:
        return await dns.asyncquery.tcp(query, server, within / 2)
    except (OSError, EOFError, dns.exception.Timeout) as error:
        raise TCPFailed from error

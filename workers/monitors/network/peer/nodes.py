"""The nodes of the cluster and their addresses, as the Kubernetes API lists them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from nodedoctor.errors import Undetermined
from workers.http import Request, exchange
from workers.kubernetes import Access

PATH = "/api/v1/nodes?resourceVersion=0"
"""From the API server's cache, so that etcd has no work with it."""
AS_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
"""What kubectl asks for, with some 250 bytes a node instead of 10,000:
https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables."""
LARGEST = 32 << 20
UNAUTHENTICATED, FORBIDDEN, OK = 401, 403, 200
FIRST_PAUSE = 30.0
NAME, ADDRESS, NO_ADDRESS = "Name", "Internal-IP", "<none>"


class Named(msgspec.Struct, frozen=True):
    """A column of a table, or the metadata of a node."""

    name: str = ""


class Row(msgspec.Struct, frozen=True):
    """A row of a table."""

    cells: list[msgspec.Raw]


class Address(msgspec.Struct, frozen=True):
    """One of a node's addresses."""

    type: str
    address: str


class NodeStatus(msgspec.Struct, frozen=True):
    """The part of a node's status that has addresses."""

    addresses: list[Address] = []


class Node(msgspec.Struct, frozen=True):
    """A node as a whole object."""

    metadata: Named
    status: NodeStatus = NodeStatus()


class Listed(msgspec.Struct, frozen=True, rename="camel"):
    """A Table, or a NodeList of a server that does not make tables."""

    kind: str
    column_definitions: list[Named] = []
    rows: list[Row] = []
    items: list[Node] = []


def listed(access: Access, within: str) -> dict[str, str]:
    """The address of each node that has one, by its name.

    Raises:
        Undetermined: there is no list, and why.
        OSError: the token or a certificate of ours can't be read.
    """
    token = access.token()
    headers = {"Accept": AS_TABLE} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = access.server
    answer = exchange(Request(url + PATH, within, headers=headers, context=access.tls(), longest=LARGEST))
    if answer.reason:
        raise Undetermined(f"{url} does not list the nodes: {answer.message}", "NodesUnknown")
    if answer.status == FORBIDDEN:
        text = (
            f"{url} forbids to list nodes: the agent's ClusterRole lacks the verb list on the resource nodes"
        )
        raise Undetermined(text, "NodesForbidden")
    if answer.status == UNAUTHENTICATED:
        raise Undetermined(f"{url} rejects this agent's credentials; see its token", "CredentialsRejected")
    if answer.status != OK:
        raise Undetermined(f"{url} answers {answer.status} when asked for the nodes", "NodesUnknown")
    try:
        return addresses(msgspec.json.decode(answer.body, type=Listed))
    except (msgspec.MsgspecError, ValueError) as error:
        raise Undetermined(
            f"{url} answers with something that is no list of nodes", "NodesUnknown"
        ) from error


def addresses(found: Listed) -> dict[str, str]:
    """The addresses in an answer, by node.

    Raises:
        ValueError: it has none of the columns.
        MsgspecError: the cells are not what they should be.
    """
    if found.kind == "Table":
        columns = [column.name for column in found.column_definitions]
        name, address = columns.index(NAME), columns.index(ADDRESS)
        pairs = [
            (
                msgspec.json.decode(row.cells[name], type=str),
                msgspec.json.decode(row.cells[address], type=str),
            )
            for row in found.rows
        ]
    elif found.kind == "NodeList":
        pairs = [(node.metadata.name, internal(node.status.addresses)) for node in found.items]
    else:
        raise ValueError(found.kind)
    return {node: where for node, where in pairs if where not in {"", NO_ADDRESS}}


def internal(found: list[Address]) -> str:
    """The first address within the cluster."""
    return next((one.address for one in found if one.type == "InternalIP"), "")


class Nodes:
    """The nodes as they were last known; asked for anew after a time that is nobody else's."""

    def __init__(self, ask: Callable[[], dict[str, str]], refresh: float) -> None:
        self.ask = ask
        self.refresh = refresh
        self.known: dict[str, str] = {}
        self.error: Exception | None = None
        self.failures = 0
        self.due = 0.0

    def current(self) -> dict[str, str]:
        """Addresses by name; the last good ones while there are no others.

        Raises:
            Undetermined, OSError: there never were any.
        """
        if time.monotonic() >= self.due:
            self.renew()
        if self.error and not self.known:
            raise self.error
        return self.known

    def renew(self) -> None:
        """Ask. A server that fails is asked sooner again, and less and less so."""
        try:
            self.known, self.error, self.failures = self.ask(), None, 0
        except (Undetermined, OSError) as error:
            self.error, self.failures = error, self.failures + 1
        pause = min(self.refresh, FIRST_PAUSE * 2 ** (self.failures - 1)) if self.failures else self.refresh
        self.due = time.monotonic() + pause * random.uniform(0.8, 1.2)

"""What stands in the node's annotations."""

from __future__ import annotations

from typing import Any

import msgspec

from nodedoctor.types import ConditionStatus
from workers.exporters.kubernetes.conditions import Known

STATUS = "node-doctor.io/status"
UPDATED = "node-doctor.io/last-update"
OWNED = "node-doctor.io/conditions"
"""Which conditions of the node are this agent's, each with the first letter of its status and the second of its last
transition: after a restart nothing has to be read, and what is not configured any more can be taken away."""
LARGEST = 4000
"""Bytes of the status."""
LETTERS = {status[0]: status for status in ConditionStatus}


def owned(node: dict[str, Known]) -> str:
    """The text of OWNED."""
    return msgspec.json.encode(
        {kind: f"{node[kind].status[0]}{node[kind].since}" for kind in sorted(node)}
    ).decode()


def read_owned(text: str) -> dict[str, Known]:
    """What OWNED says; of a text that somebody else wrote, what can be understood."""
    try:
        entries = msgspec.json.decode(text, type=dict[str, str]).items()
    except msgspec.MsgspecError:
        return {}
    return {
        kind: Known(LETTERS[value[0]], int(value[1:]))
        for kind, value in entries
        if value[:1] in LETTERS and value[1:].isascii() and value[1:].isdigit() and len(value) < 14
    }


def status_text(
    health: str, version: str, problems: list[dict[str, str]], unknown: list[str], most: int = LARGEST
) -> str:
    """The text of STATUS: compact JSON; what does not fit is counted in `more`."""
    said: dict[str, Any] = {"health": health, "version": version, "problems": problems, "unknown": unknown}
    left = len(problems) + len(unknown)
    while len(encoded := msgspec.json.encode(said)) > most and left:
        key = "unknown" if said["unknown"] else "problems"
        said[key] = said[key][: len(said[key]) // 2]
        said["more"] = left - len(said["problems"]) - len(said["unknown"])
    return encoded.decode()

"""A monitor that is being made of a part of a file."""

from __future__ import annotations

import re
from typing import Any

LONGEST_NAME = 63


class Draft:
    """A monitor's entry before it has its final name.

    Attributes:
        name: What it should be called.
        log: What tells the log apart that it watches; None if it watches none.
    """

    def __init__(self, name: str, kind: str, config: dict[str, Any], **entry: Any) -> None:  # noqa: ANN401 - as YAML has it
        self.name = name
        self.kind = kind
        self.config = config
        self.other = entry
        self.notes: list[str] = []
        self.log: tuple[object, ...] | None = None

    @property
    def condition_types(self) -> set[str]:
        """The conditions that it writes."""
        named = {condition["type"] for condition in self.config.get("conditions", ())}
        return named | {rule["condition"] for rule in self.config.get("rules", ()) if "condition" in rule}

    def join(self, other: Draft) -> None:
        """Take over the rules and conditions of `other` that are not here yet."""
        for key, name in (("conditions", "type"), ("rules", "name")):
            mine = self.config.setdefault(key, [])
            known = [{**item, "name": ""} for item in mine]
            for item in other.config.get(key, ()):
                if {**item, "name": ""} not in known and not (
                    name == "type" and item[name] in self.condition_types
                ):
                    mine.append({**item, name: unused(item[name], {taken[name] for taken in mine})})
        other.notes.append(
            f"{other.name} watches the same log as {self.name} and sets the same condition: they are one"
        )

    def entry(self, taken: set[str]) -> dict[str, Any]:
        """The entry, under a name that is not `taken` yet."""
        name = unused(label(self.name), taken)
        taken.add(name)
        return {"name": name, "type": self.kind, **self.other, "config": self.config}


def label(text: str) -> str:
    """`text` as a DNS label."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", text)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:LONGEST_NAME].strip("-") or "monitor"


def unused(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it if it is `taken`."""
    number, found = 1, name
    while found in taken:
        number += 1
        tail = f"-{number}"
        found = name[: LONGEST_NAME - len(tail)] + tail
    return found


def without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that say nothing."""
    return {key: value for key, value in values.items() if value not in ("", None, [], ())}

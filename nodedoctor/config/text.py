"""Reads a configuration file into plain values, and remembers the line of each.

What comes in may be anything: no size, depth or alias makes this slow, and nothing in it is run.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nodedoctor.errors import ConfigurationError

LARGEST = 1 << 20
"""Bytes of a file. A configuration of 1,000 monitors has 100 KB."""
MOST_VALUES = 50_000
"""Values of a file, each alias counted as what it stands for."""
DEEPEST = 50
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}

PathOf = tuple[str | int, ...]
"""Where a value stands: keys and list indices."""


class Document:
    """A parsed file: its values, and the line of each by its path."""

    def __init__(self, name: str, data: dict[str, Any], lines: dict[PathOf, int]) -> None:
        self.name = name
        self.data = data
        self.lines = lines


def read_document(path: Path) -> Document:
    """The configuration in the file `path`, YAML or JSON.

    Raises:
        ConfigurationError: it can't be read, or holds no map.
    """
    return parse(str(path), read_text(path))


def read_text(path: Path) -> str:
    """The text of a regular file of bearable size.

    Raises:
        ConfigurationError: it is something else, or can't be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigurationError([f"{path}: is no regular file"])
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    if len(data) > LARGEST:
        raise ConfigurationError(
            [f"{path}: has more than {LARGEST >> 20} MiB, which is the most that is read"]
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError([f"{path}:{line}: is not UTF-8 (byte {data[error.start]:#x})"]) from None


def parse(name: str, text: str) -> Document:
    """The configuration in `text`; `name` is for messages.

    Raises:
        ConfigurationError: it is not YAML or JSON, or not one map.
    """
    if not text.strip():
        raise ConfigurationError([f"{name}: is empty; expected apiVersion, kind and what is to be different"])
    if text.lstrip().startswith("{"):
        check_json(name, text)
        # JSON may be indented with tabs, YAML not; inside a string neither may have one.
        text = text.replace("\t", " ")
    composer = Composer(name)
    try:
        data = composer.compose(yaml.parse(text, Loader=Loader))
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{name}{place(error)}: is not YAML: {problem(error)}"]) from None
    if not isinstance(data, dict):
        raise ConfigurationError(
            [f"{name}:1: expected a map with apiVersion and kind, found {kind_of(data)}"]
        )
    return Document(name, data, composer.lines)


def check_json(name: str, text: str) -> None:
    """Say what is wrong with JSON in JSON's own terms.

    Raises:
        ConfigurationError: `text` is not JSON.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError([f"{name}:{error.lineno}:{error.colno}: is not JSON: {error.msg}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{name}: is nested more than {DEEPEST} deep"]) from None


def place(error: yaml.YAMLError) -> str:
    """Line and column of `error`, as a suffix of the file's name."""
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def problem(error: yaml.YAMLError) -> str:
    """What `error` says, in one line."""
    parts = (
        getattr(error, "context", None),
        getattr(error, "problem", None) or getattr(error, "reason", None),
    )
    return ", ".join(part for part in parts if part) or str(error).splitlines()[0]


def kind_of(value: object) -> str:
    """The kind of `value` in the words of the file's author."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case dict():
            return "a map"
        case list():
            return "a list"
        case str():
            return "a text"
    return "a number"


class Composer:
    """Makes values of YAML's events. PyYAML's own composer recurses, in C: deep nesting ends the process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[PathOf, int] = {}
        self.anchors: dict[str, Any] = {}
        self.values = 0
        self.scalars: Any = yaml.SafeLoader("")

    def compose(self, events: Iterator[Any]) -> Any:  # noqa: ANN401 - whatever the file holds
        """The one document of the stream."""
        data, documents = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(event, "holds a second document; one file is one configuration")
                data = self.node(next(events), events, ())
        return data

    def node(self, event: Any, events: Iterator[Any], path: PathOf) -> Any:  # noqa: ANN401 - PyYAML has no types here
        """The value that begins with `event`."""
        self.count(event, 1)
        if len(path) > DEEPEST:
            self.refuse(event, f"is nested more than {DEEPEST} deep")
        self.lines.setdefault(path, event.start_mark.line + 1)
        match event:
            case yaml.AliasEvent():
                return self.alias(event)
            case yaml.ScalarEvent():
                value = self.scalar(event)
            case yaml.SequenceStartEvent():
                value = self.sequence(events, path)
            case _:
                value = self.mapping(events, path)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def sequence(self, events: Iterator[Any], path: PathOf) -> list[Any]:
        """The list that has begun."""
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self.node(event, events, (*path, len(values))))
        return values

    def mapping(self, events: Iterator[Any], path: PathOf) -> dict[str, Any]:
        """The map that has begun."""
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "has a key that is no text")
            key = event.value
            if key in values:
                self.refuse(event, f"has the key {key!r} twice")
            self.lines[(*path, key)] = event.start_mark.line + 1
            value = self.node(next(events), events, (*path, key))
            if key == "<<" and isinstance(value, dict):
                merged = {**value, **merged}
            else:
                values[key] = value
        return {**merged, **values}

    def scalar(self, event: Any) -> Any:  # noqa: ANN401 - PyYAML has no types here
        """The value of one scalar; dates are left as they are written."""
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
            if tag not in SCALARS:
                return event.value
        if tag not in SCALARS:
            self.refuse(event, f"has the tag {tag}, which is not taken")
        try:
            return self.scalars.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError):
            return self.refuse(event, f"{event.value[:40]!r} does not fit its tag {tag}")

    def alias(self, event: Any) -> Any:  # noqa: ANN401 - PyYAML has no types here
        """What the alias stands for, counted once more."""
        if event.anchor not in self.anchors:
            self.refuse(event, f"*{event.anchor} stands for nothing that is complete")
        value = self.anchors[event.anchor]
        self.count(event, size(value, MOST_VALUES))
        return value

    def count(self, event: Any, values: int) -> None:  # noqa: ANN401 - PyYAML has no types here
        """Bound the number of values."""
        self.values += values
        if self.values > MOST_VALUES:
            self.refuse(
                event, f"holds more than {MOST_VALUES} values, aliases counted as what they stand for"
            )

    def refuse(self, event: Any, what: str) -> Any:  # noqa: ANN401 - it returns nothing, ever
        """Stop, saying where and why."""
        raise ConfigurationError([f"{self.name}:{event.start_mark.line + 1}: {what}"])


def size(value: object, enough: int) -> int:
    """How many values `value` is made of, at least; counting ends at `enough`."""
    total, rest = 0, [value]
    while rest and total <= enough:
        item = rest.pop()
        total += 1
        if isinstance(item, dict):
            rest += item.values()
        elif isinstance(item, list):
            rest += item
    return total

"""Reads a configuration file into plain values, and remembers the line of each.

What comes in may be anything: no size, depth or alias makes this slow, and nothing in it is run.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
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
TAG = "tag:yaml.org,2002:"
SCALARS = {f"{TAG}{name}" for name in ("str", "int", "float", "bool", "null")}
JSON_LIKE = re.compile(r"\s*\{\s*[\"}]")
TYPES: dict[str, set[type]] = {"int": {int}, "float": {int, float}, "bool": {bool}, "null": {type(None)}}
NOTHING = {"", "~", "null", "Null", "NULL"}
TRUTH = {
    word: value
    for value, words in ((True, "true yes on"), (False, "false no off"))
    for lower in words.split()
    for word in (lower, lower.capitalize(), lower.upper())
}
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z|0x[0-9a-fA-F]{1,15}\Z|0o[0-7]{1,20}\Z")
BROKEN = re.compile(
    r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?\Z"
)

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
    composer = Composer(name)
    data: Any
    if JSON_LIKE.match(text):
        with contextlib.suppress(yaml.YAMLError, UnicodeError):  # it is for the numbers of the lines
            composer.compose(yaml.parse(text.replace("\t", " "), Loader=Loader))
        data = from_json(name, text)
    else:
        try:
            data = composer.compose(yaml.parse(text, Loader=Loader))
        except (yaml.YAMLError, UnicodeError) as error:
            # libyaml itself gives up at some depth, from 0.2.6 on.
            deep = "maximum nesting depth" in problem(error)
            fault = f"is nested more than {DEEPEST} deep" if deep else f"is not YAML: {problem(error)}"
            raise ConfigurationError([f"{name}{place(error)}: {fault}"]) from None
    if not isinstance(data, dict):
        raise ConfigurationError(
            [f"{name}:1: expected a map with apiVersion and kind, found {kind_of(data)}"]
        )
    return Document(name, data, composer.lines)


def parse_value(name: str, text: str) -> Any:  # noqa: ANN401 - whatever it is
    """One value in YAML, as it is given in a variable or a flag; what is no YAML is a text.

    Raises:
        ConfigurationError: it is YAML of a kind that is not taken.
    """
    try:
        return Composer(name).compose(yaml.parse(text, Loader=Loader)) if text else ""
    except (yaml.YAMLError, UnicodeError):
        return text


def from_json(name: str, text: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """The values of JSON, with JSON's own words for what is wrong.

    Raises:
        ConfigurationError: `text` is not JSON, or more than is taken.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ConfigurationError([f"{name}: has the key {key[:60]!r} twice"])
            values[key] = value
        return values

    def refuse(constant: str) -> None:
        raise ConfigurationError([f"{name}: {constant} is no number that is taken"])

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ConfigurationError([f"{name}:{error.lineno}:{error.colno}: is not JSON: {error.msg}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{name}: is nested more than {DEEPEST} deep"]) from None
    if size(data, MOST_VALUES) > MOST_VALUES:
        raise ConfigurationError([f"{name}: holds more than {MOST_VALUES} values"])
    return data


def place(error: Exception) -> str:
    """Line and column of `error`, as a suffix of the file's name."""
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def problem(error: Exception) -> str:
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
                self.require_tag(event, "seq")
                value = self.sequence(events, path)
            case _:
                self.require_tag(event, "map")
                value = self.mapping(events, path)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def require_tag(self, event: Any, kind: str) -> None:  # noqa: ANN401 - PyYAML has no types here
        """Refuse a collection that wants to become something else."""
        if event.tag not in {None, "!", f"{TAG}{kind}"}:
            self.refuse(event, f"has the tag {event.tag}, which is not taken")

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
            if key in values or (key == "<<" and merged):
                self.refuse(event, f"has the key {key[:60]!r} twice")
            self.lines[(*path, key)] = event.start_mark.line + 1
            value = self.node(next(events), events, (*path, key))
            if key != "<<":
                values[key] = value
                continue
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, dict):
                    self.refuse(event, "merges something that is no map")
                for name, item in part.items():
                    merged.setdefault(name, item)
        return {**merged, **values}

    def scalar(self, event: Any) -> Any:  # noqa: ANN401 - PyYAML has no types here
        """The value of one scalar; dates are left as they are written."""
        tag = event.tag
        if tag is None or tag == "!":
            return plain(event.value) if event.implicit[0] else event.value
        if tag not in SCALARS:
            self.refuse(event, f"has the tag {tag}, which is not taken")
        if tag == f"{TAG}str":
            return event.value
        value = plain(event.value)
        if type(value) not in TYPES[tag.removeprefix(TAG)]:
            self.refuse(event, f"{event.value[:40]!r} does not fit its tag {tag}")
        return value

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


def plain(text: str) -> object:
    """What an unquoted scalar means: YAML 1.2's numbers, 1.1's truth values; what is neither is a text.

    An hour of `1:30` is no number here, nor is what has no finite value; whole numbers stay whole.
    """
    if text in NOTHING:
        return None
    if text in TRUTH:
        return TRUTH[text]
    if WHOLE.match(text):
        return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
    if BROKEN.match(text) and math.isfinite(value := float(text)):
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    return text


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

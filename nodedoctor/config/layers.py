"""Puts the layers of the configuration together: later ones win, maps are merged, lists are replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from nodedoctor.config.model import Config
from nodedoctor.config.schema import LONGEST_SHOWN, Fault, Schema, schema_of, shown
from nodedoctor.config.text import Document, PathOf, parse_value
from nodedoctor.config.variables import Filler
from nodedoctor.errors import ConfigurationError
from nodedoctor.registry import monitor_type
from nodedoctor.words import did_you_mean

PREFIX = "NODE_DOCTOR_"
NOT_VALUES = {"NODE_DOCTOR_CONFIG", "NODE_DOCTOR_RUN_DIR", "NODE_DOCTOR_STATE_DIR"}
"""Variables that tell the command line where things are."""
OF_A_SERVICE = re.compile(
    r"(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)\Z"
)
"""What Kubernetes adds to every container of a namespace that has a Service called node-doctor or node-doctor-*."""
STEP = re.compile(r"[^.\[\]]+|\[\d+\]")


class Layers:
    """The merged values and, for each, the layer that set it. `faults` collects what could not be applied."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.data: dict[str, Any] = {}
        self.origins: dict[PathOf, str] = {}
        self.faults: list[str] = []
        self.references: dict[PathOf, object] = {}
        self.unset: dict[PathOf, str] = {}

    def add_document(self, document: Document) -> None:
        """A file, or the embedded default."""

        def origin(path: PathOf) -> str:
            lines = document.lines
            line = next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), 1)
            return f"{document.name}:{line}"

        filler = Filler(self.environ)
        self.merge(self.data, filler.filled(document.data), (), origin)
        self.unset |= filler.unset
        self.references |= filler.whole

    def add_converted(self, data: dict[str, Any], origin: str, instead_of: str) -> None:
        """A configuration that was made of other files: its monitors join those that are there.

        The monitors of the layer `instead_of` they replace.
        """
        own = self.data.get("monitors")
        if not isinstance(own, list) or self.origins.get(("monitors",), "").startswith(f"{instead_of}:"):
            self.put(("monitors",), [], origin)
        monitors = self.data["monitors"]
        for entry in data.pop("monitors"):
            monitors.append(entry)
            self.note(entry, ("monitors", len(monitors) - 1), lambda _: origin)
        self.merge(self.data, data, (), lambda _: origin)

    def add_environment(self) -> None:
        """Variables such as NODE_DOCTOR_SETTINGS__DRYRUNMODE=true."""
        for name in sorted(self.environ):
            if not name.startswith(PREFIX) or name in NOT_VALUES:
                continue
            words = name.removeprefix(PREFIX).split("__")
            if len(words) > 1 or not OF_A_SERVICE.match(words[0]):
                self.add_value(words, self.environ[name], f"environment {name}", any_case=True)

    def add_flags(self, flags: Iterable[str]) -> None:
        """What was given as --set PATH=VALUE."""
        for flag in flags:
            path, equals, text = flag.partition("=")
            words = [step.strip("[]") for step in STEP.findall(path)]
            if not equals or not words:
                self.faults.append(f"--set {flag}: expected PATH=VALUE, such as settings.dryRunMode=true")
                continue
            self.add_value(words, text, f"--set {path}", any_case=False)

    def add_value(self, words: list[str], text: str, origin: str, *, any_case: bool) -> None:
        """One value at one path."""
        try:
            path, is_text = self.resolve(words, any_case=any_case)
            value = parse_value(origin, text)
        except LookupError as error:
            self.faults.append(f"{origin}: {error.args[0]}")
            return
        except ConfigurationError as error:
            self.faults += error.faults
            return
        self.put(
            path, text if is_text and value is not None and not isinstance(value, str) else value, origin
        )

    def put(self, path: PathOf, value: object, origin: str) -> None:
        """Set what stands at `path`, and make what must be around it."""
        target: Any = self.data
        inside: Any
        here: Any
        for depth, (here, following) in enumerate(pairwise(path), 1):
            inside = target[here] if isinstance(target, list) else target.get(here)
            if not isinstance(inside, list if isinstance(following, int) else dict):
                self.forget(inside, path[:depth])
                self.origins[path[:depth]] = origin
                target[here] = inside = [] if isinstance(following, int) else {}
            target = inside
        last: Any = path[-1]
        self.forget(target[last] if isinstance(target, list) else target.get(last), path)
        target[last] = value
        self.note(value, path, lambda _: origin)

    def resolve(self, words: list[str], *, any_case: bool) -> tuple[PathOf, bool]:
        """The path that `words` mean, by the schemas and by what is there already; whether a text alone is taken there.

        Raises:
            LookupError: there is no such path; its argument says what there is.
        """
        path: list[str | int] = []
        schema: Schema = schema_of(Config)
        root = schema
        value: Any = self.data
        for word in words:
            schema = dereferenced(schema, root)
            if tuple(path[:1]) == ("monitors",) and path[2:] == ["config"]:
                root = schema = options_schema(value_at(self.data, path[:2]))
                schema = dereferenced(schema, root)
            if schema.get("type") == "array":
                here = index_of(word, value, path)
                path.append(here)
                schema = schema.get("items", {})
                value = value[here]
            else:
                key = key_of(word, schema, value, path, any_case=any_case)
                path.append(key)
                schema = schema.get("properties", {}).get(key, {})
                value = value.get(key, {}) if isinstance(value, dict) else {}
        return tuple(path), takes_text_alone(schema, root)

    def merge(
        self, into: dict[str, Any], layer: dict[str, Any], path: PathOf, origin: Callable[[PathOf], str]
    ) -> None:
        """Lay `layer` over `into`."""
        for key, value in layer.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                self.merge(into[key], value, here, origin)
            else:
                self.forget(into.get(key), here)
                into[key] = value
                self.note(value, here, origin)

    def forget(self, value: object, path: PathOf) -> None:
        """`value`, which stood at `path`, is replaced."""
        for notes in (self.origins, self.references, self.unset):
            notes.pop(path, None)
        for key, item in items_of(value):
            self.forget(item, (*path, key))

    def note(self, value: object, path: PathOf, origin: Callable[[PathOf], str]) -> None:
        """Remember who set `value` and all in it."""
        self.origins[path] = origin(path)
        for key, item in items_of(value):
            self.note(item, (*path, key), origin)

    def origin(self, path: PathOf) -> str:
        """Who set what stands at `path`, or at the nearest thing around it."""
        found = next(
            (self.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origins), ""
        )
        return found or "configuration"

    def told(self, fault: Fault) -> str:
        """`fault` as one line: who set it, where, what is wrong."""
        path, what = fault
        return f"{self.origin(path)}: {dotted(path) + ': ' if path else ''}{what}"

    def unset_faults(self) -> Iterator[Fault]:
        """Yield what refers to a variable that is not set, unless a later layer has replaced it."""
        for path, name in self.unset.items():
            yield path, f"${{{name}}} is not set in the environment; set it, or write ${{{name}:-default}}"

    def read_references(self, faulty: Iterable[PathOf]) -> bool:
        """Where one reference is the whole value and no text is wanted, read what it holds; whether there was one."""
        found = [path for path in faulty if path in self.references]
        for path in found:
            value_at(self.data, list(path[:-1]))[path[-1]] = self.references.pop(path)
        return bool(found)


def items_of(value: object) -> Iterator[tuple[str | int, Any]]:
    """What `value` is made of, by key or index."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def dotted(path: PathOf) -> str:
    """`path` as people write it: monitors[2].config.paths[0].path; what can't be read in one line is quoted."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{shown_key(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def shown_key(key: str) -> str:
    """`key` as it is written, unless it is too long for a line or would change the screen."""
    return key if key.isprintable() and len(key) <= LONGEST_SHOWN else shown(key)


def value_at(data: Any, path: list[str | int]) -> Any:  # noqa: ANN401 - whatever stands there
    """What stands at `path`, which exists."""
    for step in path:
        data = data[step]
    return data


def dereferenced(schema: Schema, root: Schema) -> Schema:
    """`schema`, or what it refers to; of "this or nothing" it is this."""
    if "anyOf" in schema:
        schema = next((s for s in schema["anyOf"] if s.get("type") != "null"), {})
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def takes_text_alone(schema: Schema, root: Schema) -> bool:
    """Whether nothing but a text, or nothing, may stand where `schema` holds."""
    kinds = {dereferenced(each, root).get("type") for each in schema.get("anyOf", [schema])}
    return kinds - {"null"} == {"string"}


def options_schema(entry: Any) -> Schema:  # noqa: ANN401 - whatever stands in the file
    """The schema of the options of the monitor `entry`; of anything if its type is not known."""
    try:
        return schema_of(monitor_type(entry["type"]).options_type)
    except (ConfigurationError, KeyError, TypeError):
        return {}


def index_of(word: str, value: Any, path: list[str | int]) -> int:  # noqa: ANN401 - whatever stands there
    """The list index that `word` means."""
    size = len(value) if isinstance(value, list) else 0
    if not word.isdigit() or int(word) >= size:
        raise LookupError(f"{dotted(tuple(path))} is a list of {size}; {word!r} is none of its indices")
    return int(word)


def key_of(word: str, schema: Schema, value: Any, path: list[str | int], *, any_case: bool) -> str:  # noqa: ANN401
    """The key that `word` means."""
    known = list(dict.fromkeys([*schema.get("properties", {}), *(value if isinstance(value, dict) else ())]))
    if word in known:
        return word
    same = [key for key in known if key.lower() == word.lower()] if any_case else []
    if same:
        return str(same[0])
    if schema.get("additionalProperties") is False or not schema:
        where = dotted(tuple(path)) or "the configuration"
        raise LookupError(
            f"{where} has no key {word!r}; known: {', '.join(sorted(known))}{did_you_mean(word, known)}"
        )
    return word


def process_environment() -> Mapping[str, str]:
    """The environment that configuration is filled from."""
    return os.environ

"""Reads JSON as Go does it, https://pkg.go.dev/encoding/json#Unmarshal, into typed structs.

It differs where Go hides mistakes: a key that is not known is a fault here, and all faults are told, not the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from nodedoctor.config.layers import dotted
from nodedoctor.config.schema import shown
from nodedoctor.config.text import MOST_VALUES, PathOf, size
from nodedoctor.errors import ConfigurationError
from nodedoctor.words import did_you_mean

BLANKS = " \t\r\n"
COMMA_TOO_MANY = re.compile(rf",[{BLANKS}]*[\]}}]")
MOST_FAULTS = 100
"""More are not told: nobody reads them."""
LONGEST_TOLD = 800
EXPECTED = {str: "a text", int: "an integer such as 10", bool: "true or false"}
NOT_IN_FILE = "not in the file"
"""Annotates a field that nobody writes."""
T = TypeVar("T", bound=msgspec.Struct)


class Written:
    """A number that no integer of Go can hold, as it is written: `3.0`, `1e3`, `9223372036854775808`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Members(dict[str, Any]):
    """A JSON object; `pairs` has all its members in their order, also those whose key comes again."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = [(sound(key), value) for key, value in pairs]
        super().__init__(self.pairs)


class Read(NamedTuple):
    """Annotates a field with how its value is made.

    Args:
        of: The type that stands in the file.
        by: Makes the value of it; None means that there is none, and the default holds. A ValueError says what is
            wrong.
    """

    of: type
    by: Callable[[Any], Any]


def parse(name: str, text: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """What `text` holds, in Members, lists, texts, integers, Written, truth values and None.

    Raises:
        ConfigurationError: it is not JSON, with line and column, or more than is taken.
    """
    try:
        data = json.loads(
            text, object_pairs_hook=Members, parse_int=integer, parse_float=Written, parse_constant=Written
        )
    except json.JSONDecodeError as error:
        position, what = complaint(text, error)
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        raise ConfigurationError([f"{name}:{line}:{column}: is not JSON: {what}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{name}: is nested hundreds of levels deep; expected 5 at most"]) from None
    if size(data, MOST_VALUES) > MOST_VALUES:
        raise ConfigurationError([f"{name}: holds more than {MOST_VALUES} values"])
    return data


def integer(text: str) -> int | Written:
    """The integer that is written as `text`, if 64 bits hold it."""
    return int(text) if len(text) <= 20 and -(2**63) <= int(text) < 2**63 else Written(text)


def complaint(text: str, error: json.JSONDecodeError) -> tuple[int, str]:
    """Where `text` ceases to be JSON, and why; not in Python's words where these differ between its versions."""
    before = text[: error.pos].rstrip(BLANKS)
    comma = error.pos if text.startswith(",", error.pos) else len(before) - 1
    if comma >= 0 and COMMA_TOO_MANY.match(text, comma):
        return comma, "nothing follows this comma"
    if text.startswith("\ufeff"):
        return 0, "a byte order mark stands before it"
    if error.msg == "Extra data":
        return error.pos, "there is more after its end"
    if not text[error.pos :].strip(BLANKS):
        return error.pos, "it ends too early" if before else "it is empty"
    return error.pos, error.msg


def sound(text: str) -> str:
    """`text` with a replacement character for each half of a pair of surrogates that stands alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def folded(key: str) -> bytes:
    """`key` without the difference between a and A: Go takes keys in either case."""
    return key.encode().lower()


def is_struct(kind: Any) -> bool:  # noqa: ANN401 - a type, or what typing makes of it
    """Whether `kind` is made of named fields."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def fields_of(kind: type[msgspec.Struct]) -> Mapping[str, FieldInfo]:
    """The fields of `kind` by their keys in the file."""
    fields = msgspec.structs.fields(kind)
    return {field.encode_name: field for field in fields if NOT_IN_FILE not in get_args(field.type)}


def zero(kind: Any) -> Any:  # noqa: ANN401 - a type, or what typing makes of it
    """What stands for a faulty value of `kind` while others are looked at; a key that must be there holds a text."""
    if is_struct(kind):
        return kind(**{field.name: "" for field in fields_of(kind).values() if field.required})
    return ""


def unknown_key(key: str, known: Collection[str]) -> str:
    """What is said of `key`, which is none of the `known` ones."""
    allowed = f"expected {', '.join(sorted(known))}" if known else "expected none"
    return f"unknown key, which NPD passes over; {allowed}{did_you_mean(key, known)}"


def told(path: PathOf, what: str) -> str:
    """`what` is said of the value at `path`, in a line that can be read."""
    line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in what)
    return f"{dotted(path)}: {line if len(line) <= LONGEST_TOLD else line[:LONGEST_TOLD] + '…'}"


class Decoder:
    """Makes typed values of what `parse` gave; `faults` and `notes` collect what is to be said of the file `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.faulty: list[PathOf] = []

    def note(self, path: PathOf, what: str) -> None:
        """Something is odd, and does what it does in NPD."""
        self.notes.append(told(path, what))

    def fault(self, path: PathOf, what: str) -> None:
        """Something is wrong.

        Raises:
            ConfigurationError: this is one fault too many.
        """
        if len(self.faults) == MOST_FAULTS:
            raise ConfigurationError([*self.faults, f"{self.name}: has more faults than these {MOST_FAULTS}"])
        self.faults.append(f"{self.name}: {told(path, what)}")
        self.faulty.append(path)

    def judge(self, path: PathOf, what: str, by: PathOf) -> None:
        """Two values do not fit together: that at `path` and that at `by`; unless one of them is faulty itself."""
        if not any(
            here[: len(there)] == there[: len(here)] for here in self.faulty for there in (path, by or path)
        ):
            self.fault(path, what)

    def struct(self, raw: Members, kind: type[T], path: PathOf = ()) -> T:
        """`raw` as a `kind`; a faulty value is its default."""
        fields = fields_of(kind)
        found = self.members(raw, fields, path)
        values = {}
        for key, field in fields.items():
            here = (*path, key)
            made = [self.value(item, field.type, here) for item in found.get(key, ())]
            if made and made[-1] is not None:
                values[field.name] = made[-1]
            elif field.required:
                values[field.name] = zero(field.type)
                if not made:
                    self.fault(here, "is missing")
        return kind(**values)

    def members(self, raw: Members, known: Collection[str], path: PathOf) -> dict[str, list[Any]]:
        """What stands under each `known` key, the last of which counts; objects are put together, null is nothing."""
        by_folded = {folded(key): key for key in known}
        found: dict[str, list[Any]] = {}
        for written, value in raw.pairs:
            key = written if written in known else by_folded.get(folded(written))
            if key is None:
                self.fault((*path, written), unknown_key(written, known))
                continue
            if value is None:
                continue
            if key in found:
                self.note((*path, key), "is given more than once; the last one counts")
            items = found.setdefault(key, [])
            if items and isinstance(items[-1], Members) and isinstance(value, Members):
                items[-1].pairs += value.pairs
            else:
                items.append(value)
        return found

    def value(self, raw: Any, kind: Any, path: PathOf) -> Any:  # noqa: ANN401 - of whatever type `kind` is
        """`raw` as a `kind`; None if there is none, or none that is right, which is a fault."""
        arguments = get_args(kind)
        if raw is None:
            return None
        if NoneType in arguments:
            return self.value(raw, arguments[0], path)
        if get_origin(kind) is Annotated:
            return self.made(raw, arguments[1], path)
        if isinstance(raw, list) and get_origin(kind) is tuple:
            return tuple(self.item(item, arguments[0], (*path, index)) for index, item in enumerate(raw))
        if isinstance(raw, Members):
            return self.object(raw, kind, path)
        return self.plain(raw, kind, path)

    def object(self, raw: Members, kind: Any, path: PathOf) -> Any:  # noqa: ANN401 - of whatever type `kind` is
        """`raw` as a struct or as a map of any keys; None if `kind` is neither, which is a fault."""
        if get_origin(kind) is dict:
            of = get_args(kind)[1]
            made = [(key, self.value(item, of, (*path, key))) for key, item in raw.pairs]
            return {key: value for key, value in made if value is not None}
        return self.struct(raw, kind, path) if is_struct(kind) else self.plain(raw, kind, path)

    def item(self, raw: Any, kind: Any, path: PathOf) -> Any:  # noqa: ANN401 - of whatever type `kind` is
        """`raw`, which stands in a list, as a `kind`."""
        value = self.value(raw, kind, path)
        if raw is None:
            self.plain(raw, kind, path)
        return zero(kind) if value is None else value

    def made(self, raw: Any, read: Read, path: PathOf) -> Any:  # noqa: ANN401 - whatever `read` makes
        """What `read` makes of `raw`; None if there is nothing, or nothing right."""
        value = self.value(raw, read.of, path)
        if value is None:
            return None
        try:
            return read.by(value)
        except ValueError as error:
            self.fault(path, str(error))
            return None

    def plain(self, raw: Any, kind: Any, path: PathOf) -> Any:  # noqa: ANN401 - of whatever type `kind` is
        """`raw` if it is a `kind`; if not, None, which is a fault."""
        if type(raw) is kind:
            return sound(raw) if isinstance(raw, str) else raw
        expected = EXPECTED.get(kind) or ("a list" if get_origin(kind) is tuple else "a map")
        self.fault(path, f"found {shown(raw)}, expected {expected}")
        return None

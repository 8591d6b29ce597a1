"""JSON Schemas (draft 2020-12), made of the classes that hold the configuration and the monitors' options."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from nodedoctor.config.text import PathOf, kind_of
from nodedoctor.words import did_you_mean

Schema = dict[str, Any]
Fault = tuple[PathOf, str]
"""Where, and what is wrong."""
LONGEST_SHOWN = 60


@cache
def schema_of(kind: type[msgspec.Struct]) -> Schema:
    """The JSON Schema of `kind`, with what the class says about each field."""
    schema = msgspec.json.schema(kind)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


@cache
def described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What the source of `kind` says under each field, by the name that the configuration uses."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found = {}
    if isinstance(tree, ast.ClassDef):
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else None
            )
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, str)
            ):
                found[names[field.target.id]] = text
    return found


def schema_faults(value: object, kind: type[msgspec.Struct], path: PathOf = ()) -> Iterator[Fault]:
    """Yield everything in `value` that the schema of `kind` does not allow."""
    for error in Draft202012Validator(schema_of(kind)).iter_errors(value):
        yield from faults_of(error, path)


def faults_of(error: ValidationError, base: PathOf) -> Iterator[Fault]:
    """What `error` says, as found and allowed."""
    path: PathOf = (*base, *error.absolute_path)
    found: Any = error.instance
    schema: Any = error.schema
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            known = schema.get("properties", {})
            for key in sorted(set(found) - set(known)):
                yield (
                    (*path, key),
                    f"unknown key; allowed: {', '.join(sorted(known))}{did_you_mean(str(key), known)}",
                )
        case "required":
            for key in sorted(set(wanted) - set(found)):
                yield path, f"the key {key!r} is missing"
        case "anyOf":
            yield from alternative_faults(error, base)
        case _:
            near = did_you_mean(found, wanted) if error.validator == "enum" and isinstance(found, str) else ""
            yield path, f"found {shown(found)}, allowed: {allowed_of(schema)}{near}"


def alternative_faults(error: ValidationError, base: PathOf) -> Iterator[Fault]:
    """What is wrong with a value that may be of several kinds: within the kind that it is, or that it is none."""
    branches: dict[object, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.schema_path[0], []).append(inner)
    of_kind = [b for b in branches.values() if not any(e.validator == "type" and not e.path for e in b)]
    if of_kind:
        for inner in of_kind[0]:
            yield from faults_of(inner, base)
        return
    kinds = {allowed_of(schema_seen(e)) for branch in branches.values() for e in branch if not e.path} - {
        "nothing"
    }
    yield (
        (*base, *error.absolute_path),
        f"found {shown(error.instance)}, allowed: {' or '.join(sorted(kinds))}",
    )


def schema_seen(error: ValidationError) -> Schema:
    """The schema that was not kept."""
    schema: Any = error.schema
    return dict(schema)


def allowed_of(schema: Schema) -> str:
    """What `schema` allows, for people."""
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    kind = {
        "string": "a text",
        "number": "a number",
        "integer": "a whole number",
        "boolean": "true or false",
        "array": "a list",
        "object": "a map",
        "null": "nothing",
    }.get(str(schema.get("type")), "something else")
    if "minimum" in schema or "maximum" in schema:
        low, high = schema.get("minimum"), schema.get("maximum")
        kind += f" from {low}" if low is not None else ""
        kind += f" to {high}" if high is not None else ""
    if "exclusiveMinimum" in schema:
        kind += f" above {schema['exclusiveMinimum']}"
    if "minItems" in schema:
        kind += f" of at least {schema['minItems']}"
    if "minLength" in schema:
        kind = "a text that is not empty"
    if "pattern" in schema:
        return str(schema.get("description") or f"a text that matches {schema['pattern']}")
    return kind


def shown(value: object) -> str:
    """`value` as it stands in the file, cut to what a line can hold."""
    if isinstance(value, dict | list):
        return kind_of(value)
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"

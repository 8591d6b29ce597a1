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
            # All our alternatives are "this or nothing", or two forms of one value: the nearest tells most.
            branches = [e for e in error.context or () if e.validator != "type"] or list(error.context or ())[
                :1
            ]
            alternatives = {
                allowed_of(branch)
                for branch in map(schema_seen, error.context or ())
                if branch.get("type") != "null"
            }
            if len(alternatives) > 1 or all(e.validator == "type" for e in branches):
                yield path, f"found {shown(found)}, allowed: {' or '.join(sorted(alternatives))}"
            else:
                for branch in branches:
                    yield from faults_of(branch, base)
        case _:
            near = did_you_mean(found, wanted) if error.validator == "enum" and isinstance(found, str) else ""
            yield path, f"found {shown(found)}, allowed: {allowed_of(schema)}{near}"


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
    }.get(str(schema.get("type")), "something else")
    if "minimum" in schema or "maximum" in schema:
        low, high = schema.get("minimum"), schema.get("maximum")
        kind += f" from {low}" if low is not None else ""
        kind += f" to {high}" if high is not None else ""
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

"""`node-doctor monitors`."""

from __future__ import annotations

import inspect
from typing import Any

import click
import msgspec

from nodedoctor.cli.options import output
from nodedoctor.cli.tables import as_json, table
from nodedoctor.config.schema import Schema, allowed_of, described, schema_of
from nodedoctor.duration import human
from nodedoctor.monitor import Monitor
from nodedoctor.registry import MONITORS, monitor_type, names


@click.command()
@click.argument("kind", metavar="[TYPE]", required=False)
@output
def monitors(kind: str | None, form: str) -> None:
    r"""List monitor types; for one type its options, conditions, metrics and events.

    \b
    Examples:
      node-doctor monitors
      node-doctor monitors disk-health-check
    """
    if kind:
        description = describe(monitor_type(kind))
        click.echo(as_json(description) if form == "json" else as_text(description))
        return
    listed = [(name, summary(monitor_type(name))) for name in names(MONITORS)]
    if form == "json":
        click.echo(as_json([{"type": name, "description": text} for name, text in listed]))
    else:
        click.echo(table(("TYPE", "WHAT IT DOES"), listed))


def summary(kind: type[Monitor[Any]]) -> str:
    """The first sentence about a type."""
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def describe(kind: type[Monitor[Any]]) -> dict[str, Any]:
    """Everything that a type declares."""
    return {
        "type": kind.kind,
        "description": (inspect.getdoc(kind) or "").replace("\n", " ").replace("  ", "\n\n"),
        "interval": human(kind.interval),
        "timeout": human(kind.timeout),
        "capabilities": list(kind.capabilities),
        "options": options_of(schema_of(kind.options_type), kind.options_type),
        "conditions": [
            {"type": c.type, "reason": c.reason, "okReason": c.ok_reason} for c in kind.conditions
        ],
        "metrics": [
            {"name": m.name, "kind": m.kind, "labels": list(m.labels), "help": m.help} for m in kind.metrics
        ],
        "events": [event.reason for event in kind.events],
    }


def options_of(
    schema: Schema, kind: type[msgspec.Struct] | None = None, prefix: str = ""
) -> list[dict[str, Any]]:
    """Each option with what it takes, its default and what its class says about it; those within lists as a[].b."""
    definitions = schema["$defs"]
    here = definitions[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    texts = described(kind) if kind else {}
    found = []
    for name, option in here.get("properties", {}).items():
        entry: dict[str, Any] = {
            "name": f"{prefix}{name}",
            "allowed": allowed(option, definitions),
            "description": texts.get(name, ""),
        }
        if "default" in option:
            entry["default"] = option["default"]
        entry["required"] = name in here.get("required", ())
        found.append(entry)
        inner = option.get("items", option)
        if "$ref" in inner:
            suffix = "[]." if "items" in option else "."
            struct = struct_named(inner["$ref"].rsplit("/", 1)[1], kind)
            found += options_of({**inner, "$defs": definitions}, struct, f"{prefix}{name}{suffix}")
    return found


def struct_named(name: str, kind: type[msgspec.Struct] | None) -> type[msgspec.Struct] | None:
    """The class `name`, among those that the module of `kind` knows."""
    module = inspect.getmodule(kind)
    found = getattr(module, name, None)
    return found if isinstance(found, type) and issubclass(found, msgspec.Struct) else None


def allowed(option: Schema, definitions: Schema) -> str:
    """What an option takes."""
    if "$ref" in option:
        return "a map"
    if "anyOf" in option:
        return " or ".join(
            allowed(each, definitions) for each in option["anyOf"] if each.get("type") != "null"
        )
    return allowed_of(option)


def as_text(description: dict[str, Any]) -> str:
    """The description of one type for people."""
    parts = [f"{description['type']}: {description['description']}", ""]
    parts.append(f"Every {description['interval']} by default, at most {description['timeout']} long.")
    if description["capabilities"]:
        parts.append(f"As root it keeps {', '.join(description['capabilities'])}.")
    rows = [
        (o["name"], o["allowed"], "required" if o["required"] else short(o.get("default")), o["description"])
        for o in description["options"]
    ]
    if rows:
        parts += ["", table(("OPTION", "TAKES", "DEFAULT", ""), rows)]
    if description["conditions"]:
        conditions = [(c["type"], c["reason"], c["okReason"]) for c in description["conditions"]]
        parts += ["", table(("CONDITION", "REASON", "REASON WHEN FINE"), conditions)]
    if description["metrics"]:
        metrics = [(m["name"], m["kind"], ",".join(m["labels"]), m["help"]) for m in description["metrics"]]
        parts += ["", table(("METRIC", "KIND", "LABELS", ""), metrics)]
    if description["events"]:
        parts += ["", f"Events: {', '.join(description['events'])}"]
    return "\n".join(parts)


def short(value: object) -> str:
    """A default in one cell; what its own rows show below is left out."""
    if value in (None, "", [], {}):
        return "none"
    return "see below" if isinstance(value, dict | list) else str(value)

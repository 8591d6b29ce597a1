"""What commands print: tables for people, JSON for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import msgspec

COLORS = {
    "ok": "green", "healthy": "green", "False": "green", "running": "green",
    "problem": "red", "unhealthy": "red", "True": "red", "crashed": "red", "hung": "red", "unavailable": "red",
    "unknown": "yellow", "Unknown": "yellow", "degraded": "yellow",
}  # fmt: skip


def colored(word: object) -> str:
    """`word` in the colour of what it means; click takes colours away where no terminal is."""
    return click.style(str(word), fg=COLORS.get(str(word)))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell, two blanks between them."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = (
            cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def as_json(value: object) -> str:
    """`value` as JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()

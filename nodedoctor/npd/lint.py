"""What Node Problem Detector does with a pattern, and its author hardly meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

PIECE = re.compile(
    r"\\Q.*?(?:\\E|\Z)|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*+\]|\(\?[A-Za-z-]+\)|.", re.DOTALL
)
"""A piece of a regular expression: a quotation, an escape, a class of characters, flags, or one sign."""
FROM_THE_START = re.compile(r"(?:\(\?[isU]+\))?\(*(?:\?:)?(?:\^|\\A)")
END_OF_TEXT = {"$", r"\z"}
NEWLINES = {"\n", r"\n"}


def pattern_notes(pattern: str, lines: int) -> Iterator[str]:
    r"""Yield what is odd about `pattern`, which RE2 takes, in a window of so many `lines`.

    NPD joins the lines by newlines, and searches for the pattern followed by `\z`.
    """
    pieces = PIECE.findall(pattern)
    *others, _ = branches(pieces)
    if any(END_OF_TEXT.isdisjoint(branch[-1:]) for branch in others):
        yield (
            "only the last branch is tied to the end of the newest line; another matches again with every new line, "
            f"as long as bufferSize keeps its own; to tie all of them: ({pattern})"
        )
    if lines > 1 and FROM_THE_START.match(pattern):
        yield (
            f"^ is the start of all {lines} lines that bufferSize keeps, not of each; "
            "leave it out, or write (?m)^ instead"
        )
    needed = newlines(pieces) + 1
    if needed > lines:
        yield f"never matches: it spans {needed} lines, and bufferSize keeps {lines}"


def branches(pieces: list[str]) -> list[list[str]]:
    """The alternatives that stand in no group."""
    found: list[list[str]] = [[]]
    depth = 0
    for piece in pieces:
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == "|" and depth == 0:
            found.append([])
        else:
            found[-1].append(piece)
    return found


def newlines(pieces: list[str]) -> int:
    """How many newlines each match has; 0 where that is not plain to see, because something may be left out."""
    repeated = {before for before, after in pairwise(pieces) if after in {"?", "*", "{"}}
    if "|" in pieces or repeated & {")", *NEWLINES}:
        return 0
    return sum(piece in NEWLINES for piece in pieces)

"""Names that are made of other names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def condition_name(monitor: str) -> str:
    """The condition of a monitor that is not of a subject of its own: `kubelet-health` gives `KubeletUnhealthy`."""
    words = monitor.split("-")
    while len(words) > 1 and words[-1] in {"health", "check"}:
        words.pop()
    return "".join(word.capitalize() for word in words if word) + "Unhealthy"


def listed(names: Iterable[str], most: int = 10) -> str:
    """The names, each once and in a stable order, cut to a few."""
    distinct = sorted(set(names))
    return ", ".join(distinct[:most]) + (", …" if len(distinct) > most else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` if one of `known` looks like `word`, else nothing."""
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""

"""Fills ${VAR} and ${VAR:-default} in the texts of a file from the environment, once; $$ is a dollar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nodedoctor.config.text import PathOf, plain

REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
MAY_BE_UNSET: dict[PathOf, set[str]] = {("settings", "nodeName"): {"NODE_NAME"}}
"""References that count as empty when they are unset: outside a cluster nobody sets NODE_NAME, and an empty
settings.nodeName already means the host's name."""


class Filler:
    """Fills one file's texts; keys are left.

    Attributes:
        unset: What refers to a variable that is not set and has no default, with the variable's name.
        whole: Where one reference is the whole value: what it holds, read as a scalar.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.unset: dict[PathOf, str] = {}
        self.whole: dict[PathOf, object] = {}

    def filled(self, value: Any, path: PathOf = ()) -> Any:  # noqa: ANN401 - any part of a file
        """A copy of `value`, which stands at `path`, with all its texts filled."""
        if isinstance(value, dict):
            return {key: self.filled(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        return self.text(value, path)

    def text(self, value: str, path: PathOf) -> str:
        """The text `value`, filled."""

        def fill(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if name is None:
                return "$"
            if name in self.environ or default is not None or name in MAY_BE_UNSET.get(path, ()):
                return self.environ.get(name, default or "")
            self.unset.setdefault(path, name)
            return ""

        # Behind the last brace no reference ends; to look there for the end of each would take quadratic time.
        end = value.rfind("}") + 1
        filled = REFERENCE.sub(fill, value[:end]) + value[end:].replace("$$", "$")
        whole = REFERENCE.fullmatch(value)
        if whole and whole[1]:
            self.whole[path] = plain(filled)
        return filled

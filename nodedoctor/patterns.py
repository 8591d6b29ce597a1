"""Regular expressions of RE2, for bytes of whatever encoding: linear time, whatever the pattern and the text."""

from __future__ import annotations

from typing import Any

import re2


def options() -> Any:  # noqa: ANN401 - re2 has no types
    """Bytes in, whatever they are: what is matched need not be UTF-8."""
    chosen = re2.Options()
    chosen.encoding = re2.Options.Encoding.LATIN1
    chosen.log_errors = False
    return chosen


def compile_pattern(pattern: str) -> Any:  # noqa: ANN401 - re2 has no types
    """`pattern`, to be searched for in bytes.

    Raises:
        ValueError: RE2 can't take it (it has no look-around and no back references); the text says why.
    """
    try:
        return re2.compile(pattern.encode(), options())
    except re2.error as error:
        msg = f"RE2 can't take {pattern!r}: {as_text(error.args[0])}"
        raise ValueError(msg) from None


def as_text(value: bytes | str) -> str:
    """`value` as text: RE2 gives bytes for bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def group_names(pattern: str) -> set[str]:
    """What the groups of `pattern` can be called by: their names and their numbers.

    Raises:
        ValueError: as compile_pattern.
    """
    compiled = compile_pattern(pattern)
    numbers = (str(number) for number in range(1, compiled.groups + 1))
    return {*(as_text(name) for name in compiled.groupindex), *numbers}

"""Command lines as Go's pflag reads them: `--name=value`, `--name value`, and for a switch `--name` alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nodedoctor.errors import ConfigurationError
from nodedoctor.words import did_you_mean

TRUE, FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
"""As strconv.ParseBool has them."""


def parse_flags(
    where: str,
    args: Sequence[str],
    known: Mapping[str, str],
    switches: Iterable[str] = (),
    lists: Iterable[str] = (),
) -> dict[str, list[str]]:
    """The values of each flag, in their order; of one that is not in `lists` the last one alone counts.

    Args:
        where: What the errors begin with.
        args: The arguments.
        known: The flags that there are, with their defaults.
        switches: Those that need no value.
        lists: Those that may stand more than once.

    Raises:
        ConfigurationError: a flag that there is not, or one without its value.
    """
    values = {name: [default] for name, default in known.items()}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in known:
            told = f"found {word!r}, allowed: {', '.join(f'--{flag}' for flag in known)}"
            raise ConfigurationError([f"{where}: {told}{did_you_mean(name, known)}"])
        if not equals:
            value = "true" if name in switches else rest.pop(0) if rest else ""
            if not value:
                raise ConfigurationError([f"{where}: --{name} needs a value"])
        if name in switches and value not in (*TRUE, *FALSE):
            raise ConfigurationError([f"{where}: --{name}={value}: allowed: true, false"])
        values[name] = [*values[name], value] if name in lists else [value]
    return values


def is_true(value: str) -> bool:
    """What a switch says."""
    return value in TRUE

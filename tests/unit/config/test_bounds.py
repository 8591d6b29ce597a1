"""Files that are small enough to be read, and made to be slow: with quadratic work each would take minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nodedoctor.config.load import load
from nodedoctor.config.text import parse
from nodedoctor.errors import ConfigurationError

MANY = 49_000


def test_many_unknown_keys_are_all_told(faults: Callable[..., list[str]]) -> None:
    assert len(faults("".join(f"k{n}: 1\n" for n in range(MANY)))) == MANY


def test_many_keys_can_be_replaced_by_the_next_file(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text("".join(f"k{n}: 1\n" for n in range(MANY)))
    with pytest.raises(ConfigurationError) as refused:
        load(files, (), {})
    assert all(fault.startswith(f"{files[1]}:") for fault in refused.value.faults)


def test_references_that_never_end_are_texts(faults: Callable[..., list[str]]) -> None:
    assert faults(f"metadata: {{name: '{'${a:-' * 200_000}'}}\n") == []


def test_many_maps_can_be_merged_into_one() -> None:
    merged = ", ".join(f"{{k{n}: 1}}" for n in range(16_000))
    assert len(parse("f", f"a: {{<<: [{merged}]}}\n").data["a"]) == 16_000


def test_a_key_of_json_that_comes_again_after_many_others_is_found() -> None:
    long = (
        '"' + "x" * 2000 + '": 1'
    )  # YAML takes no such key: here the JSON parser alone finds the second one
    others = ", ".join(f'"{n:x}": 1' for n in range(80_000))
    with pytest.raises(ConfigurationError, match="has the key '1387f' twice"):
        parse("f", f'{{{long}, {others}, "1387f": 2}}')


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('settings: {? "' + "k" * 200_000 + '" : 1}\n', id="a long key"),
        pytest.param('settings: {"a\\nb\\e[31m": 1}\n', id="a key that would change the screen"),
        pytest.param("metadata: {name: [" + "x" * 200_000 + "]}\n", id="a list"),
        pytest.param("monitors: [{name: " + "x" * 200_000 + ", type: noop}]\n", id="a long name"),
        pytest.param("monitors: [{name: a, type: " + "x" * 200_000 + "}]\n", id="a long type"),
        pytest.param(
            "monitors: [{name: a, type: noop, dependsOn: [" + "x" * 200_000 + "]}]\n",
            id="a long name of another monitor",
        ),
    ],
)
def test_a_fault_is_one_line_that_can_be_read(faults: Callable[..., list[str]], text: str) -> None:
    (fault,) = faults(text)
    assert fault.isprintable()
    assert len(fault) < 400

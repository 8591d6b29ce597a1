"""Reading a file: whatever it holds, what comes back is plain values with their lines, or one refusal."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nodedoctor.config.text import DEEPEST, LARGEST, MOST_VALUES, parse, read_document
from nodedoctor.errors import ConfigurationError

BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)

READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from nodedoctor.config.text import read_document
from nodedoctor.errors import ConfigurationError
os.fchdir(int(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
try:
    read_document(Path("f"))
except ConfigurationError as error:
    print(error)
"""


def refusal(text: str) -> str:
    """What is said of this text, which is refused."""
    with pytest.raises(ConfigurationError) as caught:
        parse("f", text)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "a: 1\nb: [x, 2.5, true, null, ~]\n", {"a": 1, "b": ["x", 2.5, True, None, None]}, id="YAML"
        ),
        pytest.param(
            '{"a": 1, "b": ["x", 2.5, true, null]}', {"a": 1, "b": ["x", 2.5, True, None]}, id="JSON"
        ),
        pytest.param('{\n\t"a": {\n\t\t"b": 1\n\t}\n}', {"a": {"b": 1}}, id="JSON with tabs"),
        pytest.param('{"a": "x\\ty"}', {"a": "x\ty"}, id="JSON with an escaped tab"),
        pytest.param("a: 2020-01-01\n", {"a": "2020-01-01"}, id="dates are texts"),
        pytest.param("a: 'true'\nb: \"5\"\n", {"a": "true", "b": "5"}, id="what is quoted is a text"),
        pytest.param("a: !!str 5\n", {"a": "5"}, id="a tag that is taken"),
        pytest.param("1: x\ntrue: y\n", {"1": "x", "true": "y"}, id="keys are texts"),
        pytest.param("a: &x {k: 1}\nb: *x\n", {"a": {"k": 1}, "b": {"k": 1}}, id="an alias"),
        pytest.param(
            "a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\n",
            {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}},
            id="a merge",
        ),
        pytest.param("a: |\n  x\n  y\n", {"a": "x\ny\n"}, id="a block"),
        pytest.param("---\na: 1\n...\n", {"a": 1}, id="the marks of a document"),
        pytest.param("# only\na: ä€😀\n", {"a": "ä€😀"}, id="Unicode"),
    ],
)
def test_a_file_becomes_plain_values(text: str, expected: Any) -> None:
    assert parse("f", text).data == expected


def test_the_line_of_each_value_is_known() -> None:
    lines = parse("f", "a:\n  b:\n    - x\n    - c: 1\n\nd: 2\n").lines
    assert lines[("a", "b", 0)] == 3
    assert lines[("a", "b", 1, "c")] == 4
    assert lines[("d",)] == 6


def test_the_line_of_each_value_of_json_is_known() -> None:
    assert parse("f", '{\n\t"a": [\n\t\t1,\n\t\t2\n\t]\n}').lines[("a", 1)] == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "f: is empty", id="empty"),
        pytest.param(" \n\t\n", "f: is empty", id="blanks"),
        pytest.param(
            "# nothing\n", "f:1: expected a map with apiVersion and kind, found nothing", id="only a comment"
        ),
        pytest.param("- a\n", "f:1: expected a map with apiVersion and kind, found a list", id="a list"),
        pytest.param("hello\n", "f:1: expected a map with apiVersion and kind, found a text", id="a text"),
        pytest.param("42", "f:1: expected a map with apiVersion and kind, found a number", id="a number"),
        pytest.param("a: 1\nb: [\n", "f:3:1: is not YAML", id="an open list"),
        pytest.param("a: 1\n\tb: 2\n", "f:2:1: is not YAML", id="a tab"),
        pytest.param("a: b: c\n", "f:1:5: is not YAML", id="two colons"),
        pytest.param("a: 'x\n", "is not YAML", id="an open quote"),
        pytest.param("a: \x00\n", "is not YAML", id="a zero byte"),
        pytest.param("a: @x\n", "f:1:4: is not YAML", id="a sign that means nothing"),
        pytest.param('{"a": 1,\n "b": }\n', "f:2:7: is not JSON: Expecting value", id="JSON without a value"),
        pytest.param('{"a": 1,\n}\n', "f:", id="JSON with a comma too many"),
        pytest.param('{"a": 1\n', "is not JSON", id="JSON that ends early"),
        pytest.param("a: 1\na: 2\n", "f:2: has the key 'a' twice", id="a key twice"),
        pytest.param("a:\n  b: 1\n  c: 2\n  b: 3\n", "f:4: has the key 'b' twice", id="a key twice, deeper"),
        pytest.param('{"a": 1,\n"a": 2}', "f:2: has the key 'a' twice", id="a key of JSON twice"),
        pytest.param("a: 1\n---\nb: 2\n", "f:2: holds a second document", id="a second document"),
        pytest.param("? [a]\n: 1\n", "f:1: has a key that is no text", id="a list as key"),
        pytest.param("a: &x [*x]\n", "f:1: *x stands for nothing that is complete", id="an alias of itself"),
        pytest.param("a: *x\n", "*x stands for nothing", id="an alias of nothing"),
        pytest.param("a: !!binary aGk=\n", "f:1: has the tag tag:yaml.org,2002:binary", id="a tag"),
        pytest.param(
            "a: !!python/object/apply:os.system ''\n",
            "f:1: has the tag tag:yaml.org,2002:python/object/apply:os.system, which is not taken",
            id="a tag of Python",
        ),
        pytest.param("a: !!python/name:os.system ''\n", "which is not taken", id="a name of Python"),
        pytest.param("a: !mine x\n", "has the tag !mine, which is not taken", id="a tag of somebody's own"),
        pytest.param("a: !!int x\n", "f:1: 'x' does not fit its tag", id="a value that does not fit its tag"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_line(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_a_tag_of_python_on_a_list_runs_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(ConfigurationError):
        parse("f", f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BILLION, id="a billion laughs"),
        pytest.param("a: &x [" + "1, " * 40000 + "1]\nb: *x\n", id="one big alias"),
        pytest.param("a: &x {k: 1}\nb: [" + "*x, " * 30000 + "*x]\n", id="many small aliases"),
        pytest.param("a: [" + "1, " * MOST_VALUES + "1]\n", id="many values"),
    ],
)
def test_more_values_than_anybody_configures_are_refused(text: str) -> None:
    assert f"holds more than {MOST_VALUES} values" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 1_000_000, id="open lists"),
        pytest.param("[" * 500_000 + "]" * 500_000, id="closed lists"),
        pytest.param("a: " + "{a: " * 250_000, id="maps"),
        pytest.param('{"a":' * 200_000, id="maps of JSON"),
        pytest.param('{"a":' + "[" * 1_000_000, id="lists in JSON"),
        pytest.param("a: " + "[" * 1_000_000, id="lists in a map"),
        pytest.param("- " * 500_000, id="lists in a line"),
        pytest.param("".join(" " * n + "a:\n" for n in range(1000)), id="blocks"),
        pytest.param("a: " + "[" * (DEEPEST + 5) + "]" * (DEEPEST + 5), id="just too deep"),
    ],
)
def test_nesting_is_refused_however_deep_it_is(tmp_path: Path, text: str) -> None:
    """In a process of its own: what goes wrong here is the end of the interpreter, not an exception."""
    file = tmp_path / "deep.yaml"
    file.write_text(text[:LARGEST])
    done = subprocess.run(
        [sys.executable, "-m", "nodedoctor", "validate", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(str(file))
    assert f"is nested more than {DEEPEST} deep" in done.stderr


def test_maps_within_maps_are_refused_however_deep_they_are() -> None:
    assert "nested more than" in refusal("{a: " * 250_000)


def test_nesting_that_people_write_is_taken() -> None:
    assert parse("f", "a: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)).data["a"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a: 1\nb: \xff\n", ":2: is not UTF-8 (byte 0xff)", id="Latin-1"),
        pytest.param("a: 1\n".encode("utf-16"), ":1: is not UTF-8 (byte 0xff)", id="UTF-16"),
        pytest.param(b"\x7fELF\x02\x01\x01\x00\xc0", ": is not UTF-8", id="a program"),
        pytest.param(b"", ": is empty", id="empty"),
        pytest.param(b"a: x\n" * 2_000_000, ": has more than 1 MiB", id="10 MB"),
        pytest.param(b"#" * (LARGEST + 1), ": has more than 1 MiB", id="a byte too much"),
    ],
)
def test_bytes_that_are_no_configuration_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        read_document(file)
    assert expected.removeprefix(":") in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(file).data == {"a": 1}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/nonexistent/c.yaml", "No such file or directory", id="missing"),
        pytest.param("/", "is no regular file", id="a folder"),
        pytest.param("/dev/zero", "is no regular file", id="a file without an end"),
        pytest.param("/etc/passwd/c.yaml", "Not a directory", id="below a file"),
        pytest.param("/" + "x" * 300, "File name too long", id="a name that no file can have"),
    ],
)
def test_what_is_no_file_is_refused_by_its_name(path: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_document(Path(path))
    assert caught.value.faults == [f"{path}: {expected}"]


def test_a_pipe_that_nobody_writes_to_does_not_hold_it_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="is no regular file"):
        read_document(tmp_path / "pipe")


def test_a_link_that_leads_round_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(ConfigurationError, match="Too many levels of symbolic links"):
        read_document(tmp_path / "a")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch(mode=0)
    tmp_path.chmod(0o755)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_AS_NOBODY, str(folder)],
            pass_fds=[folder],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(folder)
    assert done.stdout == "f: Permission denied\n"


def test_the_worst_file_that_is_taken_needs_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("a: [" + ", ".join(["{}"] * (MOST_VALUES - 10)) + "]\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_document(file).data["a"]) == MOST_VALUES - 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("0123", "0123", id="no octal number"),
        pytest.param("1:30", "1:30", id="no number to the base of 60"),
        pytest.param("1:" + "2:" * 200_000 + "1", None, id="nor a very long one"),
        pytest.param("1e3", 1000, id="a power of ten"),
        pytest.param("3.0", 3, id="whole"),
        pytest.param("1" + "0" * 400, "1" + "0" * 400, id="more than a number holds"),
        pytest.param(".nan", ".nan", id="nothing to compare with"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("yes", True, id="yes"),
        pytest.param("2020-01-01", "2020-01-01", id="a date"),
    ],
)
def test_scalars_mean_what_people_expect(text: str, value: object) -> None:
    found = parse("f", f"a: {text}\n").data["a"]
    assert found == (text if value is None else value)
    assert type(found) is type(text if value is None else value)


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud83d\\ude00"}', '{"a":\t1}', '{"' + "k" * 2000 + '": 1}', '{"a": 1e3}']
)
def test_whatever_is_json_is_taken(text: str) -> None:
    assert parse("f", text).data == json.loads(text)


@pytest.mark.parametrize(
    "text", ["metadata: !!python/object:os.x {}\n", "a: !!set [x]\n", 'a: !!int ""\n', "a: !!int _\n"]
)
def test_tags_that_make_something_else_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="tag"):
        parse("f", text)


def test_maps_can_be_merged_and_nothing_else() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2}\nc:\n  <<: [*b, *a]\n  z: 3\n"
    assert parse("f", text).data["c"] == {"x": 1, "y": 2, "z": 3}
    with pytest.raises(ConfigurationError, match="no map"):
        parse("f", "c:\n  <<: 5\n")

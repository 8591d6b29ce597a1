"""The plug-in monitor with real programs that behave in every way, and what is left of them: nothing."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedoctor.errors import Undetermined
from nodedoctor.monitor import Finding
from nodedoctor.types import Metric
from workers.command import run, start, user_named
from workers.monitors.custom.plugin import PluginMonitor, PluginOptions
from workers.programs import printable, trusted

LONG = 3600


class Seen(msgspec.Struct, frozen=True):
    """The finding of one check, its metrics by name, and what the program said of itself."""

    finding: Finding
    metrics: dict[str, float]
    values: dict[str, float]

    @property
    def level(self) -> str:
        """The finding in one word."""
        words = {True: "critical", None: "unknown", False: "warning" if self.finding.warning else "ok"}
        return words[self.finding.bad]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may look into, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="plugin-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def script(folder: Path) -> Callable[..., Path]:
    """Writes a shell script that does this."""

    def write(text: str, mode: int = 0o755, interpreter: str = "/bin/sh") -> Path:
        path = folder / "check"
        path.write_text(f"#!{interpreter}\n{text}\n")
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def check(script: Callable[..., Path]) -> Callable[..., Seen]:
    """Checks once with a shell script that does this, as its owner unless a user is named."""

    def once(text: str, **options: Any) -> Seen:
        return look(script(text), **options)

    return once


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true"
        pytest.skip("only root can become somebody else")


def look(path: Path, **options: Any) -> Seen:
    """Check once with the program at `path`."""
    chosen = msgspec.convert(
        {"path": str(path), "user": "root", "pluginTimeout": "10s", **options}, PluginOptions
    )
    observations = list(PluginMonitor("gpu-check", chosen).check())
    (finding,) = [item for item in observations if isinstance(item, Finding)]
    assert finding.type == "GpuUnhealthy"
    metrics = [item for item in observations if isinstance(item, Metric)]
    return Seen(
        finding,
        {item.name: item.value for item in metrics if not item.labels},
        {item.labels["name"]: item.value for item in metrics if item.name == "plugin_value"},
    )


def processes(token: str) -> list[str]:
    """The processes whose command line has `token`, zombies apart, which have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if token.encode() in words:
            found.append(path.parent.name)
    return found


def unique_time() -> str:
    """A number of seconds that no other process sleeps."""
    return f"{LONG}.{os.getpid()}{time.monotonic_ns()}"


def descriptors() -> list[str]:
    """What this process has open."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    ("text", "bad", "reason", "message", "code"),
    [
        pytest.param("echo fine", False, "PluginFoundProblem", "", 0, id="0 is fine"),
        pytest.param("echo broken; exit 1", True, "PluginFoundProblem", "broken", 1, id="1 is a problem"),
        pytest.param("echo dunno; exit 2", None, "PluginUndetermined", "dunno", 2, id="2 is unknown"),
        pytest.param("exit 3", None, "PluginUndetermined", "{path} ended with 3", 3, id="3 too"),
        pytest.param(
            "exit 127", None, "PluginUndetermined", "{path} ended with 127", 127, id="the shell's not found"
        ),
        pytest.param("exit 255", None, "PluginUndetermined", "{path} ended with 255", 255, id="255 too"),
        pytest.param(
            "exit 1", True, "PluginFoundProblem", "{path} reports a problem", 1, id="a silent problem"
        ),
        pytest.param(
            "echo a >&2; exit 1", True, "PluginFoundProblem", "{path} reports a problem", 1, id="only stderr"
        ),
        pytest.param("kill -9 $$", None, "PluginUndetermined", "{path} ended with -9", -9, id="killed"),
        pytest.param("kill -SEGV $$", None, "PluginUndetermined", "{path} ended with -11", -11, id="crashed"),
        pytest.param(
            "exec >&- 2>&-; exit 1", True, "PluginFoundProblem", "{path} reports a problem", 1, id="closed"
        ),
        pytest.param(
            "printf ' \\n a\\tb\\033[1m\\n\\n'; exit 1",
            True,
            "PluginFoundProblem",
            "a b [1m",
            1,
            id="control",
        ),
        pytest.param("printf 'a\\377b'; exit 1", True, "PluginFoundProblem", "a\ufffdb", 1, id="no UTF-8"),
        pytest.param("printf 'a\\0b'; exit 1", True, "PluginFoundProblem", "a b", 1, id="a zero byte"),
    ],
)
def test_the_exit_code_is_the_verdict_and_the_output_the_message(
    check: Callable[..., Seen],
    folder: Path,
    text: str,
    bad: bool | None,
    reason: str,
    message: str,
    code: int,
) -> None:
    seen = check(text)
    assert (seen.finding.bad, seen.finding.reason) == (bad, reason)
    assert seen.finding.message == message.format(path=folder / "check")
    assert seen.metrics["plugin_exit_code"] == code
    assert seen.metrics["plugin_duration_seconds"] > 0


@pytest.mark.parametrize(
    ("text", "level", "message"),
    [
        pytest.param("echo fine", "ok", "", id="0 is fine"),
        pytest.param("echo hot; exit 1", "warning", "hot", id="1 is a warning"),
        pytest.param("echo burns; exit 2", "critical", "burns", id="2 is a problem"),
        pytest.param("echo dunno; exit 3", "unknown", "dunno", id="3 is unknown"),
        pytest.param("exit 1", "warning", "{path} warns", id="a silent warning"),
        pytest.param("echo burns >&2; exit 2", "critical", "burns", id="only stderr"),
        pytest.param("echo OK: cool; exit 2", "ok", "", id="OK before the exit code"),
        pytest.param("echo WARNING: hot", "warning", "hot", id="WARNING"),
        pytest.param("echo CRITICAL: burns; exit 1", "critical", "burns", id="CRITICAL"),
        pytest.param("echo ERROR: burns", "critical", "burns", id="ERROR"),
        pytest.param("echo UNKNOWN: dunno", "unknown", "dunno", id="UNKNOWN"),
        pytest.param("echo CRITICAL:", "critical", "{path} reports a problem", id="a word alone"),
        pytest.param("echo all OK: x; exit 1", "warning", "all OK: x", id="not at the beginning"),
        pytest.param("echo a; echo OK: b; exit 2", "critical", "a OK: b", id="not in the first line"),
        pytest.param("echo OKAY: b; exit 2", "critical", "OKAY: b", id="another word"),
        pytest.param("echo OK: cool; kill -9 $$", "unknown", "OK: cool", id="killed"),
    ],
)
def test_a_simple_plugin_says_how_it_is_in_its_first_words_or_by_its_exit_code(
    check: Callable[..., Seen], folder: Path, text: str, level: str, message: str
) -> None:
    seen = check(text, outputFormat="simple")
    assert (seen.level, seen.finding.message) == (level, message.format(path=folder / "check"))
    assert level != "warning" or seen.finding.reason == "PluginWarns"


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("ok OK pass passed good healthy", "ok"),
        ("warn Warning", "warning"),
        ("crit critical fail failed error", "critical"),
        ("unknown", "unknown"),
    ],
)
def test_json_says_how_it_is_in_several_words(check: Callable[..., Seen], words: str, level: str) -> None:
    for word in words.split():
        seen = check(
            f"""echo '{{"status": "{word}", "message": "so", "other": []}}'; exit 3""", outputFormat="json"
        )
        assert (seen.level, seen.finding.message) == (level, "" if level == "ok" else "so")


@pytest.mark.parametrize("output", ["", "{", "so", "[]", "{}", '{"status": 1}', '{"status": "\\377"}'])
def test_without_json_the_exit_code_counts_and_that_is_told(check: Callable[..., Seen], output: str) -> None:
    for code, level in enumerate(("ok", "warning", "critical", "unknown")):
        seen = check(f"printf '{output}'; exit {code}", outputFormat="json")
        assert seen.level == ("warning" if output and level == "ok" else level)
        assert seen.finding.message.endswith("not the JSON that outputFormat asks for") is bool(output)


def test_a_status_that_there_is_not_leaves_it_to_the_exit_code(check: Callable[..., Seen]) -> None:
    seen = check("""echo '{"status": "purple", "metrics": {"a": 1}}'; exit 2""", outputFormat="json")
    assert (seen.level, seen.values) == ("critical", {})
    assert seen.finding.message.endswith("its JSON has an unknown status")


def test_json_without_a_bottom_is_none(check: Callable[..., Seen]) -> None:
    text = """printf '{"status": "ok", "metrics": '; head -c 60000 /dev/zero | tr '\\0' '['; exit 1"""
    assert "not the JSON" in check(text, outputFormat="json").finding.message


def test_numbers_in_json_become_metrics(check: Callable[..., Seen]) -> None:
    text = """echo '{"status": "ok", "metrics": {"temp_celsius": 61.5, "fans": 2, "x.y-z": -1e3}}'"""
    seen = check(text, outputFormat="json")
    assert (seen.level, seen.values) == ("ok", {"temp_celsius": 61.5, "fans": 2, "x.y-z": -1000})
    assert check(text).values == check(text, outputFormat="simple").values == {}
    assert check("""echo '{"status": "ok", "metrics": null}'""", outputFormat="json").level == "ok"


@pytest.mark.parametrize(
    "metrics",
    [
        pytest.param('{"a": "1"}', id="a text"),
        pytest.param('{"a": true}', id="true"),
        pytest.param('{"a": null}', id="nothing"),
        pytest.param('{"a": 1e999}', id="infinite"),
        pytest.param('{"a b": 1}', id="a name with a blank"),
        pytest.param('{"": 1}', id="no name"),
        pytest.param('{"a\\u000a": 1}', id="a name with a line's end"),
        pytest.param('{"' + "a" * 64 + '": 1}', id="a name too long"),
        pytest.param("{" + ",".join(f'"a{n}": 1' for n in range(33)) + "}", id="too many"),
        pytest.param("[1]", id="a list"),
    ],
)
def test_metrics_that_are_none_are_left_out_and_that_is_told(
    check: Callable[..., Seen], folder: Path, metrics: str
) -> None:
    (folder / "out").write_text(f'{{"status": "critical", "message": "burns", "metrics": {metrics}}}')
    seen = check(f"cat {folder}/out", outputFormat="json")
    assert (seen.level, seen.values) == ("critical", {})
    assert seen.finding.message.startswith(f"burns; {folder}/check: its metrics are left out: ")


@pytest.mark.parametrize("output_format", ["simple", "json"])
def test_a_verdict_is_not_cut_with_the_message(check: Callable[..., Seen], output_format: str) -> None:
    text = {"simple": "CRITICAL: burns", "json": '{"status": "critical", "message": "burns"}'}[output_format]
    seen = check(f"echo '{text}'", outputFormat=output_format, maxOutputLength=4)
    assert (seen.level, seen.finding.message) == ("critical", "burn")


def test_arguments_arrive_as_they_are(check: Callable[..., Seen]) -> None:
    arguments = ["a b", "$HOME", "*", "", "ä'\";"]
    seen = check('printf "<%s>" "$@"; exit 1', args=arguments)
    assert seen.finding.message == "".join(f"<{argument}>" for argument in arguments)


def test_a_message_is_cut_to_what_was_asked_for(check: Callable[..., Seen]) -> None:
    assert check("printf abcdef; exit 1", maxOutputLength=4).finding.message == "abcd"
    assert check("printf ääää; exit 1", maxOutputLength=3).finding.message == "ä\ufffd"


def test_a_hundred_megabytes_of_output_are_read_and_thrown_away(check: Callable[..., Seen]) -> None:
    seen = check(
        "head -c 104857600 /dev/zero | tr '\\0' x; head -c 10485760 /dev/zero >&2; exit 1", maxOutputLength=8
    )
    assert (seen.finding.bad, seen.finding.message) == (True, "xxxxxxxx")


def test_output_without_an_end_ends_with_the_time(check: Callable[..., Seen]) -> None:
    seen = check("exec cat /dev/zero", pluginTimeout="300ms", maxOutputLength=4)
    assert seen.finding.reason == "PluginTimeout"


def test_a_program_that_is_not_there_can_not_be_run(folder: Path) -> None:
    with pytest.raises(Undetermined, match="No such file or directory") as caught:
        look(folder / "nothing")
    assert caught.value.reason == "PluginNotExecutable"


@pytest.mark.parametrize(
    ("text", "mode", "interpreter", "message"),
    [
        pytest.param("", 0o644, "/bin/sh", "Permission denied", id="not executable"),
        pytest.param("", 0o755, "/nonexistent", "No such file or directory", id="no interpreter"),
        pytest.param("", 0o755, "/etc", "Permission denied", id="a folder as interpreter"),
    ],
)
def test_a_program_that_can_not_be_run_is_unknown(
    script: Callable[..., Path], text: str, mode: int, interpreter: str, message: str
) -> None:
    path = script(text, mode, interpreter)
    seen = look(path)
    assert (seen.finding.bad, seen.finding.reason) == (None, "PluginNotExecutable")
    assert seen.finding.message == f"{path} can't be run: {message}"
    assert "plugin_exit_code" not in seen.metrics


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"exit 0\n", id="no first line"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x7fELF", id="half"),
    ],
)
def test_a_file_that_is_no_program_is_unknown(folder: Path, content: bytes) -> None:
    path = folder / "check"
    path.write_bytes(content)
    path.chmod(0o755)
    assert "Exec format error" in look(path).finding.message


def test_a_folder_is_no_program(folder: Path) -> None:
    (folder / "check").mkdir()
    assert look(folder / "check").finding.message.endswith("Permission denied")


def test_a_program_that_takes_too_long_is_unknown_and_gone(check: Callable[..., Seen], folder: Path) -> None:
    time_out = unique_time()
    seen = check(f"echo begun; sleep {time_out}", pluginTimeout="200ms")
    assert (seen.finding.bad, seen.finding.reason) == (None, "PluginTimeout")
    assert seen.finding.message == f"Timeout when running plugin {folder}/check (200ms) begun"
    assert "plugin_exit_code" not in seen.metrics
    assert seen.metrics["plugin_duration_seconds"] < LONG
    assert processes(time_out) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("sleep {t} & sleep {t}", id="children"),
        pytest.param("(sleep {t} & sleep {t} & wait) & sleep {t}", id="grandchildren"),
        pytest.param("trap '' TERM HUP INT; sleep {t}; sleep {t}", id="deaf to signals"),
        pytest.param("setsid sleep {t} & sleep {t}", id="in a session of its own"),
        pytest.param("setsid sh -c 'setsid sleep {t} & exec setsid sleep {t}' & sleep {t}", id="in several"),
        pytest.param("kill -STOP $$; sleep {t}", id="stopped"),
    ],
)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_nothing_is_left_of_a_program_whose_time_is_over(
    check: Callable[..., Seen], text: str, user: str
) -> None:
    token = unique_time()
    seen = check(text.format(t=token), pluginTimeout="200ms", user=user)
    assert seen.finding.reason == "PluginTimeout"
    assert processes(token) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("sleep {t} & echo done; exit 1", id="a child that holds the pipe"),
        pytest.param("setsid sleep {t} & echo done; exit 1", id="a daemon that holds the pipe"),
        pytest.param("setsid sleep {t} >/dev/null 2>&1 </dev/null & echo done; exit 1", id="a quiet daemon"),
        pytest.param(
            "(setsid sh -c 'sleep {t} & sleep {t}' &) ; echo done; exit 1", id="a daemon with children"
        ),
    ],
)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_what_a_program_leaves_behind_neither_delays_its_verdict_nor_stays(
    check: Callable[..., Seen], text: str, user: str
) -> None:
    token = unique_time()
    seen = check(text.format(t=token), user=user)
    assert (seen.finding.bad, seen.finding.message) == (True, "done")
    assert processes(token) == []


def test_a_program_gets_a_clean_environment(
    check: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "tiger")
    monkeypatch.setenv("LD_PRELOAD", "")
    seen = check("/usr/bin/env -0 | tr '\\0' ' '; exit 1", environment={"MINE": "x"})
    words = dict(word.split("=", 1) for word in seen.finding.message.split())
    assert set(words) - {"_", "PWD", "SHLVL", "OLDPWD"} == {"PATH", "LANG", "HOME", "MINE"}
    assert (words["MINE"], words["HOME"], words["LANG"]) == ("x", "/", "C")


def test_the_environment_of_the_configuration_goes_before(check: Callable[..., Seen]) -> None:
    assert check('echo "$HOME"; exit 1', environment={"HOME": "/root"}).finding.message == "/root"


def test_a_program_inherits_no_descriptors(check: Callable[..., Seen]) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        seen = check("exec ls /proc/self/fd | tr '\\n' ' '; exit 1")
    finally:
        os.close(read)
        os.close(write)
    assert len(seen.finding.message.split()) <= 4


def test_a_program_reads_nothing_and_starts_in_the_root(check: Callable[..., Seen]) -> None:
    assert check("cat; pwd; exit 1").finding.message == "/"


def test_a_program_has_default_signals(check: Callable[..., Seen]) -> None:
    old = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        seen = check("grep SigIgn /proc/self/status; exit 1")
    finally:
        signal.signal(signal.SIGPIPE, old)
    assert int(seen.finding.message.split()[1], 16) == 0


@pytest.mark.usefixtures("needs_root")
def test_a_program_runs_as_nobody_without_any_privilege(check: Callable[..., Seen]) -> None:
    status = (
        "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|NoNewPrivs):' /proc/self/status | tr '\\n\\t' '  '; exit 1"
    )
    words = check(status, user="nobody").finding.message.split()
    nobody = str(65534)
    assert words[:5] == ["Uid:", *[nobody] * 4]
    assert words[5] == "Gid:"
    assert len(set(words[6:10])) == 1
    assert words[10:12] == ["Groups:", "CapPrm:"]
    assert {int(words[12], 16), int(words[14], 16)} == {0}
    assert words[15:] == ["NoNewPrivs:", "1"]


@pytest.mark.usefixtures("needs_root")
def test_nobody_is_the_default(script: Callable[..., Path]) -> None:
    options = PluginOptions(path=str(script("id -u; exit 1")))
    (finding,) = [item for item in PluginMonitor("x", options).check() if isinstance(item, Finding)]
    assert finding.message == "65534"


@pytest.mark.usefixtures("needs_root")
def test_a_user_that_there_is_not_is_unknown(script: Callable[..., Path]) -> None:
    with pytest.raises(Undetermined, match="there is no user 'nosuchuser' on this machine"):
        look(script("exit 0"), user="nosuchuser")


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("file", "parent", "owner"),
    [
        pytest.param(0o775, 0o755, 0, id="the group may write it"),
        pytest.param(0o757, 0o755, 0, id="everybody may write it"),
        pytest.param(0o755, 0o775, 0, id="the group may write its folder"),
        pytest.param(0o755, 0o777, 0, id="everybody may write its folder"),
        pytest.param(0o755, 0o755, 65534, id="it belongs to somebody else"),
    ],
)
def test_a_program_that_others_could_have_changed_is_not_run(
    script: Callable[..., Path], folder: Path, file: int, parent: int, owner: int
) -> None:
    path = script(f"touch {folder}/ran", file)
    os.chown(path, owner, -1)
    folder.chmod(parent)
    with pytest.raises(Undetermined, match="can be written by others than root") as caught:
        look(path)
    assert caught.value.reason == "PluginNotTrusted"
    assert not (folder / "ran").exists()


@pytest.mark.usefixtures("needs_root")
def test_a_link_is_as_trusted_as_what_it_leads_to(
    script: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    script("exit 0", 0o757)
    (tmp_path / "link").symlink_to(folder / "check")
    with pytest.raises(Undetermined, match="can be written by others"):
        look(tmp_path / "link")


@pytest.mark.usefixtures("needs_root")
def test_a_program_of_root_in_a_sticky_folder_is_trusted(script: Callable[..., Path], folder: Path) -> None:
    path = script("exit 0")
    folder.chmod(0o1777)
    assert look(path).finding.bad is False


def test_fifty_runs_leave_no_descriptor_and_no_process(script: Callable[..., Path]) -> None:
    path, missing = script("echo x; sleep 0 &"), "/nonexistent"
    before = descriptors()
    for number in range(50):
        run((str(path) if number % 5 else missing,), timeout=10, max_output=10)
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_commands_run_side_by_side_and_are_polled_for_their_ends(tmp_path: Path) -> None:
    waits = "while [ ! -e {go} ]; do sleep 0.01; done; exit {code}"
    places = [tmp_path / "0", tmp_path / "1"]
    commands = [
        start(("/bin/sh", "-c", waits.format(go=go, code=code)), timeout=60, max_output=10)
        for code, go in enumerate(places)
    ]
    for number in (1, 0):
        assert commands[number].completed() is None
        places[number].touch()
        assert select.select(commands, [], [], 30)[0] == [commands[number]]
        completed = commands[number].completed()
        assert completed
        assert completed.code == number
        commands.pop(number).close()


def test_a_command_that_is_ended_is_gone_when_it_is_closed() -> None:
    token = unique_time()
    words = ("/bin/sh", "-c", f"setsid sleep {token} & sleep {token}; :")
    commands = [start(words, timeout=LONG, max_output=10) for _ in range(2)]
    wait_until(lambda: sum(b"sleep" in command_of(pid)[:6] for pid in processes(token)) == 4)
    for command in commands:
        command.end()
    for command in commands:
        command.close()
    assert processes(token) == []


@pytest.mark.parametrize("read", [True, False])
def test_a_result_that_does_not_fit_into_a_pipe_arrives_and_holds_up_no_end(read: bool) -> None:
    command = start(("/bin/sh", "-c", "head -c 1000000 /dev/zero"), timeout=60, max_output=1 << 20)
    select.select([command], [], [], 30)
    if read:
        assert len(command.wait().stdout) == 1000000
    command.close()


def test_what_was_printed_before_the_time_was_over_is_kept() -> None:
    done = run(("/bin/sh", "-c", "printf begun; sleep 3600"), timeout=0.3, max_output=100)
    assert (done.code, done.timed_out, done.stdout) == (None, True, b"begun")


def test_no_more_of_stderr_is_kept_than_a_log_line_can_bear() -> None:
    done = run(("/bin/sh", "-c", "head -c 100000 /dev/zero >&2"), timeout=60, max_output=100)
    assert len(done.stderr) == 4096


def test_waiting_for_a_command_that_has_closed_its_outputs_costs_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(("/bin/sh", "-c", "exec sleep 1 >&- 2>&-"), timeout=60, max_output=100)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_program_that_can_not_even_be_opened_ends_with_the_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run((str(tmp_path / "pipe"),), timeout=0.3, max_output=100)
    assert done.timed_out


def test_a_keeper_that_was_killed_is_no_time_out() -> None:
    token = unique_time()
    command = start(("/bin/sleep", token), timeout=LONG, max_output=10)
    wait_until(lambda: len(processes(token)) == 1)
    os.kill(command.keeper, signal.SIGKILL)
    assert command.wait().error == "its keeper was killed"
    command.close()
    wait_until(lambda: processes(token) == [])


def test_a_command_for_which_there_is_no_descriptor_is_said_and_costs_none() -> None:
    before = descriptors()
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, bounds[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            start(("/bin/true",), timeout=5, max_output=10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
    assert descriptors() == before


CALLER = """
import sys
from workers.command import run, user_named
run(("/bin/sh", "-c", sys.argv[1]), timeout=3600, max_output=10)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda n: n.name)
def test_a_caller_that_is_killed_leaves_nothing(number: signal.Signals) -> None:
    token = unique_time()
    text = f"sleep {token} & setsid sleep {token} & sleep {token}"
    caller = subprocess.Popen([sys.executable, "-c", CALLER, text])
    wait_until(lambda: sum(b"sleep" in command_of(pid)[:6] for pid in processes(token)) == 3)
    caller.send_signal(number)
    caller.wait()
    wait_until(lambda: processes(token) == [])


def command_of(pid: str) -> bytes:
    """The command line of a process; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(true: Callable[[], bool], patience: float = 10.0) -> None:
    """Wait until it is true."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("max_output", "stdout", "truncated"),
    [
        pytest.param(3, b"abc", False, id="just enough"),
        pytest.param(2, b"ab", True, id="cut"),
        pytest.param(0, b"", True, id="nothing wanted"),
    ],
)
def test_what_is_cut_off_is_told(max_output: int, stdout: bytes, truncated: bool) -> None:
    done = run(("/bin/sh", "-c", "printf abc; printf err >&2; exit 7"), timeout=10, max_output=max_output)
    assert (done.code, done.stdout, done.stderr, done.truncated, done.error) == (
        7,
        stdout,
        b"err",
        truncated,
        "",
    )


def test_output_that_was_written_at_the_very_end_is_kept() -> None:
    for _ in range(20):
        done = run(("/bin/sh", "-c", "head -c 60000 /dev/zero"), timeout=10, max_output=1 << 20)
        assert len(done.stdout) == 60000


def test_memory_is_not_dumped_and_the_number_of_processes_is_bounded() -> None:
    done = run(("/bin/sh", "-c", "ulimit -c; ulimit -n"), timeout=10, max_output=100)
    core, files = done.stdout.split()
    assert core == b"0"
    assert int(files) <= 1024


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(b"  a  \n", "a", id="trimmed"),
        pytest.param("ä€\u2028b".encode(), "ä€ b", id="Unicode"),
        pytest.param(b"a\nb\r\nc", "a b  c", id="lines"),
        pytest.param(b"\xe2\x82", "\ufffd", id="a character that was cut"),
        pytest.param(b"", "", id="nothing"),
    ],
)
def test_output_becomes_one_line_of_text(output: bytes, message: str) -> None:
    assert printable(output) == message


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        pytest.param({"path": "/bin/true"}, [], id="an absolute path"),
        pytest.param({"path": "true"}, ["path"], id="a name"),
        pytest.param({"path": "./true"}, ["path"], id="a relative path"),
        pytest.param({"path": ""}, ["path"], id="nothing"),
    ],
)
def test_a_path_must_be_absolute(options: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in msgspec.convert(options, PluginOptions).faults()] == paths


def test_the_condition_and_its_reasons_can_be_named() -> None:
    options = PluginOptions(path="/x", condition="GpuLost", reason="Lost", ok_reason="Found")
    (condition,) = PluginMonitor.conditions_of("gpu-check", options)
    assert (condition.type, condition.reason, condition.ok_reason) == ("GpuLost", "Lost", "Found")


def test_a_program_below_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has something to lose")
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    program = inner / "check"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    assert trusted(program) == program
    inner.parent.chmod(0o777)
    with pytest.raises(Undetermined, match="chown root"):
        trusted(program)


def test_links_that_go_round_in_a_circle_lead_to_no_program(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(Undetermined, match="Too many levels of symbolic links"):
        trusted(tmp_path / "one")


def test_what_runs_is_what_a_link_led_to_when_it_was_looked_at(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/bin/true")
    assert trusted(link) == Path("/bin/true").resolve()


def test_a_program_in_a_folder_that_is_closed_to_its_user_runs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    program = folder / "check"
    program.write_text("#!/bin/sh\nid -un\nexit 1\n")
    program.chmod(0o755)
    done = run((str(program),), timeout=5, max_output=100, user=user_named("nobody"))
    assert (done.code, done.stdout) == (1, b"nobody\n")
    program.chmod(0o700)
    assert (
        "Permission denied"
        in run((str(program),), timeout=5, max_output=100, user=user_named("nobody")).error
    )

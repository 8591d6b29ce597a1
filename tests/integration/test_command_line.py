"""The command line as people and scripts use it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_support import Agent, eventually, kill

Start = Callable[..., Agent]
WELL = "[{name: well, type: noop, interval: 300ms, timeout: 100ms}]"


def node_doctor(*words: str, timeout: float = 30, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    plugins = str(Path(__file__).parent.parent / "plugins")
    return subprocess.run(
        [sys.executable, "-m", "nodedoctor", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": plugins, **environ},
    )


def monitors(*entries: str) -> str:
    """A flag that sets the monitors."""
    return f"monitors=[{', '.join(entries)}]"


@pytest.mark.parametrize(
    "command",
    ["run", "validate", "config show", "config convert", "check", "monitors", "status", "tap", "probe"],
)
def test_every_command_has_help_with_examples(command: str) -> None:
    done = node_doctor(*command.split(), "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout


def test_check_shows_this_machine_and_its_problems_by_exit_code() -> None:
    done = node_doctor("check", "-o", "json", "--set", monitors("{name: m, type: memory-health-check}"))
    (row,) = json.loads(done.stdout)
    assert set(row) >= {"name", "type", "state", "conditions", "events", "metrics", "duration"}
    assert (done.returncode, row["state"]) in {(0, "ok"), (1, "problem")}
    sick = monitors("{name: b, type: misbehaviour, config: {way: bad}}", "{name: w, type: noop}")
    done = node_doctor("check", "--set", sick)
    assert done.returncode == 1
    assert "Misbehaving True: it is bad" in done.stdout
    assert node_doctor("check", "w", "--set", sick).returncode == 0


def test_check_believes_a_problem_at_once_and_survives_hangs_and_crashes() -> None:
    entries = [f"{{name: {way}, type: misbehaviour, interval: 2s, timeout: 1s, config: {{way: {way}, condition: C{way}}}}}"
               for way in ("hang", "deaf", "crash", "raise")]  # fmt: skip
    done = node_doctor("check", "-o", "json", "--set", monitors(*entries))
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert states == {"hang": "timeout", "deaf": "timeout", "crash": "crash", "raise": "unknown"}


def test_check_says_once_what_is_the_same_for_several_conditions() -> None:
    entry = "{name: api, type: apiserver-health-check, config: {url: 'https://127.0.0.1', caFile: /nowhere}}"
    words = ("check", "--set", monitors(entry))
    (row,) = json.loads(node_doctor(*words, "-o", "json").stdout)
    assert row["text"].startswith("APIServerUnreachable, APIServerUnauthorized, ")
    assert row["text"].count("Unknown") == row["text"].count("/nowhere") == 1
    assert {c["status"] for c in row["conditions"] if c["type"].startswith("APIServer")} == {"Unknown"}
    assert row["text"] in node_doctor(*words).stdout


def test_check_all_runs_every_type_that_needs_no_options() -> None:
    named = monitors("{name: mine, type: memory-health-check}")
    done = node_doctor("check", "--all", "-o", "json", "--set", named)
    kinds = [row["type"] for row in json.loads(done.stdout)]
    assert len(kinds) == len(set(kinds))
    assert {"memory-health-check", "disk-health-check", "clock-health-check"} <= set(kinds)
    assert not {"http-health-check", "custom-plugin"} & set(kinds)


def test_check_of_an_unknown_name_says_what_there_is() -> None:
    done = node_doctor("check", "memry")
    assert done.returncode == 2
    assert "did you mean 'memory'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_tells_by_exit_code(agent: Start, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    bad = f"{{name: b, type: misbehaviour, interval: 300ms, timeout: 100ms, failureThreshold: 1, config: {{way: bad, whileExists: {trigger}}}}}"
    one = agent(f"[{bad}]").ready()
    run_dir = ("--run-dir", str(one.run_dir))
    done = node_doctor("status", *run_dir)
    assert done.returncode == 0
    assert "test-node is healthy" in done.stdout
    trigger.touch()
    one.becomes("Misbehaving", "True")
    done = node_doctor("status", "-o", "json", *run_dir)
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"][0]["type"] == "Misbehaving"


@pytest.mark.parametrize("command", [["status"], ["tap", "--timeout", "1"]])
def test_who_asks_an_agent_that_is_not_there_gets_exit_code_3(command: list[str], tmp_path: Path) -> None:
    done = node_doctor(*command, "--run-dir", str(tmp_path))
    assert done.returncode == 3
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bus_whose_agent_is_gone_is_not_listened_to_for_ever(agent: Start) -> None:
    one = agent(WELL).ready()
    one.processes()
    kill(one.process.pid)
    one.process.wait(10)
    assert (one.run_dir / "bus.sock").is_socket()
    done = node_doctor("tap", "--run-dir", str(one.run_dir))
    assert done.returncode == 3
    assert "nobody answers" in done.stderr


def test_probes_answer_within_three_seconds_whatever_happens(agent: Start, tmp_path: Path) -> None:
    one = agent(WELL).ready()
    for what in ("live", "ready"):
        assert node_doctor("probe", what, "--run-dir", str(one.run_dir)).returncode == 0
        assert node_doctor("probe", what, "--run-dir", str(tmp_path)).returncode == 1
    for process in one.processes():
        if "exporter http" in "".join(process.cmdline()):
            process.suspend()
    began = time.monotonic()
    assert node_doctor("probe", "live", "--run-dir", str(one.run_dir)).returncode == 1
    assert time.monotonic() - began < 4.5


def test_tap_shows_the_bus_live_and_as_json(agent: Start) -> None:
    one = agent(WELL).ready()
    done = node_doctor("tap", "status.", "-o", "json", "--count", "2", "--run-dir", str(one.run_dir))
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [m["topic"] for m in messages] == ["status.well", "status.well"]
    assert messages[1]["seq"] == messages[0]["seq"] + 1
    assert set(messages[0]) >= {"topic", "seq", "timestamp", "node", "data"}
    assert node_doctor("tap", "none.", "--timeout", "0.5", "--run-dir", str(one.run_dir)).stdout == ""


def test_bad_configuration_stops_the_start_with_every_fault() -> None:
    done = node_doctor(
        "run",
        "--set",
        "settings.nodeNam=x",
        "--set",
        monitors("{name: a, type: nop}", "{name: b, type: noop, interval: 5}"),
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 3
    assert "did you mean 'nodeName'?" in done.stderr
    assert "did you mean 'noop'?" in done.stderr


def test_validate_says_what_is_valid_and_what_is_not_active(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "apiVersion: node-doctor.io/v1alpha1\nkind: NodeDoctorConfig\n"
        "monitors: [{name: a, type: noop, remediation: {enabled: true, strategy: systemd-restart, service: x}}]\n"
    )
    done = node_doctor("validate", str(file))
    assert done.returncode == 0
    assert "monitors[0].remediation: not active" in done.stdout


def test_what_is_not_active_is_said_at_the_start_and_in_status(agent: Start) -> None:
    one = agent(
        "[{name: a, type: noop, remediation: {enabled: true, strategy: systemd-restart, service: x}}]"
    ).ready()
    assert "monitors[0].remediation is not active" in one.text()
    assert "monitors[0].remediation" in one.status()["inactive"]


def test_the_log_is_json_for_machines(agent: Start) -> None:
    one = agent(WELL).ready()
    lines = [json.loads(line) for line in one.text().splitlines()]
    assert all({"timestamp", "level", "component", "message"} <= set(line) for line in lines)
    assert {line["level"] for line in lines} <= {"debug", "info", "warn", "error"}


def test_the_log_is_text_on_a_terminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nodedoctor", "run", "--set", "monitors=[]", "--set", "exporters.http.hostPort=0",
         "--set", "exporters.prometheus.enabled=false", "--run-dir", str(tmp_path / "r"), "--state-dir", str(tmp_path / "s")],
        stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    text = b""
    while b"ExporterUnavailable is False" not in text:
        text += os.read(master, 4096)
    assert not text.lstrip().startswith(b"{")
    process.terminate()
    assert process.wait(15) == 0
    os.close(master)


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    run_dir = tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, "-m", "nodedoctor", "run", "--set", monitors("{name: n, type: noop, interval: 300ms, timeout: 100ms}"),
         "--set", "exporters.http.hostPort=0", "--set", "exporters.prometheus.enabled=false",
         "--run-dir", str(run_dir), "--state-dir", str(tmp_path / "s")],
        stderr=write, start_new_session=True,
    )  # fmt: skip
    os.close(write)
    probe = ("probe", "ready", "--run-dir", str(run_dir))
    eventually("it is ready", lambda: node_doctor(*probe).returncode == 0)
    for _ in range(1000):
        kill(process.pid, 10)  # type: ignore[arg-type] # SIGUSR1: some lines each
        time.sleep(0.002)
    assert node_doctor(*probe).returncode == 0
    process.terminate()
    assert process.wait(15) == 0
    os.close(read)


def test_an_agent_without_privileges_runs_and_says_what_it_lacks(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this is for root; everybody else shows it by running the other tests")
    folder = tmp_path / "unprivileged"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(0o755)
    script = (
        "import os, sys\n"
        "from nodedoctor.cli import main\n"
        "import nodedoctor.registry as r, supervisor.core, supervisor.once, nodedoctor.config.load, supervisor.guard\n"
        "for group in (r.MONITORS, r.EXPORTERS):\n"
        "    [r.found(group)[name].load() for name in r.names(group)]\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "main()\n"
    )
    words = [sys.executable, "-c", script, "check", "-o", "json", "kernel-log", "memory"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["memory"]["state"] in {"ok", "problem"}
    assert rows["kernel-log"]["state"] == "unknown"
    told = rows["kernel-log"]["conditions"][0]
    assert (told["status"], told["reason"]) == ("Unknown", "PermissionDenied")
    assert "CAP_SYSLOG" in told["message"]
    assert done.returncode in {0, 1}


NPD = Path(__file__).parents[1] / "npd/config"


def test_node_problem_detectors_files_are_converted_to_what_validate_takes(tmp_path: Path) -> None:
    files = [str(NPD / f"{name}.json") for name in ("kernel-monitor", "readonly-monitor", "docker-monitor")]
    done = node_doctor("config", "convert", "--from", "npd", *files)
    assert (done.returncode, done.stderr) == (0, "")
    converted = tmp_path / "node-doctor.yaml"
    converted.write_text(done.stdout)
    valid = node_doctor("validate", str(converted))
    assert valid.returncode == 0
    assert "3 monitors: kernel-monitor, readonly-monitor, docker-monitor" in valid.stdout


def test_files_that_can_not_be_converted_are_told_with_all_their_faults(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    rules = [{"type": "temporary", "reason": "R", "pattern": "("}, {"type": "sometimes", "pattern": "x"}]
    broken.write_text(json.dumps({"plugin": "kmsg", "colour": "red", "rules": rules}))
    for words in (["config", "convert", "--from", "npd", str(broken)], ["run", "--npd-config", str(broken)]):
        done = node_doctor(*words, "--run-dir", str(tmp_path)) if words[0] == "run" else node_doctor(*words)
        assert done.returncode == 2
        for fault in ("colour", "rules[0].pattern", "rules[1].type"):
            assert f"{broken}: {fault}" in done.stderr


def test_check_runs_what_was_converted() -> None:
    name = str(NPD / "network-problem-monitor.json")
    done = node_doctor("check", "--npd-config", name, "-o", "json")
    (row,) = json.loads(done.stdout)
    assert (row["type"], row["name"]) == ("custom-plugin-rules", "network-custom-plugin-monitor")

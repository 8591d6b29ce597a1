"""Logs that a whole agent follows: from a line to its event, its condition, its metric, over restarts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from journal_support import private_journal
from tests_support import Agent, eventually

Start = Callable[..., Agent]
SHIPPED = Path(__file__).parents[1] / "npd/config"


def monitor(log: dict[str, Any], *rules: dict[str, Any]) -> str:
    """A monitor called log."""
    return json.dumps(
        [{"name": "log", "type": "log-pattern", "interval": "30s", "config": {**log, "rules": rules}}]
    )


def messages(one: Agent, reason: str = "") -> list[str]:
    """The messages of the events so far, oldest first."""
    events = one.get("/events?limit=256")[1]["events"]
    return [e["message"] for e in reversed(events) if reason in {"", e["reason"]}]


EVENT = {"name": "seen", "pattern": "seen (?P<what>.*)", "message": "{what}", "deduplicateWithin": "0s"}
BROKEN = {
    "name": "broken",
    "type": "permanent",
    "condition": "DiskBroken",
    "pattern": r"(?P<disk>\w+) is broken",
    "clearPattern": r"(?P<disk>\w+) is mended",
    "message": "{disk} is broken",
}


def test_a_file_that_comes_later_and_is_rotated_is_followed_over_a_restart(
    agent: Start, tmp_path: Path
) -> None:
    path = tmp_path / "app.log"
    monitors = monitor({"source": "file", "path": str(path)}, EVENT, BROKEN)
    first = agent(monitors).ready()
    assert first.condition("DiskBroken")["reason"] == "LogNotFound"
    path.write_text("seen 1\nsda is broken\n")
    first.becomes("DiskBroken", "True")
    path.rename(tmp_path / "app.log.1")
    path.write_text("seen 2\nsdb is broken\nsda is mended\n")
    eventually("the new file is read", lambda: messages(first, "Seen") == ["1", "2"])
    eventually("sdb alone is left", lambda: first.condition("DiskBroken")["message"] == "sdb is broken")
    first.end()
    path.rename(tmp_path / "app.log.1")
    with (tmp_path / "app.log.1").open("a") as rotated:
        rotated.write("seen 3\n")
    path.write_text("seen 4\n")
    again = agent(monitors, "--state-dir", str(first.state_dir)).ready()
    again.becomes("DiskBroken", "True")
    eventually("what was missed is read", lambda: messages(again, "Seen") == ["3", "4"])


def test_a_journal_is_followed_over_a_restart(agent: Start) -> None:
    with private_journal() as journal:
        monitors = monitor({"source": "journal", "path": str(journal.folder), "identifiers": ["app"]}, EVENT)
        first = agent(monitors).ready()
        journal.write("seen 1", SYSLOG_IDENTIFIER="app")
        journal.write("seen by another", SYSLOG_IDENTIFIER="other")
        eventually("the first line", lambda: messages(first, "Seen") == ["1"])
        first.end()
        journal.write("seen 2", SYSLOG_IDENTIFIER="app")
        again = agent(monitors, "--state-dir", str(first.state_dir)).ready()
        journal.write("seen 3", SYSLOG_IDENTIFIER="app")
        eventually("the other lines", lambda: messages(again, "Seen") == ["2", "3"])


def test_labels_are_those_of_the_metric_and_a_storm_is_told_in_few_events(
    agent: Start, tmp_path: Path
) -> None:
    path = tmp_path / "app.log"
    path.touch()
    rule = {
        "name": "xid",
        "pattern": r"Xid (?P<xid>\d+) on (?P<gpu>\w+)",
        "labels": ["xid"],
        "message": "{xid}: {xid_meaning}",
    }
    log = {"source": "file", "path": str(path)}
    one = agent(monitor(log, {**rule, "meanings": {"xid": {"79": "fell off the bus"}}})).ready()
    path.write_text("".join(f"Xid {number} on g{n}\n" for n in range(500) for number in (79, 13)))
    series = 'log_matches_total{monitor="log",rule="xid",xid="79"}'
    eventually("all lines are counted", lambda: one.metric(series) == 500)
    assert messages(one, "Xid") == ["79: fell off the bus", "13: meaning not known"]


@pytest.mark.parametrize(
    "name", ["kernel-monitor", "readonly-monitor", "network-problem-monitor", "system-stats-monitor"]
)
def test_what_is_shipped_runs_as_it_is(agent: Start, name: str) -> None:
    one = agent("[]", "--npd-config", str(SHIPPED / f"{name}.json")).ready()
    assert {monitor["name"] for monitor in one.status()["monitors"]}
    assert one.condition("MonitorFailing")["status"] == "False"


def test_node_problem_detectors_own_kernel_test(agent: Start, tmp_path: Path) -> None:
    if not os.access("/dev/kmsg", os.W_OK) and os.environ.get("CI") != "true":
        pytest.skip("/dev/kmsg can't be written")
    config = json.loads((SHIPPED / "kernel-monitor.json").read_text())
    path = tmp_path / "kernel-monitor.json"
    path.write_text(json.dumps({**config, "lookback": "0"}))
    one = agent("[]", "--npd-config", str(path)).ready()
    deadlock = one.becomes("KernelDeadlock", "False")
    assert (deadlock["reason"], deadlock["message"]) == ("KernelHasNoDeadlock", "kernel has no deadlock")
    metrics = one.metrics()
    assert metrics['problem_gauge{reason="DockerHung",type="KernelDeadlock"}'] == 0
    for reason in ("DockerHung", "TaskHung", "KernelOops", "OOMKilling", "XfsHasShutdown"):
        assert metrics[f'problem_counter{{reason="{reason}"}}'] == 0
    with Path("/dev/kmsg").open("wb", buffering=0) as kernel:
        kernel.writelines(
            f"{line}\n".encode()
            for line in (
                "kernel: INFO: task docker:12345 blocked for more than 120 seconds.",
                "kernel: Memory cgroup out of memory: Kill process 1012 (heapster) score 1035 or sacrifice child",
                "kernel: Killed process 1012 (heapster) total-vm:327128kB, anon-rss:306328kB, file-rss:11132kB",
            )
        )
    deadlock = one.becomes("KernelDeadlock", "True", "DockerHung")
    assert deadlock["message"] == "kernel: INFO: task docker:12345 blocked for more than 120 seconds."
    eventually("all is counted", lambda: one.metrics()['problem_counter{reason="OOMKilling"}'] == 1)
    metrics = one.metrics()
    assert [
        metrics[f'problem_counter{{reason="{reason}"}}']
        for reason in ("DockerHung", "TaskHung", "OOMKilling")
    ] == [1, 1, 1]
    assert metrics['problem_gauge{reason="DockerHung",type="KernelDeadlock"}'] == 1
    assert len(messages(one, "DockerHung")) == 1


def local_now() -> datetime:
    """The time as logs write it, without a zone."""
    return datetime.now().astimezone()


class NodeTest:
    """The test that Kubernetes has for Node Problem Detector on a node: a log file, and what must come of its lines."""

    def __init__(self, agent: Start, folder: Path) -> None:
        self.log = folder / "test.log"
        self.log.touch()
        rules = [
            {"type": "temporary", "reason": "Temporary", "pattern": "temporary error"},
            {
                "type": "permanent",
                "condition": "TestCondition",
                "reason": "Permanent1",
                "pattern": "permanent error 1.*",
            },
            {
                "type": "permanent",
                "condition": "TestCondition",
                "reason": "Permanent2",
                "pattern": "permanent error 2.*",
            },
        ]
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        self.boot = local_now() - timedelta(seconds=uptime)
        config = {
            "plugin": "filelog",
            "pluginConfig": {
                "timestamp": "^.{15}",
                "message": r"kernel: \[.*\] (.*)",
                "timestampFormat": "Jan _2 15:04:05",
            },
            "logPath": str(self.log),
            "lookback": f"{uptime + 3600:.0f}s",
            "source": "kernel-monitor",
            "conditions": [{"type": "TestCondition", "reason": "Default", "message": "default message"}],
            "rules": rules,
        }
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        self.agent = agent("[]", "--npd-config", str(path)).ready()

    def say(self, when: datetime, message: str, number: int = 1) -> None:
        """The same line some times."""
        line = f"{when:%b} {when.day:2} {when:%H:%M:%S} kernel: [0.000000] {message}\n"
        with self.log.open("a") as log:
            log.write(line * number)

    def expect(self, temporary: int, total: int, status: str, reason: str, message: str) -> None:
        """So many events of the temporary rule and of all three, and this condition; all lines are read by then."""
        counts = [
            f'problem_counter{{reason="{reason}"}}' for reason in ("Temporary", "Permanent1", "Permanent2")
        ]

        def reached() -> bool:
            metrics = self.agent.metrics()
            found = [int(metrics[series]) for series in counts]
            return found[0] == temporary and sum(found) == total

        eventually(f"{temporary} temporary events of {total}", reached)
        condition = self.agent.becomes("TestCondition", status, reason)
        assert condition["message"] == message


def test_node_problem_detectors_test_of_kubernetes(agent: Start, tmp_path: Path) -> None:
    node = NodeTest(agent, tmp_path)
    now, old = local_now(), node.boot - timedelta(minutes=1)
    fine = ("False", "Default", "default message")
    node.expect(0, 0, *fine)
    node.say(old, "temporary error", 3)
    node.say(old, "permanent error 1")
    node.expect(0, 0, *fine)
    node.say(now, "temporary error", 3)
    node.expect(3, 3, *fine)
    node.say(now, "permanent error 1")
    first = ("True", "Permanent1", "permanent error 1")
    node.expect(3, 4, *first)
    node.say(now + timedelta(minutes=5), "temporary error", 3)
    node.expect(6, 7, *first)
    node.say(now, "permanent error 1different message")
    node.expect(6, 7, *first)
    node.say(now, "permanent error 2")
    node.expect(6, 8, "True", "Permanent2", "permanent error 2")
    assert len(messages(node.agent, "Temporary")) == 6
    assert [messages(node.agent, reason) for reason in ("Permanent1", "Permanent2")] == [
        ['Node condition TestCondition is now: True, reason: Permanent1, message: "permanent error 1"'],
        ['Node condition TestCondition is now: True, reason: Permanent2, message: "permanent error 2"'],
    ]


def test_a_log_counter_counts_restarts_and_takes_back_those_on_purpose(agent: Start, tmp_path: Path) -> None:
    with private_journal() as journal:
        rule = {
            "type": "permanent",
            "condition": "FrequentKubeletRestart",
            "reason": "FrequentKubeletRestart",
            "path": "/home/kubernetes/bin/log-counter",
            "args": [
                *("--journald-source=systemd", f"--log-path={journal.folder}", "--lookback=20m", "--count=5"),
                *("--pattern=Started Kubernetes kubelet.", "--revert-pattern=Stopping Kubernetes kubelet..."),
            ],
        }
        default = {"type": "FrequentKubeletRestart", "reason": "NoFrequentKubeletRestart", "message": "fine"}
        path = tmp_path / "counter.json"
        path.write_text(
            json.dumps({"plugin": "custom", "source": "restarts", "conditions": [default], "rules": [rule]})
        )
        one = agent("[]", "--npd-config", str(path)).ready()
        assert one.condition("FrequentKubeletRestart")["message"] == "fine"
        for _ in range(4):
            journal.write("Started Kubernetes kubelet.", SYSLOG_IDENTIFIER="systemd")
        journal.write("Stopping Kubernetes kubelet...", SYSLOG_IDENTIFIER="systemd")
        journal.write("Started Kubernetes kubelet.", SYSLOG_IDENTIFIER="systemd")
        series = 'log_matches_total{monitor="restarts",rule="frequent-kubelet-restart"}'
        journal.write("Started Kubernetes kubelet.", SYSLOG_IDENTIFIER="systemd")
        found = one.becomes("FrequentKubeletRestart", "True")
        assert found["message"] == "Found 5 matching logs, which meets the threshold of 5"
        assert one.metric(series) == 6


def test_node_problem_detectors_plugins_run_as_they_are(agent: Start, tmp_path: Path) -> None:
    script = tmp_path / "check.sh"
    script.write_text('#!/bin/sh\necho "$(cat "$1")"\nexit "$(cat "$1")"\n')
    script.chmod(0o755)
    code = tmp_path / "code"
    code.write_text("0")
    rules = [
        {
            "type": "permanent",
            "condition": "NTPProblem",
            "reason": "NTPIsDown",
            "path": str(script),
            "args": [str(code)],
        },
        {"type": "temporary", "reason": "NTPWarning", "path": str(script), "args": [str(code)]},
    ]
    config = {
        "plugin": "custom",
        "source": "ntp",
        "pluginConfig": {"invoke_interval": "200ms", "timeout": "100ms"},
        "conditions": [{"type": "NTPProblem", "reason": "NTPIsUp", "message": "ntp is up"}],
        "rules": rules,
    }
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(config))
    one = agent("[]", "--npd-config", str(path)).ready()
    for text, status, reason in (
        ("0", "False", "NTPIsUp"),
        ("1", "True", "NTPIsDown"),
        ("2", "Unknown", "NTPIsUp"),
        ("0", "False", "NTPIsUp"),
    ):
        code.write_text(text)
        found = one.becomes("NTPProblem", status, reason)
        assert found["message"] == (text if text in "12" else "ntp is up")
    assert one.metrics()['problem_counter{reason="NTPIsDown"}'] == 1
    assert one.metrics()['problem_gauge{reason="NTPIsDown",type="NTPProblem"}'] == 0
    assert {"1", "2"} <= set(messages(one, "NTPWarning"))
    changes = [message for message in messages(one) if message.startswith("Node condition NTPProblem")]
    assert [change.split(",")[0].rsplit(" ", 1)[1] for change in changes] == ["True", "Unknown", "False"]

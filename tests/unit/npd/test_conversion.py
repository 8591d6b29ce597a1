"""Node Problem Detector's files as our configuration: every file that it ships, and what becomes of each key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodedoctor.config.load import load
from nodedoctor.config.model import MonitorEntry
from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.convert import convert
from nodedoctor.npd.entries import label, unused
from nodedoctor.npd.flags import parse_flags
from nodedoctor.roster import spec_of
from nodedoctor.types import ConditionStatus
from workers.life import check_once

SHIPPED = sorted((Path(__file__).parents[2] / "npd/config").glob("*.json"))
LOG = {"plugin": "kmsg", "source": "kernel-monitor", "rules": []}
PLUGIN = {"plugin": "custom", "source": "my-plugins", "rules": []}
TEMPORARY = {"type": "temporary", "reason": "OOMKilling", "pattern": "Killed process"}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes files of Node Problem Detector."""

    def write(*contents: dict[str, Any]) -> list[Path]:
        paths = [tmp_path / f"{number}.json" for number, _ in enumerate(contents)]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(json.dumps(content))
        return paths

    return write


@pytest.fixture
def monitors(write: Any) -> Any:
    """The monitors that files are converted to."""

    def converted(*contents: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = convert(write(*contents)).data["monitors"]
        return found

    return converted


def plugin(path: str, *args: str, **more: Any) -> dict[str, Any]:
    """A file with one permanent rule that runs `path`."""
    rule = {
        "type": "permanent",
        "condition": "Bad",
        "reason": "IsBad",
        "path": path,
        "args": list(args),
        **more,
    }
    conditions = [{"type": "Bad", "reason": "IsFine", "message": "it is fine"}]
    return {**PLUGIN, "conditions": conditions, "rules": [rule]}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_file_that_is_shipped_converts_and_what_converts_runs(path: Path, tmp_path: Path) -> None:
    (tmp_path / "converted.yaml").write_text(convert([path]).text())
    config = load([tmp_path / "converted.yaml"], environ={}).config
    assert config.monitors
    assert config.exporters.prometheus.npd_compatible
    for entry in config.monitors:
        spec = spec_of(entry)
        assert spec.timeout < spec.interval
        conditions = {condition.type: condition for condition in check_once(spec).conditions}
        assert conditions.keys() == {*(kind.type for kind in spec.conditions), "MonitorFailing"}
        assert conditions["MonitorFailing"].status is ConditionStatus.FALSE


def test_a_kernel_log_with_all_its_keys(monitors: Any) -> None:
    (entry,) = monitors(
        {
            **LOG,
            "logPath": "/dev/kmsg",
            "lookback": "5m",
            "delay": "1m30s",
            "bufferSize": 20,
            "metricsReporting": False,
            "conditions": [
                {"type": "KernelDeadlock", "reason": "KernelHasNoDeadlock", "message": "no deadlock"}
            ],
            "rules": [
                {**TEMPORARY, "patternGeneratedMessageSuffix": "see {the} wiki"},
                {
                    "type": "permanent",
                    "condition": "KernelDeadlock",
                    "reason": "DockerHung",
                    "pattern": r"docker\nhung$",
                },
            ],
        }
    )
    common = {"severity": "warning", "match": "window", "eventsPerMinute": 100, "deduplicateWithin": "0s"}
    assert entry == {
        "name": "kernel-monitor",
        "type": "log-pattern",
        "config": {
            "source": "kmsg",
            "lookback": "5m",
            "delay": "1m30s",
            "bufferSize": 20,
            "conditions": [
                {"type": "KernelDeadlock", "reason": "KernelHasNoDeadlock", "message": "no deadlock"}
            ],
            "rules": [
                {
                    "name": "oomkilling",
                    "type": "temporary",
                    "reason": "OOMKilling",
                    "pattern": "Killed process",
                    "message": "{line}; see {{the}} wiki",
                    **common,
                },
                {
                    "name": "docker-hung",
                    "type": "permanent",
                    "condition": "KernelDeadlock",
                    "reason": "DockerHung",
                    "pattern": r"docker\nhung$",
                    **common,
                },
            ],
            "metricsReporting": False,
        },
    }


def test_a_journal_and_a_file(monitors: Any) -> None:
    translation = {"timestamp": "^.{15}", "message": "kernel: (.*)", "timestampFormat": "Jan _2 15:04:05"}
    journal, file = monitors(
        {**LOG, "plugin": "journald", "pluginConfig": {"source": "dockerd"}, "logPath": "/var/log/journal"},
        {
            **LOG,
            "plugin": "filelog",
            "pluginConfig": translation,
            "logPath": "/var/log/kern.log",
            "skipList": [" audit:"],
        },
    )
    expected = {"source": "journal", "path": "/var/log/journal", "identifiers": ["dockerd"], "bufferSize": 10}
    assert journal["config"] == expected
    assert file["name"] == "kernel-monitor-2"
    assert file["config"] == {
        "source": "file",
        "path": "/var/log/kern.log",
        "skip": [" audit:"],
        "timestamp": "^.{15}",
        "timestampFormat": "Jan _2 15:04:05",
        "messagePattern": "kernel: (.*)",
        "bufferSize": 10,
    }


def test_dollars_and_braces_of_a_pattern_survive(write: Any, tmp_path: Path) -> None:
    pattern = r"^cost ${HOME} \$$ {2}x$"
    paths = write({**LOG, "rules": [{**TEMPORARY, "pattern": pattern}]})
    (tmp_path / "converted.yaml").write_text(convert(paths).text())
    for config in (load([tmp_path / "converted.yaml"], environ={}), load(npd=paths, environ={})):
        (entry,) = config.config.monitors
        assert entry.config["rules"][0]["pattern"] == pattern


def test_plugins_with_all_their_keys(monitors: Any) -> None:
    content = plugin("/opt/check.sh", "-x", timeout="2s", invoke_interval="1m")
    content["pluginConfig"] = {
        "invoke_interval": "20s",
        "timeout": "3s",
        "max_output_length": 100,
        "concurrency": 2,
        "enable_message_change_based_condition_update": True,
        "skip_initial_status": True,
    }
    content["metricsReporting"] = False
    (entry,) = monitors(content)
    assert entry == {
        "name": "my-plugins",
        "type": "custom-plugin-rules",
        "interval": "30s",
        "timeout": "8s",
        "config": {
            "invokeInterval": "20s",
            "pluginTimeout": "3s",
            "maxOutputLength": 100,
            "concurrency": 2,
            "user": "root",
            "rules": [
                {
                    "name": "is-bad",
                    "type": "permanent",
                    "condition": "Bad",
                    "reason": "IsBad",
                    "path": "/opt/check.sh",
                    "args": ["-x"],
                    "timeout": "2s",
                    "invokeInterval": "1m",
                }
            ],
            "conditions": [{"type": "Bad", "reason": "IsFine", "message": "it is fine"}],
            "messageChangeUpdates": True,
            "skipInitialStatus": True,
            "metricsReporting": False,
        },
    }


COUNTER = ("--journald-source=systemd", "--lookback", "20m", "--delay=5m", "--count=3", "--pattern=Started x", "--revert-pattern=Stopping x")  # fmt: skip


def test_a_log_counter_is_a_rule_that_counts(monitors: Any) -> None:
    (entry,) = monitors(plugin("/home/kubernetes/bin/log-counter", *COUNTER))
    assert (entry["type"], entry["config"]["lookback"], entry["config"]["delay"]) == (
        "log-pattern",
        "20m",
        "5m",
    )
    assert entry["config"]["identifiers"] == ["systemd"]
    assert entry["config"]["conditions"] == [{"type": "Bad", "reason": "IsFine", "message": "it is fine"}]
    assert entry["config"]["rules"] == [
        {
            "name": "is-bad",
            "type": "permanent",
            "condition": "Bad",
            "reason": "IsBad",
            "severity": "warning",
            "pattern": "Started x",
            "revertPattern": "Stopping x",
            "match": "window",
            "count": 3,
            "within": "20m",
            "message": "Found {count} matching logs, which meets the threshold of 3",
        }
    ]


def test_what_shares_a_condition_with_another_plugin_stays_a_plugin(monitors: Any) -> None:
    content = plugin("/bin/log-counter", *COUNTER)
    content["rules"].append({**content["rules"][0], "path": "/opt/other.sh", "args": []})
    (entry,) = monitors(content)
    assert entry["type"] == "custom-plugin-rules"
    assert [rule["path"] for rule in entry["config"]["rules"]] == ["/bin/log-counter", "/opt/other.sh"]


def test_the_health_checker_is_the_check_that_it_makes(monitors: Any) -> None:
    kubelet, proxy, docker, containerd = monitors(
        plugin("/bin/health-checker", "--cooldown-time=1m", "--health-check-timeout=3s"),
        plugin("/bin/health-checker", "--component=kube-proxy", "--enable-repair=false"),
        plugin("/bin/health-checker", "--component", "docker"),
        plugin("/bin/health-checker", "--component=cri", "--cri-timeout=9s"),
    )
    assert kubelet["type"] == proxy["type"] == "http-health-check"
    assert kubelet["config"] == {
        "url": "http://localhost:10248/healthz",
        "requestTimeout": "3s",
        "condition": "Bad",
        "reason": "IsBad",
        "okReason": "IsFine",
        "okMessage": "it is fine",
    }
    repair = {"enabled": True, "strategy": "systemd-restart", "service": "kubelet", "cooldown": "1m"}
    assert (kubelet["remediation"], "remediation" in proxy) == (repair, False)
    assert proxy["config"]["url"] == "http://localhost:10256/livez"
    assert docker["config"]["rules"][0]["args"] == ["ps"]
    assert containerd["config"]["rules"][0]["path"] == "/usr/bin/crictl"
    assert "--timeout=9s" in containerd["config"]["rules"][0]["args"]
    assert containerd["remediation"] == {"enabled": True, "strategy": "runtime-restart", "cooldown": "2m"}


def test_the_patterns_of_the_health_checker_watch_the_log_of_its_service(write: Any) -> None:
    args = ("--log-pattern=10:timed out,2:a:b", "--service=containerd", "--loopback-time=10m")
    conversion = convert(write(plugin("/bin/health-checker", *args)))
    _, log = conversion.data["monitors"]
    assert (log["name"], log["config"]["units"]) == ("containerd-health-log", ["containerd"])
    rules = [(r["condition"], r["pattern"], r["count"], r["within"]) for r in log["config"]["rules"]]
    assert rules == [("BadInLog", "(?i)timed out", 10, "10m"), ("BadInLog", "(?i)a:b", 2, "10m")]
    assert "the condition BadInLog, beside Bad" in conversion.notes[0]


@pytest.mark.parametrize(
    ("program", "args", "fault"),
    [
        pytest.param("log-counter", ["--patern=x"], "did you mean 'pattern'", id="a flag that there is not"),
        pytest.param("log-counter", ["--pattern=["], "RE2 can't take '['", id="a pattern"),
        pytest.param("log-counter", ["--journald-source=x"], "without --lookback", id="a counter of nothing"),
        pytest.param("log-counter", [*COUNTER, "--count=x"], "--count", id="a count"),
        pytest.param("log-counter", [*COUNTER, "--revert-pattern=["], "RE2 can't take '['", id="another pattern"),
        pytest.param("health-checker", ["--component=etcd"], "--component=etcd: allowed", id="a component"),
        pytest.param("health-checker", ["--enable-repair=maybe"], "allowed: true, false", id="a switch"),
        pytest.param("health-checker", ["--cooldown-time=1d"], "--cooldown-time", id="a duration"),
        pytest.param("health-checker", ["--service"], "--service needs a value", id="a value that is missing"),
        *(
            pytest.param("health-checker", [f"--log-pattern={text}"], "COUNT:PATTERN", id=f"log pattern {text}")
            for text in ("10:", "0:p", ":p", ":", "x:p")
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_faults_with_their_place(
    write: Any, program: str, args: list[str], fault: str
) -> None:
    paths = write(plugin(f"/bin/{program}", *args))
    with pytest.raises(ConfigurationError) as caught:
        convert(paths)
    assert str(paths[0]) in caught.value.faults[0]
    assert "rules[0].args" in caught.value.faults[0]
    assert fault in caught.value.faults[0]


def test_all_faults_of_all_files_are_told(write: Any) -> None:
    paths = write({**LOG, "lookback": "1d"}, {**PLUGIN, "colour": "red"}, {"plugin": "kmesg"})
    with pytest.raises(ConfigurationError) as caught:
        load(npd=paths, environ={})
    for path in paths:
        assert any(str(path) in fault for fault in caught.value.faults)


def test_two_files_that_set_one_condition_from_one_log_become_one_monitor(write: Any) -> None:
    rule = {
        "type": "permanent",
        "condition": "ReadonlyFilesystem",
        "reason": "FilesystemIsReadOnly",
        "pattern": "read-only",
    }
    first = {**LOG, "conditions": [{"type": "ReadonlyFilesystem"}], "rules": [TEMPORARY, rule]}
    second = {**first, "source": "readonly-monitor", "rules": [rule, {**rule, "pattern": "readonly"}]}
    conversion = convert(write(first, second))
    (entry,) = conversion.data["monitors"]
    assert [r["pattern"] for r in entry["config"]["rules"]] == ["Killed process", "read-only", "readonly"]
    assert [r["name"] for r in entry["config"]["rules"]] == [
        *("oomkilling", "filesystem-is-read-only", "filesystem-is-read-only-2"),
    ]
    assert len(entry["config"]["conditions"]) == 1
    assert "readonly-monitor watches the same log as kernel-monitor" in conversion.text()


def test_a_file_that_is_named_twice_counts_once(write: Any) -> None:
    (path,) = write({**LOG, "rules": [TEMPORARY]})
    assert len(convert([path, path]).data["monitors"]) == 1


def test_its_monitors_take_the_place_of_the_default_ones_and_join_those_of_a_file(
    write: Any, tmp_path: Path
) -> None:
    paths = write({**LOG, "rules": [TEMPORARY]})
    alone = load(npd=paths, environ={})
    assert [entry.name for entry in alone.config.monitors] == ["kernel-monitor"]
    assert alone.origins["monitors[0].type"] == str(paths[0])
    own = tmp_path / "own.yaml"
    own.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "node-doctor.io/v1alpha1",
                "kind": "NodeDoctorConfig",
                "monitors": [{"name": "mine", "type": "noop"}],
            }
        )
    )
    both = load([own], npd=paths, environ={})
    assert both.config.monitors[0] == MonitorEntry("mine", "noop")
    assert [entry.name for entry in both.config.monitors] == ["mine", "kernel-monitor"]
    assert both.origins["monitors[0].type"].startswith(str(own))
    flagged = load(npd=paths, flags=["monitors[0].interval=1m"], environ={})
    assert flagged.config.monitors[0].interval == "1m"


def test_stats_under_their_names(monitors: Any, write: Any) -> None:
    config = {
        "cpu/load_1m": {"displayName": "cpu/load_1m"},
        "cpu/load_5m": {"displayName": "five"},
        "cpu/load_15m": {},
    }
    (entry,) = monitors(
        {
            "cpu": {"metricsConfigs": config},
            "net": {
                "excludeInterfaceRegexp": "^cali",
                "metricsConfigs": {"net/rx_bytes": {"displayName": "net/rx"}},
            },
            "invokeInterval": "2m",
        }
    )
    assert entry == {
        "name": "system-stats",
        "type": "system-stats",
        "interval": "2m",
        "config": {
            "cpu": {"metrics": {"cpu/load_1m": "cpu_load_1m", "cpu/load_5m": "five"}},
            "net": {"metrics": {"net/rx_bytes": "net_rx"}, "excludeInterfaces": "^cali"},
        },
    }
    with pytest.raises(ConfigurationError, match="procPath: found '/host/proc', allowed: /proc"):
        convert(write({"cpu": {"metricsConfigs": config}, "procPath": "/host/proc"}))


def test_names_are_dns_labels_and_unique() -> None:
    assert [label(text) for text in ("NTPIsDown", "docker monitor", "--", "ä", "a" * 99)] == [
        *("ntpis-down", "docker-monitor", "monitor", "monitor", "a" * 63),
    ]
    assert unused("a" * 63, {"a" * 63}) == "a" * 61 + "-2"


def test_flags_are_read_as_pflag_reads_them() -> None:
    known = {"a": "1", "b": "false", "c": ""}
    assert parse_flags("x", ["--a=2", "--a", "3", "--b", "--c=p=q"], known, ["b"]) == {
        "a": ["3"],
        "b": ["true"],
        "c": ["p=q"],
    }
    assert parse_flags("x", ["--c=1", "--c", "2"], known, lists=["c"])["c"] == ["", "1", "2"]

"""Node Problem Detector's files: what it takes is taken and means the same, and what it hides is told."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedoctor.duration import seconds
from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.fields import METRICS
from nodedoctor.npd.files import (
    Condition,
    CustomPluginFile,
    LogRule,
    PluginRule,
    SystemLogFile,
    SystemStatsFile,
    parse_npd,
    read_npd,
)
from nodedoctor.npd.goduration import ours, parse_go_duration

SHIPPED = Path(__file__).parents[2] / "npd/config"
OF_THE_FILE_LOG = {"timestamp": "^.{15}", "message": "kernel: (.*)", "timestampFormat": "Jan _2 15:04:05"}
CONDITION = {"type": "Bad", "reason": "IsGood", "message": "it is good"}


def rule(**changes: Any) -> dict[str, Any]:
    """A rule of a log."""
    return {"type": "temporary", "reason": "Oops", "pattern": "oops", **changes}


def log(*rules: dict[str, Any], **changes: Any) -> str:
    """A file for the kernel's log."""
    return json.dumps({"plugin": "kmsg", "conditions": [CONDITION], "rules": rules, **changes})


def file_log(**changes: Any) -> str:
    """A file for a log that is a file."""
    return log(**{"plugin": "filelog", "logPath": "/var/log/x", "pluginConfig": OF_THE_FILE_LOG, **changes})


def program(**changes: Any) -> dict[str, Any]:
    """A rule of a plugin."""
    return {"type": "permanent", "condition": "Bad", "reason": "IsBad", "path": "/x", **changes}


def plugin(*rules: dict[str, Any], **config: Any) -> str:
    """A file for plugins."""
    data = {"plugin": "custom", "pluginConfig": config, "conditions": [CONDITION], "rules": rules}
    return json.dumps(data)


def faults(text: str) -> list[str]:
    """What is wrong with the file of this text."""
    with pytest.raises(ConfigurationError) as refused:
        parse_npd("f", text)
    assert all(told.startswith("f:") for told in refused.value.faults)
    return [told.removeprefix("f:").strip() for told in refused.value.faults]


def fault(text: str) -> str:
    """The one thing that is wrong with the file of this text."""
    (found,) = faults(text)
    return found


def notes(text: str) -> list[str]:
    """What is odd about the file of this text."""
    return list(parse_npd("f", text).notes)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_every_file_that_npd_ships_is_read_without_fault(path: Path) -> None:
    file = read_npd(path)
    name = path.stem
    custom = ("counter", "custom-plugin", "health", "network", "iptables", "defender")
    kind = (
        SystemStatsFile
        if "stats" in name
        else CustomPluginFile
        if any(w in name for w in custom)
        else SystemLogFile
    )
    assert type(file) is kind
    assert ["Windows" in note for note in file.notes] == [True] * (
        name.startswith("windows") and "stats" not in name
    )


def test_all_files_that_npd_ships_are_here() -> None:
    assert len(list(SHIPPED.glob("*.json"))) == 26


def test_a_file_for_a_log_becomes_a_typed_object() -> None:
    file = read_npd(SHIPPED / "disk-log-message-filelog.json")
    assert file == SystemLogFile(
        plugin="filelog",
        plugin_config={
            "timestamp": "^.{15}",
            "message": "(?i)Currently unreadable.*sectors|(?i)Offline uncorrectable sectors",
            "timestampFormat": "Jan _2 15:04:05",
        },
        skip_list=(" audit:", " audit["),
        log_path="/var/log/messages",
        lookback=36_000.0,
        buffer_size=1,
        source="disk-monitor",
        conditions=(Condition("DiskBadBlock", "DiskBadBlock", "Disk no bad block"),),
        rules=(
            LogRule(
                type="permanent",
                pattern=r".*([1-9]\d{2,}) (Currently unreadable.*sectors|Offline uncorrectable sectors).*",
                condition="DiskBadBlock",
                reason="DiskBadBlock",
            ),
        ),
    )


def test_a_file_for_plugins_becomes_a_typed_object() -> None:
    file = read_npd(SHIPPED / "health-checker-containerd.json")
    assert isinstance(file, CustomPluginFile)
    assert (file.plugin_config.invoke_interval, file.plugin_config.timeout) == (10.0, 180.0)
    assert file.rules == (
        PluginRule(
            type="permanent",
            path="/home/kubernetes/bin/health-checker",
            condition="ContainerRuntimeUnhealthy",
            reason="ContainerdUnhealthy",
            args=(
                "--component=cri",
                "--enable-repair=true",
                "--cooldown-time=2m",
                "--cri-timeout=10s",
                "--health-check-timeout=60s",
            ),
            timeout=180.0,
        ),
    )


def test_a_file_for_figures_becomes_a_typed_object_though_a_key_of_it_has_another_case() -> None:
    path = SHIPPED / "system-stats-monitor.json"
    file = read_npd(path)
    assert '"KnownModulesConfigPath"' in path.read_text()
    assert isinstance(file, SystemStatsFile)
    assert file.os_feature.known_modules_config_path == "guestosconfig/known-modules.json"
    assert set(file.cpu.metrics_configs) == METRICS["cpu"]
    assert file.cpu.metrics_configs["cpu/load_1m"].display_name == "cpu/load_1m"
    assert (file.disk.include_root_blk, file.disk.lsblk_timeout, file.invoke_interval) == (True, 5.0, 60.0)
    assert file.net.metrics_configs == {}


def test_what_is_not_given_is_as_in_npd() -> None:
    assert parse_npd("f", '{"plugin": "kmsg"}') == SystemLogFile(
        plugin="kmsg", lookback=0.0, delay=0.0, buffer_size=10, metrics_reporting=True
    )
    plugins = parse_npd("f", '{"plugin": "custom"}')
    assert isinstance(plugins, CustomPluginFile)
    assert msgspec.structs.asdict(plugins.plugin_config) == {
        "invoke_interval": 30.0,
        "timeout": 5.0,
        "max_output_length": 80,
        "concurrency": 3,
        "enable_message_change_based_condition_update": False,
        "skip_initial_status": False,
    }
    stats = parse_npd("f", '{"host": {}}')
    assert isinstance(stats, SystemStatsFile)
    assert (stats.invoke_interval, stats.proc_path, stats.disk.lsblk_timeout) == (60.0, "/proc", 5.0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            '{"plugin": "kmsg", "bufferSize": 0, "lookback": "", "delay": ""}', id="nothing, as Go has it"
        ),
        pytest.param('{"plugin": "kmsg", "bufferSize": null, "lookback": null, "rules": null}', id="null"),
    ],
)
def test_what_is_given_as_nothing_is_as_if_it_were_not_given(text: str) -> None:
    assert parse_npd("f", text) == parse_npd("f", '{"plugin": "kmsg"}')


def test_an_object_that_was_read_does_not_change() -> None:
    with pytest.raises(AttributeError):
        parse_npd("f", log()).notes = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "1:1: is not JSON: it is empty", id="empty"),
        pytest.param(" \n\t", "2:2: is not JSON: it is empty", id="blanks"),
        pytest.param(
            '{"plugin": "kmsg",\n}', "1:18: is not JSON: nothing follows this comma", id="comma in a map"
        ),
        pytest.param(
            '{"a": [1,\n\n2 , ]}', "3:3: is not JSON: nothing follows this comma", id="comma in a list"
        ),
        pytest.param("\ufeff{}", "1:1: is not JSON: a byte order mark", id="byte order mark"),
        pytest.param('{"a": 1}\n{}', "2:1: is not JSON: there is more after its end", id="a second value"),
        pytest.param('{"a": 1} x', "1:10: is not JSON: there is more after its end", id="text behind it"),
        pytest.param('{"a": 1', "1:8: is not JSON: it ends too early", id="cut off"),
        pytest.param('{"a": "b', "1:7: is not JSON: Unterminated string", id="cut off in a text"),
        pytest.param("{'a': 1}", "1:2: is not JSON", id="other quotes"),
        pytest.param('{"a": 1 // one\n}', "1:9: is not JSON", id="a comment"),
        pytest.param('{"a": 01}', "1:8: is not JSON", id="a leading zero"),
        pytest.param('{"a": "b\tc"}', "1:9: is not JSON: Invalid control character", id="a tab in a text"),
        pytest.param(
            '{"a": "\\d"}', "1:8: is not JSON: Invalid \\escape", id="a backslash that is not doubled"
        ),
        pytest.param('{"a":\u00a01}', "1:6: is not JSON", id="a blank of another kind"),
        pytest.param("plugin: kmsg\n", "1:1: is not JSON", id="YAML"),
    ],
)
def test_what_is_not_json_is_refused_with_line_and_column(text: str, expected: str) -> None:
    assert fault(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            log(bufferSize="10"), "bufferSize: found '10', expected an integer such as 10", id="a text"
        ),
        pytest.param(log(bufferSize=3.0), "bufferSize: found 3.0, expected an integer such as 10", id="3.0"),
        pytest.param(
            log().replace('"rules": []', '"bufferSize": 1e3'),
            "bufferSize: found 1e3, expected an integer such as 10",
            id="1e3",
        ),
        pytest.param(
            log(bufferSize=2**63), f"bufferSize: found {2**63}, expected an integer such as 10", id="65 bits"
        ),
        pytest.param(log().replace("[]", "NaN"), "rules: found NaN, expected a list", id="no number at all"),
        pytest.param(
            log(bufferSize=True), "bufferSize: found true, expected an integer such as 10", id="a truth value"
        ),
        pytest.param(log(source=5), "source: found 5, expected a text", id="a number for a text"),
        pytest.param(
            log(metricsReporting="true"),
            "metricsReporting: found 'true', expected true or false",
            id="a quoted truth value",
        ),
        pytest.param(
            log(metricsReporting=1), "metricsReporting: found 1, expected true or false", id="1 for true"
        ),
        pytest.param(log(conditions={}), "conditions: found a map, expected a list", id="a map for a list"),
        pytest.param(log("x"), "rules[0]: found 'x', expected a map", id="a text for a map"),  # type: ignore[arg-type]
        pytest.param(log(None), "rules[0]: found nothing, expected a map", id="null in a list"),  # type: ignore[arg-type]
        pytest.param(
            file_log(skipList=["a", 5]),
            "skipList[1]: found 5, expected a text",
            id="a number in a list of texts",
        ),
        pytest.param(
            file_log(pluginConfig={**OF_THE_FILE_LOG, "message": 5}),
            "pluginConfig.message: found 5, expected a text",
            id="a number in the map of a log's plugin",
        ),
        pytest.param(
            plugin(timeout=5), "pluginConfig.timeout: found 5, expected a text", id="seconds as a number"
        ),
        pytest.param(
            plugin(program(args="-x")), "rules[0].args: found '-x', expected a list", id="a text for a list"
        ),
        pytest.param('{"cpu": []}', "cpu: found a list, expected a map", id="a list for a map"),
        pytest.param("[]", "found a list, expected a map", id="a list for the file"),
        pytest.param("5", "found 5, expected a map", id="a number for the file"),
        pytest.param("null", "found nothing, expected a map", id="null for the file"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(text: str, expected: str) -> None:
    assert fault(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            log(bufersize=5), "bufersize: unknown key, which NPD passes over; expected bufferSize,", id="file"
        ),
        pytest.param(log(rule(message="x")), "rules[0].message: unknown key", id="rule"),
        pytest.param(log(rule(args=[])), "rules[0].args: unknown key", id="rule of another kind"),
        pytest.param(
            log(conditions=[{**CONDITION, "default": 1}]),
            "conditions[0].default: unknown key",
            id="condition",
        ),
        pytest.param(plugin(invokeInterval="1s"), "pluginConfig.invokeInterval: unknown key", id="plugins"),
        pytest.param('{"cpu": {"metricConfigs": {}}}', "cpu.metricConfigs: unknown key", id="figures"),
        pytest.param(
            '{"cpu": {"metricsConfigs": {"cpu/load_2m": {}}}}',
            "cpu.metricsConfigs.cpu/load_2m: unknown key",
            id="metric",
        ),
        pytest.param(
            '{"host": {"metricsConfigs": {"host/uptime": {"name": "x"}}}}',
            "host.metricsConfigs.host/uptime.name: unknown key",
            id="key of a metric",
        ),
        pytest.param(
            '{"plugin": "journald", "pluginConfig": {"source": "x", "Source": "y"}}',
            "pluginConfig.Source: unknown key, which NPD passes over; expected source; did you mean 'source'?",
            id="a map's keys have one case",
        ),
        pytest.param(
            log(pluginConfig={"source": "x"}),
            "pluginConfig.source: unknown key, which NPD passes over; expected none",
            id="kmsg has none",
        ),
        pytest.param(log(notes=["x"]), "notes: unknown key", id="what the reader adds is no key"),
        pytest.param(log(buffer_size=1), "buffer_size: unknown key", id="nor is a name of the program"),
        pytest.param(
            log(**{"a\n\x1b[31m": 1}), r"'a\n\x1b[31m': unknown key", id="a key that changes the screen"
        ),
    ],
)
def test_a_key_that_npd_passes_over_is_refused(text: str, expected: str) -> None:
    assert fault(text).startswith(expected)


def test_a_key_that_is_nearly_right_is_told_the_right_one() -> None:
    assert fault(log(rule(patern="x"))).endswith("did you mean 'pattern'?")


def test_all_faults_are_told() -> None:
    text = log(
        rule(type="perm"), rule(pattern="("), {}, bufferSize=-1, lookback="1d", sourc="x", skipList=["x"]
    )
    told = [line.split(": ")[0] for line in faults(text)]
    expected = ["sourc", "lookback", "bufferSize", "rules[0].type", "rules[1].pattern", "rules[2].type"]
    assert told == [*expected, "rules[2].pattern", "skipList"]


def test_a_fault_brings_no_others_with_it() -> None:
    """A timeout that can't be read is no reason to say that a rule's is above it; nor a list that can't be read."""
    assert faults(plugin(program(timeout="1m"), timeout="1")) == [
        "pluginConfig.timeout: found '1', expected a duration of Go, such as 300ms, 30s, 5m or 1.5h"
    ]
    assert fault(plugin(program()).replace("[{", "{", 1).replace("}]", "}", 1)).startswith(
        "conditions: found a map"
    )
    assert fault('{"plugin": "journald", "pluginConfig": []}').startswith("pluginConfig: found a list")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        pytest.param('{"plugin": "kmsg", "SOURCE": "x"}', "x", id="another case"),
        pytest.param('{"PLUGIN": "kmsg", "source": "x"}', "x", id="another case of what tells the kind"),
        pytest.param('{"plugin": "kmsg", "source": "x", "source": "y"}', "y", id="twice"),
        pytest.param(
            '{"plugin": "kmsg", "Source": "x", "source": "y"}', "y", id="twice, the second one exact"
        ),
        pytest.param(
            '{"plugin": "kmsg", "source": "x", "Source": "y"}', "y", id="twice, the first one exact"
        ),
        pytest.param('{"plugin": "kmsg", "source": "x", "source": null}', "x", id="null changes nothing"),
        pytest.param('{"plugin": "kmsg", "source": "x", "plugin": null}', "x", id="null is no other plugin"),
        pytest.param(
            '{"plugin": "kmsg", "source": "\\ud800\\ud83d\\ude00"}', "\ufffd😀", id="half a character"
        ),
        pytest.param('{"plugin": "kmsg", "source": "\x7f\u2028"}', "\x7f\u2028", id="signs that Go takes"),
    ],
)
def test_keys_and_texts_are_read_as_go_reads_them(text: str, source: str) -> None:
    file = parse_npd("f", text)
    assert isinstance(file, SystemLogFile)
    assert file.source == source


def test_a_letter_that_only_looks_alike_in_another_case_is_another_key() -> None:
    assert fault('{"plugin": "kmsg", "\u017fource": "x"}').startswith("\u017fource: unknown key")


def test_two_maps_under_one_key_are_put_together_as_go_does_it() -> None:
    text = '{"plugin": "custom", "pluginConfig": {"timeout": "1s"}, "PluginConfig": {"concurrency": 7}}'
    file = parse_npd("f", text)
    assert isinstance(file, CustomPluginFile)
    assert (file.plugin_config.timeout, file.plugin_config.concurrency) == (1.0, 7)
    assert file.notes == ("pluginConfig: is given more than once; the last one counts",)


def test_what_is_noted_is_noted_once() -> None:
    text = '{"plugin": "kmsg", ' + ", ".join(['"source": "x"'] * 1000) + "}"
    assert notes(text) == ["source: is given more than once; the last one counts"]


def test_each_value_under_a_key_that_comes_twice_must_be_right() -> None:
    assert fault('{"plugin": "kmsg", "bufferSize": "x", "bufferSize": 5}').startswith("bufferSize: found 'x'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"plugin": "kmesg"}', "did you mean 'kmsg'?", id="nearly right"),
        pytest.param('{"plugin": "Kmsg"}', "did you mean 'kmsg'?", id="another case"),
        pytest.param(
            '{"plugin": "healthchecker"}', "expected kmsg, journald, filelog, custom", id="none that there is"
        ),
        pytest.param('{"plugin": ["kmsg"]}', "plugin: found a list, expected kmsg,", id="a list"),
        pytest.param("{}", "is no file of NPD: expected the key plugin, or one of cpu, disk,", id="nothing"),
        pytest.param('{"plugin": null}', "is no file of NPD", id="null"),
        pytest.param(
            '{"rules": [], "source": "x"}', "is no file of NPD: expected the key plugin", id="no plugin"
        ),
        pytest.param('{"invokeInterval": "60s"}', "is no file of NPD", id="nothing to measure"),
        pytest.param('{"exportPeriod": "60s", "apiEndpoint": "x:443"}', "Stackdriver", id="Stackdriver"),
        pytest.param('{"ExportPeriod": "60s"}', "Stackdriver", id="Stackdriver in another case"),
        pytest.param(
            (SHIPPED / "guestosconfig/known-modules.json").read_text(),
            "osFeature.knownModulesConfigPath",
            id="modules",
        ),
    ],
)
def test_a_file_for_none_of_the_three_kinds_is_refused_with_the_reason(text: str, expected: str) -> None:
    assert expected in fault(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            log(rule(type="permanant")),
            "rules[0].type: found 'permanant', which NPD takes for permanent; expected temporary or permanent; "
            "did you mean 'permanent'?",
            id="type",
        ),
        pytest.param(log({"pattern": "x"}), "rules[0].type: is missing", id="no type"),
        pytest.param(log({"type": "temporary"}), "rules[0].pattern: is missing", id="no pattern"),
        pytest.param(
            log(rule(pattern="")), "rules[0].pattern: is empty, which matches every line;", id="empty pattern"
        ),
        pytest.param(
            log(rule(pattern="foo\\")), "rules[0].pattern: RE2 can't take 'foo", id="a backslash at the end"
        ),
        pytest.param(
            log(rule(pattern="(?<=a)b")), "rules[0].pattern: RE2 can't take '(?<=a)b'", id="looking behind"
        ),
        pytest.param(log(rule(pattern=r"(a)\1")), "rules[0].pattern: RE2 can't take", id="looking back"),
        pytest.param(log(rule(pattern="a{1001}")), "rules[0].pattern: RE2 can't take", id="too many"),
        pytest.param(
            log(conditions=[{"reason": "x"}]), "conditions[0].type: is missing", id="a condition of no type"
        ),
        pytest.param(
            log(conditions=[{"type": ""}]), "conditions[0].type: is empty", id="a condition of an empty type"
        ),
        pytest.param(log(bufferSize=-1), "bufferSize: found -1, expected at least 0", id="buffer"),
        pytest.param(log(lookback="5"), "lookback: found '5', expected a duration of Go,", id="lookback"),
        pytest.param(log(delay="-5s"), "delay: found '-5s', expected 0 or more", id="delay"),
        pytest.param(
            log(skipList=["x"]),
            "skipList: NPD honours it with filelog only, not with kmsg;",
            id="skipList",
        ),
        pytest.param(
            log(plugin="journald", pluginConfig={"source": "x"}, skipList=["x"]),
            "skipList: NPD honours it",
            id="skipList of the journal",
        ),
        pytest.param(
            log(plugin="journald"),
            "pluginConfig.source: is missing or empty; journald needs it",
            id="journal",
        ),
        pytest.param(
            log(plugin="journald", pluginConfig={"source": ""}),
            "pluginConfig.source: is missing or empty",
            id="the journal of nobody",
        ),
        pytest.param(
            file_log(logPath=""), "logPath: is missing or empty; filelog needs the file's path", id="no path"
        ),
        *(
            pytest.param(
                file_log(pluginConfig={**OF_THE_FILE_LOG, key: None}),
                f"pluginConfig.{key}: is missing or empty",
                id=key,
            )
            for key in OF_THE_FILE_LOG
        ),
        pytest.param(
            file_log(pluginConfig={**OF_THE_FILE_LOG, "message": "("}),
            "pluginConfig.message: RE2 can't take '('",
            id="message that RE2 can't take",
        ),
        pytest.param(
            plugin(invoke_interval="0s"),
            "pluginConfig.invoke_interval: found '0s', expected more than 0",
            id="0",
        ),
        pytest.param(
            plugin(invoke_interval="-1s"),
            "pluginConfig.invoke_interval: found '-1s', expected more than 0",
            id="below 0",
        ),
        pytest.param(
            plugin(invoke_interval=""),
            "pluginConfig.invoke_interval: found '', expected a duration",
            id="empty interval",
        ),
        pytest.param(
            plugin(timeout="0"), "pluginConfig.timeout: found '0', expected more than 0", id="no time"
        ),
        pytest.param(
            plugin(concurrency=0), "pluginConfig.concurrency: found 0, expected at least 1", id="none at once"
        ),
        pytest.param(
            plugin(max_output_length=-1),
            "pluginConfig.max_output_length: found -1, expected at least 0",
            id="output",
        ),
        pytest.param(
            plugin(program(), program(timeout="6s")),
            "rules[1].timeout: found 6s, expected at most pluginConfig.timeout, 5s",
            id="longer than the file's",
        ),
        pytest.param(
            plugin(program(timeout="61s"), timeout="1m"),
            "rules[0].timeout: found 1m1s, expected at most pluginConfig.timeout, 1m",
            id="longer than the file's, given",
        ),
        pytest.param(
            plugin(program(timeout="x")),
            "rules[0].timeout: found 'x', expected a duration",
            id="rule's timeout",
        ),
        pytest.param(
            plugin(program(), program(invoke_interval="invalid")),
            "rules[1].invoke_interval: found 'invalid'",
            id="rule's interval",
        ),
        pytest.param(
            plugin(program(invoke_interval="0s")),
            "rules[0].invoke_interval: found '0s', expected more than 0",
            id="rule's 0",
        ),
        pytest.param(
            plugin(program(invoke_interval="-5s")),
            "rules[0].invoke_interval: found '-5s'",
            id="rule's below 0",
        ),
        pytest.param(plugin(program(path="")), "rules[0].path: is empty", id="no program"),
        pytest.param(
            plugin(program(condition="Bat")),
            "rules[0].condition: 'Bat' is not in conditions; did you mean 'Bad'?",
            id="a condition without default",
        ),
        pytest.param(
            plugin(program(condition="")), "rules[0].condition: '' is not in conditions", id="no condition"
        ),
        pytest.param(
            '{"cpu": {}, "invokeInterval": "0"}',
            "invokeInterval: found '0', expected more than 0",
            id="figures",
        ),
        pytest.param(
            '{"disk": {"lsblkTimeout": "-1s"}}', "disk.lsblkTimeout: found '-1s', expected more", id="lsblk"
        ),
        pytest.param(
            '{"disk": {"lsblkTimeout": "61s"}}',
            "disk.lsblkTimeout: found 1m1s, expected at most invokeInterval, 1m",
            id="lsblk longer than the interval",
        ),
        pytest.param(
            '{"net": {"excludeInterfaceRegexp": "["}}',
            "net.excludeInterfaceRegexp: RE2 can't take '['",
            id="interfaces",
        ),
    ],
)
def test_what_npd_refuses_or_gets_wrong_is_refused(text: str, expected: str) -> None:
    assert fault(text).startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(plugin(program()), id="a program that is not there"),
        pytest.param(plugin(program(timeout="5s")), id="as long as the file's"),
        pytest.param(plugin(program(type="temporary", condition="")), id="a temporary rule of no condition"),
        pytest.param(plugin(program(), program()), id="two rules for one condition"),
        pytest.param(plugin(max_output_length=0), id="no output"),
        pytest.param(file_log(skipList=["x"]), id="what to skip in a file"),
        pytest.param(log(skipList=[]), id="nothing to skip"),
        pytest.param(
            log(rule(pattern=r"[[:digit:]]+\pN\Qa.b\E(?U)x\x{41}")), id="what only Go's expressions have"
        ),
        pytest.param(log(rule(pattern="a(?i)b")), id="flags in the middle"),
        pytest.param(log(rule(pattern="fatal$")), id="tied to the end twice"),
        pytest.param(log(rule(patternGeneratedMessageSuffix="see the wiki")), id="a suffix"),
        pytest.param(log(rule(pattern="^foo"), bufferSize=1), id="the start of the one line"),
        pytest.param(log(logPath="/dev/kmsg"), id="the kernel's log, named"),
        pytest.param(
            '{"net": {"metricsConfigs": {}, "excludeInterfaceRegexp": ""}}', id="no interface left out"
        ),
    ],
)
def test_what_npd_takes_and_does_is_taken_without_a_word(text: str) -> None:
    assert notes(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            log(rule(pattern="alpha|beta")),
            "rules[0].pattern: only the last branch is tied to the end of the newest line; another matches again with "
            "every new line, as long as bufferSize keeps its own; to tie all of them: (alpha|beta)",
            id="branches",
        ),
        pytest.param(log(rule(pattern="alpha|")), "to tie all of them: (alpha|)", id="an empty branch"),
        pytest.param(
            log(rule(pattern=r"\(a|b\)")), "only the last branch", id="branches between quoted brackets"
        ),
        pytest.param(log(rule(pattern="(?i)a|b")), "only the last branch", id="branches after flags"),
        pytest.param(log(rule(pattern="[(]a|b")), "only the last branch", id="branches after a class"),
        pytest.param(log(rule(pattern=r"\Q(\E|b")), "only the last branch", id="branches after a quotation"),
        pytest.param(
            log(rule(pattern=r"a\$|b")), "only the last branch", id="branches that end in a quoted sign"
        ),
        pytest.param(log(rule(pattern="^foo")), "^ is the start of all 10 lines", id="the start"),
        pytest.param(
            log(rule(pattern="(?i)^foo"), bufferSize=2), "^ is the start of all 2 lines", id="after flags"
        ),
        pytest.param(log(rule(pattern="(^foo)")), "^ is the start of all 10 lines", id="in a group"),
        pytest.param(
            log(rule(pattern=r"\Afoo")), "^ is the start of all 10 lines", id="the start of the text"
        ),
        pytest.param(
            log(rule(pattern=r"a\nb"), bufferSize=1),
            "never matches: it spans 2 lines, and bufferSize keeps 1",
            id="lines",
        ),
        pytest.param(log(rule(pattern="a\nb\nc"), bufferSize=2), "it spans 3 lines", id="lines as they are"),
        pytest.param(
            log(rule(type="permanent", condition="Worse")),
            "rules[0].condition: 'Worse' is not in conditions: NPD does nothing then, here it is set",
            id="unknown condition",
        ),
        pytest.param(
            log(rule(condition="Bad")), "rules[0].condition: has no effect", id="a temporary rule's condition"
        ),
        pytest.param(
            plugin(program(type="temporary")),
            "rules[0].condition: has no effect",
            id="a temporary plugin's condition",
        ),
        pytest.param(
            log(logPath="/var/log/kern.log"), "logPath: has no effect: kmsg is always read from", id="kmsg"
        ),
        pytest.param(
            log(conditions=[{**CONDITION, "status": "True"}]),
            "conditions[0].status: has no effect",
            id="status",
        ),
        pytest.param(
            plugin().replace('"IsGood"', '"IsGood", "transition": "2026-01-01T00:00:00Z"'),
            "conditions[0].transition: has no effect",
            id="transition",
        ),
        pytest.param(
            file_log(logPath="C:\\k\\x.log"), "logPath: 'C:\\\\k\\\\x.log' is a path of Windows", id="Windows"
        ),
        pytest.param(
            plugin(program(path="./x.PS1")), "rules[0].path: './x.PS1' is a path of Windows", id="PowerShell"
        ),
        pytest.param(
            '{"cpu": {"metricsConfigs": {"cpu/load_1m": {}}}}',
            "cpu.metricsConfigs.cpu/load_1m: has no displayName, so it is not exported",
            id="metric without a name",
        ),
    ],
)
def test_what_is_odd_but_works_in_npd_is_noted(text: str, expected: str) -> None:
    (note,) = notes(text)
    assert expected in note


@pytest.mark.parametrize(
    "pattern",
    [
        "(alpha|beta)",
        "(?:a|b)c",
        "[a|b]",
        "[]|]x",
        "[^]|]x",
        "[[:alpha:]|]x",
        r"[\]|]x",
        r"a\|b",
        r"\Qa|b\E",
        "alpha$|beta",
        r"alpha\z|beta",
        "(?m)^foo$",
        "foo^",
        r"[^\n]*x",
        r"(a\n)?b",
        r"(a|b\nc)",
    ],
)
def test_a_pattern_that_does_what_it_looks_like_is_not_noted(pattern: str) -> None:
    assert notes(log(rule(pattern=pattern), bufferSize=1 if "\\n" in pattern else 10)) == []


DURATIONS = {
    "300ms": 0.3,
    "1.5h": 5400,
    "2h45m": 9900,
    "0": 0,
    "-0": 0,
    "1µs": 1e-6,
    "1μs": 1e-6,
    "1us": 1e-6,
    "1ns": 1e-9,
    "-5s": -5,
    "+5s": 5,
    "1.s": 1,
    ".5s": 0.5,
    "1s1s": 2,
    "1m1h": 3660,
    "00005s": 5,
    "2562047h47m": 9223372020,
}
"""As Go 1.25 reads them."""


@pytest.mark.parametrize(("text", "value"), DURATIONS.items())
def test_a_duration_is_what_go_makes_of_it(text: str, value: float) -> None:
    assert parse_go_duration(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "5",
            "1d",
            "s",
            ".s",
            "1.5",
            " 5s",
            "5s ",
            "5 s",
            "1h-5m",
            "1e3s",
            "5S",
            "٣s",
            "5s\n",
            "--5s",
            "5s0",
        ],
        *["1µ", "-", "3000000h", "2562047h47m17s", "9" * 400 + "h", "9" * 1_000_000, "1s" * 500_000 + "x"],
    ],
    ids=lambda text: text[:20],
)
def test_what_go_takes_for_no_duration_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration of Go") as refused:
        parse_go_duration(text)
    assert repr(text)[:50] in str(refused.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (30, "30s"),
        (300, "5m"),
        (5400, "1h30m"),
        (86_400, "1d"),
        (90_061.5, "1d1h1m1s500ms"),
        (1e-6, "0.001ms"),
        (1e-9, "0.000001ms"),
        (1.1, "1s100ms"),
        (2**63 / 1e9 - 1e-3, None),
    ],
)
def test_a_duration_is_written_as_ours(value: float, text: str | None) -> None:
    assert ours(value) == (text or ours(value))
    assert seconds(ours(value)) == pytest.approx(value, rel=1e-12)


def test_every_duration_can_be_written_as_ours() -> None:
    chance = random.Random(7)
    for _ in range(2000):
        value = 10 ** chance.uniform(-9, 9.9)
        assert seconds(ours(value)) == pytest.approx(value, abs=1e-9, rel=1e-12)


def test_a_duration_below_0_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="-5 s is below 0"):
        ours(-5.0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "1:1: is not JSON: it is empty", id="empty"),
        pytest.param(b"\x7fELF\x02\x01\x01\x00\xc0", "1: is not UTF-8 (byte 0xc0)", id="a program"),
        pytest.param(log().encode("utf-16"), "1: is not UTF-8 (byte 0xff)", id="UTF-16"),
        pytest.param(log().encode("utf-16-le"), "1:2: is not JSON", id="UTF-16 without a mark"),
        pytest.param(
            b"\xef\xbb\xbf" + log().encode(), "1:1: is not JSON: a byte order mark", id="byte order mark"
        ),
        pytest.param(b'{"plugin": "kmsg", "source": "\xe9"}', "1: is not UTF-8 (byte 0xe9)", id="Latin-1"),
    ],
)
def test_bytes_that_are_no_json_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as refused:
        read_npd(file)
    assert refused.value.faults[0].startswith(f"{file}:{expected}")


def sparse(path: Path) -> None:
    """100 MB of nothing."""
    with path.open("wb") as file:
        file.truncate(100_000_000)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(sparse, "has more than 1 MiB", id="100 MB"),
        pytest.param(os.mkfifo, "is no regular file", id="a pipe that nobody writes to"),
        pytest.param(Path.mkdir, "is no regular file", id="a folder"),
        pytest.param(str, "No such file or directory", id="nothing"),
    ],
)
def test_what_is_no_file_of_bearable_size_is_refused(
    tmp_path: Path, make: Callable[[Path], object], expected: str
) -> None:
    make(tmp_path / "f.json")
    with pytest.raises(ConfigurationError) as refused:
        read_npd(tmp_path / "f.json")
    assert expected in refused.value.faults[0]


@pytest.mark.parametrize("unit", ["[", "[[],", '{"a":', '{"plugin":"kmsg","rules":['])
def test_nesting_is_refused_however_deep_it_is(tmp_path: Path, unit: str) -> None:
    """In a process of its own: what goes wrong here is the end of the interpreter, not an exception."""
    text = (unit * 1_000_000)[: 1 << 20]
    code = "import sys; from nodedoctor.npd.files import parse_npd; parse_npd('f', sys.stdin.read())"
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "nodedoctor.errors.ConfigurationError: f: is nested hundreds of levels deep; expected 5 at most"
    )


def test_nesting_that_the_parser_bears_is_a_value_of_another_type() -> None:
    assert (
        fault('{"plugin": "kmsg", "source": ' + "[" * 200 + "]" * 200 + "}")
        == "source: found a list, expected a text"
    )


def many(unit: Callable[[int], str], number: int) -> str:
    """So many of these members in one file for the kernel's log."""
    return '{"plugin": "kmsg", ' + ", ".join(unit(n) for n in range(number)) + "}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(many(lambda n: f'"k{n}": 1', 40_000), id="keys"),
        pytest.param(many(lambda n: f'"source": {n}', 40_000), id="one key"),
        pytest.param(log(*[{}] * 40_000), id="rules"),
        pytest.param(log(rule(args=[]) | {f"k{n}": 1 for n in range(40_000)}), id="keys of a rule"),
        pytest.param(many(lambda n: f'"pluginConfig": {{"k{n}": "1"}}', 20_000), id="maps to put together"),
        pytest.param(plugin(*[program(condition=f"C{n}") for n in range(5000)]), id="conditions"),
    ],
)
def test_many_faults_are_told_up_to_a_hundred(text: str) -> None:
    told = faults(text)
    assert (len(told), told[-1]) == (101, "has more faults than these 100")


def test_more_values_than_anybody_configures_are_refused() -> None:
    assert fault(log(skipList=["x"] * 60_000)) == "holds more than 50000 values"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(log(source=["x" * 500_000]), id="a list"),
        pytest.param(log(rule(pattern="(" * 100_000)), id="a pattern"),
        pytest.param(log(rule(pattern="[\x1b\n")), id="a pattern that changes the screen"),
        pytest.param(log(rule(type="x" * 500_000)), id="a type"),
        pytest.param(log(**{"k" * 500_000: 1}), id="a key"),
        pytest.param(log(lookback="9" * 500_000), id="a duration"),
        pytest.param('{"plugin": "' + "k" * 500_000 + '"}', id="a plugin"),
    ],
)
def test_a_fault_is_one_line_that_can_be_read(text: str) -> None:
    told = fault(text)
    assert told.isprintable()
    assert len(told) < 900


def test_a_file_is_told_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "kernel-monitor.json"
    file.write_text(log(rule(pattern="(")))
    with pytest.raises(ConfigurationError, match="RE2") as refused:
        read_npd(file)
    assert str(refused.value).startswith(f"{file}: rules[0].pattern: RE2 can't take '('")

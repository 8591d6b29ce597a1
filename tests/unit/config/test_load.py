"""Loading: what is refused, with file, line, path and remedy, and what a valid file becomes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from nodedoctor.cli import cli
from nodedoctor.cli.config import REDACTED, redacted
from nodedoctor.config.layers import dotted
from nodedoctor.config.load import Loaded, default_files, load, node_name
from nodedoctor.config.model import Config
from nodedoctor.config.rules import PERIODS
from nodedoctor.config.text import PathOf
from nodedoctor.duration import PATTERN
from nodedoctor.errors import ConfigurationError
from nodedoctor.roster import roster_of

EXAMPLE = Path(__file__).with_name("architecture-example.yaml")
NOOP = "monitors:\n  - name: one\n    type: noop\n"


def run_command(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`node-doctor` with these arguments, as a person calls it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NODE_DOCTOR_")}
    command = [sys.executable, "-m", "nodedoctor", *map(str, arguments)]
    return subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "settings:\n  dryRunMod: true\n",
            "c.yaml:4: settings.dryRunMod: unknown key; .*; did you mean 'dryRunMode'\\?",
            id="unknown key of the agent",
        ),
        pytest.param(
            NOOP + "    intervall: 5s\n",
            "c.yaml:6: monitors\\[0\\].intervall: unknown key; .*; did you mean 'interval'\\?",
            id="unknown key of a monitor",
        ),
        pytest.param(
            "monitors:\n  - name: cpu\n    type: cpu-health-check\n    config:\n      warningTreshold: 5\n",
            "c.yaml:7: monitors\\[0\\].config.warningTreshold: unknown key; .*; did you mean 'warningThreshold'\\?",
            id="unknown option",
        ),
        pytest.param(
            "settings:\n  dryRunMode: maybe\n",
            "c.yaml:4: settings.dryRunMode: found 'maybe', allowed: true or false",
            id="a text for a truth value",
        ),
        pytest.param(
            "monitors: 5\n", "c.yaml:3: monitors: found 5, allowed: a list", id="a number for a list"
        ),
        pytest.param(
            "settings: []\n", "c.yaml:3: settings: found a list, allowed: a map", id="a list for a map"
        ),
        pytest.param(
            "settings:\n", "c.yaml:3: settings: found nothing, allowed: a map", id="nothing for a map"
        ),
        pytest.param(
            "settings: {updateInterval: 10}\n",
            "settings.updateInterval: found 10, allowed: a duration",
            id="no unit",
        ),
        pytest.param(
            "settings: {updateInterval: 10sec}\n",
            "settings.updateInterval: found '10sec', allowed: a duration such as",
            id="a unit that there is not",
        ),
        pytest.param(
            NOOP + "    interval: fast\n",
            "c.yaml:6: monitors\\[0\\].interval: found 'fast', allowed: .*duration",
            id="no duration at all",
        ),
        pytest.param(
            NOOP + "    interval: 0s\n", "found '0s', allowed: more than 0", id="an interval of nothing"
        ),
        pytest.param(
            NOOP + "    timeout: 0ms\n", "found '0ms', allowed: more than 0", id="a timeout of nothing"
        ),
        pytest.param(
            NOOP + "    interval: 5s\n    timeout: 5s\n",
            "c.yaml:7: monitors\\[0\\].timeout: found '5s', must be below the interval \\(5s\\)",
            id="a timeout as long as the interval",
        ),
        pytest.param(
            NOOP + "    failureThreshold: 0\n",
            "monitors\\[0\\].failureThreshold: found 0, allowed: a whole number from 1 to 1000",
            id="a count of nothing",
        ),
        pytest.param(
            "monitors: [{name: cpu, type: cpu-health-check, config: {criticalThreshold: 101}}]\n",
            "monitors\\[0\\].config.criticalThreshold: found 101, allowed: a number from 0 to 100",
            id="more than 100 percent",
        ),
        pytest.param(
            "monitors: [{name: cpu, type: cpu-health-check, config: {warningThreshold: -1}}]\n",
            "warningThreshold: found -1, allowed: a number from 0 to 100",
            id="less than nothing",
        ),
        pytest.param(
            "monitors: [{name: cpu, type: cpu-health-check, config: {warningThreshold: 98}}]\n",
            "config.warningThreshold: found 98, must be below criticalThreshold \\(98\\)",
            id="a warning that does not come first",
        ),
        pytest.param(
            "monitors:\n  - name: d\n    type: disk-health-check\n    config:\n      paths:\n"
            "        - path: /\n        - path: var\n",
            "c.yaml:9: monitors\\[0\\].config.paths\\[1\\].path: found 'var', allowed: an absolute path",
            id="the line of an option in a list",
        ),
        pytest.param(
            NOOP + "  - name: one\n    type: noop\n",
            "c.yaml:6: monitors\\[1\\].name: there is another monitor 'one'",
            id="a name twice",
        ),
        pytest.param(
            "monitors: [{name: a, type: disk-health-check}, {name: b, type: disk-health-check}]\n",
            "monitors\\[1\\]: 'b' and 'a' both write the condition DiskSpaceLow",
            id="two writers of one condition",
        ),
        pytest.param(
            "monitors:\n  - name: cpu\n    type: cpu-healthcheck\n",
            "c.yaml:5: monitors\\[0\\].type: unknown monitor type 'cpu-healthcheck'; .*"
            "did you mean 'cpu-health-check'\\?",
            id="a type that there is not",
        ),
        pytest.param(
            "monitors: [{type: noop}]\n", "monitors\\[0\\]: the key 'name' is missing", id="no name"
        ),
        pytest.param("monitors: [{name: a}]\n", "monitors\\[0\\]: the key 'type' is missing", id="no type"),
        pytest.param(
            "monitors: [{name: A_b, type: noop}]\n",
            "monitors\\[0\\].name: found 'A_b', allowed: a DNS label",
            id="a name that is no label",
        ),
        pytest.param(
            "monitors: [{name: node-doctor, type: noop}]\n",
            "this name is the agent's own",
            id="the agent's name",
        ),
        pytest.param(
            "monitors: [{name: a, type: noop, dependsOn: [b]}, {name: b, type: noop, dependsOn: [c]},"
            " {name: c, type: noop, dependsOn: [a]}]\n",
            "monitors\\[0\\].dependsOn: goes round in a circle: a -> b -> c -> a",
            id="a circle of three",
        ),
        pytest.param(
            "monitors: [{name: a, type: noop, dependsOn: [a]}]\n",
            "goes round in a circle: a -> a",
            id="a circle of one",
        ),
        pytest.param(
            "monitors: [{name: disk, type: noop, dependsOn: [dsik]}, {name: other, type: noop}]\n",
            "monitors\\[0\\].dependsOn\\[0\\]: there is no monitor 'dsik'; did you mean 'disk'",
            id="an unknown dependency",
        ),
        pytest.param(
            "monitors: [{name: a, type: noop, dependsOn: [b]}, {name: b, type: noop, enabled: false}]\n",
            "monitors\\[0\\].dependsOn\\[0\\]: the monitor 'b' is disabled",
            id="a disabled dependency",
        ),
        pytest.param(
            "monitors: [{name: a, type: http-health-check, config: {url: 'http://x/', condition: Ready}}]\n",
            "the condition Ready is the kubelet's; give it another name",
            id="the kubelet's condition",
        ),
        pytest.param(
            "monitors: [{name: a, type: custom-plugin, config: {path: /x, condition: MonitorHung}}]\n",
            "the condition MonitorHung is the agent's own",
            id="the agent's condition",
        ),
        pytest.param(
            "monitors: [{name: a, type: http-health-check, config: {url: 'ftp://x/'}}]\n",
            "config.url: found 'ftp://x/', allowed: http://",
            id="an address of another kind",
        ),
        pytest.param(
            "monitors: [{name: a, type: http-health-check, config: {url: 'http://u:p@x/'}}]\n",
            "config.url: holds credentials",
            id="an address with credentials",
        ),
        pytest.param(
            "exporters: {http: {hostPort: 65536}}\n",
            "exporters.http.hostPort: found 65536, allowed: .*65535",
            id="port",
        ),
        pytest.param(
            "exporters: {http: {hostPort: 9100}}\n",
            "9100 is exporters.http.hostPort already",
            id="the same port twice",
        ),
        pytest.param(
            "exporters: {http: {tlsEnabled: true}}\n",
            "needs tlsCertFile and tlsKeyFile",
            id="TLS without files",
        ),
        pytest.param(
            "exporters: {plugins: {kafka: {}}}\n",
            "exporters.plugins.kafka: ",
            id="an exporter that there is not",
        ),
        pytest.param(
            "exporters: {http: {endpoints: [{path: /x, handler: live}]}}\n",
            "endpoints\\[0\\].handler: found 'live', allowed: .*liveness",
            id="a handler that there is not",
        ),
        pytest.param(
            "monitors: [5]\n", "monitors\\[0\\]: found 5, allowed: a map", id="a monitor that is a number"
        ),
        pytest.param(
            "monitors: [{name: a, type: noop, config: 5}]\n",
            "monitors\\[0\\].config: found 5, allowed: a map",
            id="options",
        ),
    ],
)
def test_a_fault_is_told_with_its_place_and_what_is_allowed(
    faults: Callable[..., list[str]], text: str, expected: str
) -> None:
    found = "\n".join(faults(text))
    assert re.search(expected, found), found


def test_one_fault_is_told_in_one_line(faults: Callable[..., list[str]]) -> None:
    assert faults(NOOP + "    interval: 5s\n    timeout: 6s\n") == [
        "c.yaml:7: monitors[0].timeout: found '6s', must be below the interval (5s)"
    ]


def test_all_faults_are_told_at_once(faults: Callable[..., list[str]]) -> None:
    found = faults(
        "settings: {dryRunMode: 1, nodeName: '${NOWHERE}'}\n"
        "monitors:\n"
        "  - {name: a, type: nope}\n"
        "  - {name: b, type: cpu-health-check, config: {warningThreshold: 99}}\n"
        "  - {name: b, type: noop, interval: x}\n"
        "  - {name: c, type: noop, dependsOn: [d]}\n"
        "exporters: {http: {hostPort: -1}}\n",
        "settings.nothing=1",
        NODE_DOCTOR_NONSENSE="1",
    )
    parts = [
        "settings.dryRunMode",
        "NOWHERE",
        "monitors[0].type",
        "monitors[1].config.warningThreshold",
        "monitors[2].interval",
        "monitors[3].dependsOn[0]",
        "exporters.http.hostPort",
        "--set settings.nothing",
        "environment NODE_DOCTOR_NONSENSE",
    ]
    assert [part for part in parts if not any(part in fault for fault in found)] == []


def test_no_fault_is_told_twice(faults: Callable[..., list[str]]) -> None:
    found = faults("monitors: [{name: a, type: nope}, {name: b, type: disk-health-check, config: {x: 1}}]\n")
    assert len(found) == len(set(found)) == 2


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        pytest.param("kind: Other\n", "kind: found 'Other', allowed: NodeDoctorConfig", id="another kind"),
        pytest.param(
            "apiVersion: node-doctor.io/v9\n",
            "apiVersion: found 'node-doctor.io/v9', allowed: node-doctor.io/v1alpha1; did you mean",
            id="another version",
        ),
    ],
)
def test_what_was_written_for_another_program_is_refused(tmp_path: Path, text: str, missing: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load([file], (), {})
    assert missing in str(caught.value)


def test_two_files_with_faults_are_both_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ConfigurationError) as caught:
        load([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["settings.x=1"], {})
    assert len(caught.value.faults) == 3


def test_a_file_that_changes_nothing_leaves_the_default_as_it_is(written: Callable[..., Path]) -> None:
    config = load([written("")], (), {}).config
    roster = roster_of(config, "node", {})
    assert {spec.name for spec in roster.monitors} == {"cpu", "memory", "pressure", "disk", "kernel-log"}
    assert {spec.name for spec in roster.exporters} == {"http", "prometheus"}
    assert list(roster.inactive) == ["exporters.kubernetes"]


@pytest.mark.parametrize(
    ("text", "environment", "runs"),
    [
        ("", {}, False),
        ("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ("", {"KUBECONFIG": "/k"}, True),
        ("settings: {kubeconfig: /k}\n", {}, True),
        ("exporters: {kubernetes: {enabled: true}}\n", {}, True),
        ("exporters: {kubernetes: {enabled: false}}\n", {"KUBECONFIG": "/k"}, False),
    ],
)
def test_the_kubernetes_exporter_runs_where_there_are_credentials(
    loaded: Callable[..., Loaded], text: str, environment: dict[str, str], runs: bool
) -> None:
    roster = roster_of(loaded(f"{text}monitors: []\n").config, "node", environment)
    assert ("kubernetes" in {spec.name for spec in roster.exporters}) is runs
    assert ("exporters.kubernetes" in roster.inactive) is (not text and not environment)


def test_a_disabled_monitor_and_a_disabled_exporter_stay_out_of_the_roster(
    loaded: Callable[..., Loaded],
) -> None:
    text = NOOP + "  - {name: two, type: noop, enabled: false}\nexporters: {prometheus: {enabled: false}}\n"
    roster = roster_of(loaded(text).config, "node", {})
    assert [spec.name for spec in roster.monitors] == ["one"]
    assert [spec.name for spec in roster.exporters] == ["http"]


def test_a_disabled_monitor_may_name_the_condition_of_another(loaded: Callable[..., Loaded]) -> None:
    loaded(
        "monitors: [{name: a, type: disk-health-check}, {name: b, type: disk-health-check, enabled: false}]\n"
    )


def test_a_monitor_gets_interval_and_timeout_of_its_type_unless_it_names_its_own(
    loaded: Callable[..., Loaded],
) -> None:
    text = (
        "monitors:\n  - {name: a, type: disk-health-check}\n"
        "  - {name: b, type: noop, interval: 1m30s, timeout: 250ms}\n  - {name: c, type: pressure-health-check,"
        " interval: 1s}\n"
    )
    one, two, three = roster_of(loaded(text).config, "node").monitors
    assert (one.interval, one.timeout) == (60.0, 10.0)
    assert (two.interval, two.timeout) == (90.0, 0.25)
    assert three.timeout < three.interval == 1.0


def test_whole_numbers_do_where_fractions_are_taken(loaded: Callable[..., Loaded]) -> None:
    text = "monitors: [{name: a, type: cpu-health-check, config: {warningThreshold: 50, criticalThreshold: 60.5}}]\n"
    options: Any = roster_of(loaded(text).config, "node").monitors[0].options
    assert (options.warning_threshold, options.critical_threshold) == (50, 60.5)


def test_dependencies_that_form_no_circle_are_taken(loaded: Callable[..., Loaded]) -> None:
    text = (
        "monitors: [{name: a, type: noop, dependsOn: [b, c]}, {name: b, type: noop, dependsOn: [d]},"
        " {name: c, type: noop, dependsOn: [d]}, {name: d, type: noop}]\n"
    )
    assert [spec.depends_on for spec in roster_of(loaded(text).config, "n").monitors] == [
        ("b", "c"),
        ("d",),
        ("d",),
        (),
    ]


def test_the_example_of_the_architecture_is_valid_and_says_what_is_not_active() -> None:
    config = load([EXAMPLE], (), {}).config
    assert [path for path, _ in config.inactive()] == [
        "monitors[0].remediation",
        "monitors[1].remediation",
    ]
    roster = roster_of(config, "node")
    assert [spec.name for spec in roster.monitors] == ["kubelet-health", "disk-space"]
    assert config.exporters.http.endpoints[0].handler == "overall-health"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        pytest.param("settings: {nodeName: a}\n", {"NODE_NAME": "b"}, "a", id="the setting first"),
        pytest.param("", {"NODE_NAME": "b"}, "b", id="then the variable"),
        pytest.param(
            "settings: {nodeName: '${NODE_NAME}'}\n", {"NODE_NAME": "b"}, "b", id="the variable by name"
        ),
        pytest.param("settings: {nodeName: '${NODE_NAME}'}\n", {}, os.uname().nodename, id="the host's"),
    ],
)
def test_the_node_has_a_name_in_any_case(
    loaded: Callable[..., Loaded], text: str, environ: dict[str, str], expected: str
) -> None:
    assert node_name(loaded(text, **environ).config, environ) == expected


def test_the_environment_names_files_in_their_order() -> None:
    assert default_files({"NODE_DOCTOR_CONFIG": "/a:/b"}) == [Path("/a"), Path("/b")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"password": "x"}, {"password": REDACTED}, id="a password"),
        pytest.param(
            {"headers": {"Authorization": "Bearer x"}}, {"headers": {"Authorization": REDACTED}}, id="header"
        ),
        pytest.param(
            {"API_KEY": "x", "apiKey": "y"}, {"API_KEY": REDACTED, "apiKey": REDACTED}, id="keys of an API"
        ),
        pytest.param({"tokens": ["x", "y"]}, {"tokens": [REDACTED, REDACTED]}, id="a list"),
        pytest.param([{"secret": "x"}], [{"secret": REDACTED}], id="in a list"),
        pytest.param({"secret": ""}, {"secret": ""}, id="an empty one shows that it is empty"),
        pytest.param({"bearerTokenFile": "/x"}, {"bearerTokenFile": "/x"}, id="a file's name is none"),
        pytest.param({"url": "http://u:p@h/x"}, {"url": f"http://{REDACTED}@h/x"}, id="in an address"),
        pytest.param({"mail": "a@b"}, {"mail": "a@b"}, id="no address"),
        pytest.param(
            {"name": "x", "port": 1, "on": True}, {"name": "x", "port": 1, "on": True}, id="all else"
        ),
    ],
)
def test_secrets_are_not_shown(value: object, expected: object) -> None:
    assert redacted(value) == expected


def test_a_secret_in_the_configuration_does_not_come_out_of_show(written: Callable[..., Path]) -> None:
    file = written(
        "monitors:\n  - name: a\n    type: http-health-check\n    config:\n      url: http://h/\n"
        "      headers: {Authorization: Bearer tiger}\n"
    )
    for more in ([], ["--origin"]):
        result = CliRunner().invoke(cli, ["config", "show", "--config", str(file), *more])
        assert result.exit_code == 0
        assert "tiger" not in result.output
        assert REDACTED in result.output


def test_what_show_prints_can_be_loaded_and_is_the_same(written: Callable[..., Path], tmp_path: Path) -> None:
    file = written(NOOP)
    shown = CliRunner().invoke(cli, ["config", "show", "--config", str(file)])
    again = tmp_path / "again.yaml"
    again.write_text(shown.output)
    assert load([again], (), {}).config == load([file], (), {}).config


def test_the_origin_of_each_value_is_told(written: Callable[..., Path]) -> None:
    file = written("settings:\n  updateInterval: 5s\n" + NOOP)
    arguments = ["config", "show", "--origin", "--config", str(file), "--set", "metadata.name=x"]
    result = CliRunner().invoke(cli, arguments, env={"NODE_DOCTOR_SETTINGS__DRYRUNMODE": "true"})
    lines = result.output.splitlines()
    assert f"settings.updateInterval: 5s  # {file}:4" in lines
    assert f"monitors[0].name: one  # {file}:6" in lines
    assert "metadata.name: x  # --set metadata.name" in lines
    assert "settings.dryRunMode: true  # environment NODE_DOCTOR_SETTINGS__DRYRUNMODE" in lines
    assert "settings.enableRemediation: true  # built-in default" in lines
    assert [line for line in lines if line.startswith("exporters.http.hostPort: 8080  # embedded default:")]


def test_validate_accepts_a_good_file_and_says_what_runs(written: Callable[..., Path]) -> None:
    done = run_command("validate", written(NOOP))
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid; 1 monitors: one" in done.stdout


def test_validate_tells_what_is_not_active() -> None:
    done = run_command("validate", EXAMPLE)
    assert done.returncode == 0
    assert "monitors[0].remediation: not active: this version repairs nothing" in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("settings: {x: 1}\n", id="a fault"),
        pytest.param("a: ]\n", id="no YAML"),
        pytest.param("monitors: [{name: a, type: nope}]\n", id="an unknown type"),
    ],
)
@pytest.mark.parametrize(
    "command", [["validate"], ["config", "show", "--config"], ["run", "--config"]], ids=str
)
def test_a_bad_file_ends_every_command_with_2_and_the_faults_alone(
    written: Callable[..., Path], command: list[str], text: str
) -> None:
    file = written(text)
    done = run_command(*command, file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{file}:3")
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    done = run_command("validate", tmp_path / "none.yaml")
    assert (done.returncode, done.stderr) == (2, f"{tmp_path}/none.yaml: No such file or directory\n")


def test_json_is_a_configuration_too(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    head = {"apiVersion": "node-doctor.io/v1alpha1", "kind": "NodeDoctorConfig"}
    file.write_text(json.dumps({**head, "metadata": {"name": "ä"}, "monitors": []}, indent="\t"))
    config = load([file], (), {}).config
    assert (config.metadata.name, config.monitors) == ("ä", ())


@pytest.mark.parametrize("name", ["1234", "true", "1e3"])
def test_a_node_may_have_a_number_for_a_name(name: str, loaded: Callable[..., Loaded]) -> None:
    assert loaded("settings:\n  nodeName: ${NODE_NAME}\n", NODE_NAME=name).config.settings.node_name == name


def test_a_variable_that_is_the_whole_value_is_what_is_wanted_there(loaded: Callable[..., Loaded]) -> None:
    text = (
        "settings: {dryRunMode: '${DRY}'}\n"
        "monitors: [{name: m, type: memory-health-check, config: {swapThreshold: '${SWAP}'}}]\n"
    )
    config = loaded(text, DRY="true", SWAP="42").config
    assert config.settings.dry_run_mode is True
    assert config.monitors[0].config == {"swapThreshold": 42}


@pytest.mark.parametrize(
    ("monitor", "told"),
    [
        pytest.param('name: "a\\n", type: noop', "a DNS label", id="a name with a newline"),
        pytest.param('name: a, type: noop, interval: "5s\\n"', "a duration", id="a duration with a newline"),
        pytest.param(
            "name: a, type: noop, interval: 99999999999s", "a duration", id="a duration without end"
        ),
        pytest.param("name: a, type: noop, failureThreshold: .nan", "a whole number", id="no number"),
        pytest.param(
            "name: a, type: noop, remediation: {cooldown: x, bad: 1}", "remediation.cooldown", id="inside"
        ),
        pytest.param("name: a, type: http-health-check, config: {url: 'http://h:99999/'}", "Port", id="port"),
        pytest.param("name: a, type: http-health-check, config: {url: 'http://[::1'}", "url", id="address"),
        pytest.param("name: a, type: http-health-check, config: {url: 'http://a..b/'}", "url", id="host"),
        pytest.param("name: a, type: http-health-check, config: {url: 'http://h/ä'}", "%XX", id="path"),
        pytest.param(
            'name: a, type: http-health-check, config: {url: "http://h/", headers: {a: "b\\r\\nc"}}',
            "headers.a",
            id="header",
        ),
        pytest.param(
            "name: a, type: http-health-check, config: {url: 'http://h/', expectedStatusCode: []}",
            "is empty",
            id="no code",
        ),
        pytest.param(
            "name: a, type: custom-plugin, config: {path: /x, pluginTimeout: 0s}", "more than 0", id="no time"
        ),
        pytest.param('name: a, type: custom-plugin, config: {path: /x, args: ["\\0"]}', "a NUL", id="NUL"),
        pytest.param(
            "name: a, type: log-pattern, config: {ruleSets: [kernel, kernel]}", "twice", id="set twice"
        ),
        pytest.param(
            "name: a, type: log-pattern, config: {ruleSets: [kernel], rules: [{name: oom-kill, pattern: x}]}",
            "already",
            id="a built-in rule's name",
        ),
        pytest.param(
            "name: a, type: log-pattern, config: {rules: [{name: x, pattern: ''}]}",
            "not empty",
            id="no pattern",
        ),
    ],
)
def test_what_no_check_could_work_with_is_refused(
    monitor: str, told: str, loaded: Callable[..., Loaded]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loaded(f"monitors:\n  - {{{monitor}}}\n")
    assert told in str(refused.value)


@pytest.mark.parametrize("path", PERIODS, ids=dotted)
def test_a_period_of_no_time_is_refused(path: PathOf, faults: Callable[..., list[str]]) -> None:
    (fault,) = faults("", f"{dotted(path)}=0s")
    assert fault == f"--set {dotted(path)}: {dotted(path)}: found '0s', allowed: more than 0"


def test_every_period_of_the_configuration_must_take_time() -> None:
    def durations(kind: type[msgspec.Struct], path: PathOf = ()) -> Iterator[PathOf]:
        for field in msgspec.structs.fields(kind):
            here = (*path, field.encode_name)
            if isinstance(field.default, msgspec.Struct):
                yield from durations(type(field.default), here)
            elif isinstance(field.default, str) and re.match(PATTERN, field.default):
                yield here

    assert set(PERIODS) == set(durations(Config)) - {("remediation", "cooldownPeriod")}


@pytest.mark.parametrize("key", ["timeout", "verifyWithin"])
def test_a_repair_that_may_take_no_time_is_refused(key: str, faults: Callable[..., list[str]]) -> None:
    (fault,) = faults(f"monitors:\n- {{name: a, type: noop, remediation: {{{key}: 0s}}}}\n")
    assert fault == f"c.yaml:4: monitors[0].remediation.{key}: found '0s', allowed: more than 0"


def test_a_monitor_with_a_fault_is_still_known_to_the_others(faults: Callable[..., list[str]]) -> None:
    found = faults(
        "monitors:\n"
        "- {name: a, type: noop, interval: bad}\n"
        "- {name: b, type: noop, dependsOn: [a]}\n"
        "- {name: a, type: noop}\n"
        "- {name: c, type: cpu-health-check, typo: 1}\n"
        "- {name: d, type: cpu-health-check, timeout: []}\n"
    )
    places = [fault.split(": ")[1] for fault in found]
    assert places[:3] == ["monitors[0].interval", "monitors[3].typo", "monitors[4].timeout"]
    assert "monitors[2].name" in places[3:]
    assert any("'d' and 'c' both write" in fault for fault in found)
    assert not any("there is no monitor" in fault for fault in found)


@pytest.mark.parametrize("name", ["http", "prometheus"])
def test_an_exporter_that_is_built_in_is_no_plugin(name: str, faults: Callable[..., list[str]]) -> None:
    (fault,) = faults(f"exporters: {{plugins: {{{name}: {{}}}}}}\n")
    assert f"exporters.plugins.{name}: {name} is built in" in fault


def test_the_file_of_the_system_is_read_if_there_is_one(tmp_path: Path) -> None:
    assert default_files({}, tmp_path / "c.yaml") == []
    assert default_files({}, tmp_path / "folder" / "c.yaml") == []
    (tmp_path / "c.yaml").touch()
    assert default_files({}, tmp_path / "c.yaml") == [tmp_path / "c.yaml"]


def test_a_file_of_the_system_that_can_not_be_looked_at_is_told_and_not_passed_over(tmp_path: Path) -> None:
    """As another user than root, behind a closed folder: it ended with a traceback."""
    (tmp_path / "a").symlink_to("a")
    file = tmp_path / "a" / "c.yaml"
    assert default_files({}, file) == [file]
    with pytest.raises(ConfigurationError, match="symbolic links"):
        load([file], (), {})

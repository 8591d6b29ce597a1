"""Layers: which one wins, how variables are filled in, and what environment and flags may name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nodedoctor.config.load import Loaded, load

NOOP = "monitors:\n  - {name: one, type: noop}\n"


def test_each_layer_wins_over_those_before_it(written: Callable[..., Path]) -> None:
    first = written("settings: {updateInterval: 2s}\nmetadata: {name: first}\n", "a.yaml")
    second = written("settings: {updateInterval: 3s}\n", "b.yaml")
    environ = {"NODE_DOCTOR_SETTINGS__UPDATEINTERVAL": "4s"}
    flag = "settings.updateInterval=5s"
    layers: list[tuple[list[Path], list[str], dict[str, str]]] = [
        ([first], [], {}),
        ([first, second], [], {}),
        ([first, second], [], environ),
        ([first, second], [flag], environ),
    ]
    configs = [load(*layer).config for layer in layers]
    assert [config.settings.update_interval for config in configs] == ["2s", "3s", "4s", "5s"]
    assert {config.metadata.name for config in configs} == {"first"}


def test_of_two_flags_the_later_wins(loaded: Callable[..., Loaded]) -> None:
    assert loaded("", "metadata.name=a", "metadata.name=b").config.metadata.name == "b"


def test_the_monitors_of_a_file_replace_those_of_the_default(loaded: Callable[..., Loaded]) -> None:
    assert [entry.name for entry in loaded(NOOP).config.monitors] == ["one"]


def test_a_file_without_monitors_keeps_those_of_the_default(loaded: Callable[..., Loaded]) -> None:
    assert len(loaded("metadata: {name: x}\n").config.monitors) > 1


def test_an_empty_list_of_monitors_is_one_too(loaded: Callable[..., Loaded]) -> None:
    assert loaded("monitors: []\n").config.monitors == ()


def test_maps_are_merged(loaded: Callable[..., Loaded]) -> None:
    http = loaded("exporters: {http: {bindAddress: 127.0.0.1}}\n").config.exporters.http
    assert (http.bind_address, http.host_port, http.enabled) == ("127.0.0.1", 8080, True)


def test_the_origin_of_what_was_replaced_is_forgotten(loaded: Callable[..., Loaded], tmp_path: Path) -> None:
    origins = loaded(NOOP).origins
    assert {origin for path, origin in origins.items() if path.startswith("monitors")} == {
        f"{tmp_path}/c.yaml:3",
        f"{tmp_path}/c.yaml:4",
    }
    assert "monitors[1].name" not in origins


@pytest.mark.parametrize(
    ("value", "environ", "expected"),
    [
        pytest.param("${A}", {"A": "x"}, "x", id="set"),
        pytest.param("a-${A}-${B}", {"A": "x", "B": "y"}, "a-x-y", id="two in a text"),
        pytest.param("${A:-d}", {}, "d", id="the default"),
        pytest.param("${A:-d}", {"A": "x"}, "x", id="set, so no default"),
        pytest.param("${A:-d}", {"A": ""}, "", id="set to nothing, so no default"),
        pytest.param("${A:-}", {}, "", id="an empty default"),
        pytest.param("${A:-http://h:1/a-b}", {}, "http://h:1/a-b", id="a default with everything in it"),
        pytest.param("${A}", {"A": "${B}", "B": "y"}, "${B}", id="filled once"),
        pytest.param("${A}", {"A": "$$"}, "$$", id="a value's own dollars stay"),
        pytest.param("$$", {}, "$", id="a dollar"),
        pytest.param("$${A}", {"A": "x"}, "${A}", id="a reference that is none"),
        pytest.param("$$$${A}", {"A": "x"}, "$${A}", id="two dollars and a brace"),
        pytest.param("$A $(A) $1 $", {"A": "x"}, "$A $(A) $1 $", id="other dollars"),
        pytest.param("${A}", {"A": "a: [b, {c"}, "a: [b, {c", id="what looks like YAML is a text"),
        pytest.param("${A}", {"A": "line\nline"}, "line\nline", id="two lines"),
        pytest.param("x${A}", {"A": "5"}, "x5", id="a number in a text"),
        pytest.param("${NODE_NAME}", {}, "", id="the node's name may be missing"),
    ],
)
def test_a_variable_is_filled_in_once(
    loaded: Callable[..., Loaded], value: str, environ: dict[str, str], expected: str
) -> None:
    assert loaded(f"settings: {{nodeName: '{value}'}}\n", **environ).config.settings.node_name == expected


@pytest.mark.parametrize(
    ("value", "environ"),
    [
        pytest.param("${A}", {"A": "true"}, id="set"),
        pytest.param("${A:-true}", {}, id="by default"),
    ],
)
def test_a_value_that_is_one_variable_may_be_a_truth_value(
    loaded: Callable[..., Loaded], value: str, environ: dict[str, str]
) -> None:
    assert loaded(f"settings: {{dryRunMode: '{value}'}}\n", **environ).config.settings.dry_run_mode is True


def test_a_value_that_is_one_variable_may_be_a_number(loaded: Callable[..., Loaded]) -> None:
    assert (
        loaded("exporters: {http: {hostPort: '${PORT}'}}\n", PORT="81").config.exporters.http.host_port == 81
    )


def test_variables_are_filled_in_lists_and_options_too_and_in_keys_not(loaded: Callable[..., Loaded]) -> None:
    text = "monitors:\n  - {name: '${A}', type: custom-plugin, config: {path: '/${A}', environment: {'${A}': x}}}\n"
    (entry,) = loaded(text, A="one").config.monitors
    assert (entry.name, entry.config) == ("one", {"path": "/one", "environment": {"${A}": "x"}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "metadata:\n  name: ${A}\n",
            "c.yaml:4: metadata.name: ${A} is not set in the environment; set it, or write ${A:-default}",
            id="a variable",
        ),
        pytest.param(
            "metadata:\n  name: ${NODE_NAME}\n",
            "c.yaml:4: metadata.name: ${NODE_NAME} is not set in the environment;"
            " set it, or write ${NODE_NAME:-default}",
            id="the node's name elsewhere",
        ),
        pytest.param(
            "settings:\n  nodeName: ${NODE_NAMES}\n",
            "c.yaml:4: settings.nodeName: ${NODE_NAMES} is not set in the environment;"
            " set it, or write ${NODE_NAMES:-default}",
            id="another variable as the node's name",
        ),
        pytest.param(
            "monitors:\n  - name: a\n    type: custom-plugin\n    config:\n      path: /x\n      args:\n"
            "        - ${A}\n",
            "c.yaml:9: monitors[0].config.args[0]: ${A} is not set in the environment; set it, or write ${A:-default}",
            id="in a list",
        ),
    ],
)
def test_a_variable_that_is_not_set_is_a_fault(
    faults: Callable[..., list[str]], text: str, expected: str
) -> None:
    assert faults(text) == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "NODE_DOCTOR_SETTINGS__DRYRUNMODE",
        "NODE_DOCTOR_settings__dryRunMode",
        "NODE_DOCTOR_Settings__DryRunMode",
    ],
)
def test_names_in_the_environment_may_be_written_in_any_case(
    loaded: Callable[..., Loaded], name: str
) -> None:
    assert loaded("", **{name: "true"}).config.settings.dry_run_mode is True


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(
            "NODE_DOCTOR_SETTINGS__DRYRUNMOD",
            "environment NODE_DOCTOR_SETTINGS__DRYRUNMOD: settings has no key 'DRYRUNMOD'; known: dryRunMode, "
            "enableRemediation, hostRoot, kubeconfig, nodeName, updateInterval, workerMemory; did you mean 'dryRunMode'?",
            id="a key that there is not",
        ),
        pytest.param("NODE_DOCTOR_SETINGS__X", "did you mean 'settings'?", id="a section that there is not"),
        pytest.param("NODE_DOCTOR_", "the configuration has no key ''", id="nothing"),
        pytest.param("NODE_DOCTOR_MONITORS__7__NAME", "monitors is a list of 1; '7' is none", id="an index"),
        pytest.param("NODE_DOCTOR_MONITORS__X__NAME", "monitors is a list of 1; 'X' is none", id="no index"),
        pytest.param(
            "NODE_DOCTOR_MONITORS__0__CONFIG__WARNINGTRESHOLD",
            "did you mean 'warningThreshold'?",
            id="an option",
        ),
    ],
)
def test_a_variable_that_names_nothing_is_a_fault(
    faults: Callable[..., list[str]], name: str, expected: str
) -> None:
    (fault,) = faults("monitors: [{name: cpu, type: cpu-health-check}]\n", **{name: "1"})
    assert fault.startswith(f"environment {name}: ")
    assert expected in fault


def test_variables_that_tell_where_things_are_set_no_value(loaded: Callable[..., Loaded]) -> None:
    loaded("", NODE_DOCTOR_CONFIG="/x", NODE_DOCTOR_RUN_DIR="/x", NODE_DOCTOR_STATE_DIR="/x")


def test_variables_of_other_programs_are_left_alone(loaded: Callable[..., Loaded]) -> None:
    loaded("", NODE_NAME="x", NODE_DOCTORS="x", KUBERNETES_PORT="x")


@pytest.mark.parametrize(
    "flag",
    [
        pytest.param("monitors[0].config.warningThreshold=42", id="in brackets"),
        pytest.param("monitors.0.config.warningThreshold=42", id="between dots"),
    ],
)
def test_a_flag_reaches_the_options_of_a_monitor(loaded: Callable[..., Loaded], flag: str) -> None:
    result = loaded("monitors: [{name: cpu, type: cpu-health-check}]\n", flag)
    assert result.config.monitors[0].config == {"warningThreshold": 42}
    path = flag.partition("=")[0]
    assert result.origins["monitors[0].config.warningThreshold"] == f"--set {path}"


def test_a_variable_reaches_the_options_of_a_monitor(loaded: Callable[..., Loaded]) -> None:
    environ = {"NODE_DOCTOR_MONITORS__0__CONFIG__WARNINGTHRESHOLD": "42"}
    result = loaded("monitors: [{name: cpu, type: cpu-health-check}]\n", **environ)
    assert result.config.monitors[0].config == {"warningThreshold": 42}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        pytest.param("metadata.name=a=b", "a=b", id="a second equals sign"),
        pytest.param("metadata.name=", "", id="nothing"),
        pytest.param("metadata.name='5'", "5", id="quoted"),
        pytest.param("metadata.name=[", "[", id="no YAML"),
    ],
)
def test_the_value_of_a_flag_is_yaml_or_else_a_text(
    loaded: Callable[..., Loaded], flag: str, value: str | None
) -> None:
    assert loaded("", flag).config.metadata.name == (flag.partition("=")[2] if value is None else value)


def test_a_flag_can_set_a_list(loaded: Callable[..., Loaded]) -> None:
    assert [entry.name for entry in loaded("", "monitors=[{name: a, type: noop}]").config.monitors] == ["a"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        pytest.param("settings", "--set settings: expected PATH=VALUE", id="no value"),
        pytest.param("=x", "--set =x: expected PATH=VALUE", id="no path"),
        pytest.param("", "--set : expected PATH=VALUE", id="nothing"),
        pytest.param(
            "setings.dryRunMode=true", "--set setings.dryRunMode: .* mean 'settings'", id="no such section"
        ),
        pytest.param("settings.dryrunmode=true", "did you mean 'dryRunMode'", id="another case"),
        pytest.param(
            "settings.dryRunMode=1", "--set settings.dryRunMode: .*found 1", id="a number for a truth value"
        ),
        pytest.param(
            "settings=5", "--set settings: settings: found 5, allowed: a map", id="a number for a map"
        ),
        pytest.param("monitors[9].name=x", "is a list of 1; '9' is none of its indices", id="an index"),
        pytest.param("monitors[-1].name=x", "is none of its indices", id="a negative index"),
        pytest.param("settings.dryRunMode.x=7", "settings.dryRunMode: found a map", id="below a value"),
    ],
)
def test_a_flag_that_can_not_be_applied_is_a_fault(
    faults: Callable[..., list[str]], flag: str, expected: str
) -> None:
    found = "\n".join(faults(NOOP, flag))
    assert re.search(expected, found), found


def test_a_flag_goes_over_a_section_that_is_no_map(loaded: Callable[..., Loaded]) -> None:
    assert loaded("settings: 5\n", "settings.dryRunMode=true").config.settings.dry_run_mode is True


@pytest.mark.parametrize(
    "name",
    [
        "NODE_DOCTOR_SERVICE_HOST",
        "NODE_DOCTOR_SERVICE_PORT",
        "NODE_DOCTOR_SERVICE_PORT_HTTP_METRICS",
        "NODE_DOCTOR_PORT",
        "NODE_DOCTOR_PORT_8080_TCP",
        "NODE_DOCTOR_PORT_8080_TCP_ADDR",
        "NODE_DOCTOR_METRICS_SERVICE_HOST",
        "NODE_DOCTOR_METRICS_PORT_9100_TCP_PROTO",
    ],
)
def test_what_kubernetes_adds_for_a_service_of_our_name_is_no_setting(
    loaded: Callable[..., Loaded], name: str
) -> None:
    loaded("", **{name: "tcp://10.96.0.7:8080"})


def test_a_port_can_be_set_by_the_environment_all_the_same(loaded: Callable[..., Loaded]) -> None:
    config = loaded("", NODE_DOCTOR_EXPORTERS__PROMETHEUS__PORT="9200").config
    assert config.exporters.prometheus.port == 9200


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("1234", "1234", id="a number"),
        pytest.param("007", "007", id="noughts"),
        pytest.param("1e3", "1e3", id="a power"),
        pytest.param("no", "no", id="a truth value"),
        pytest.param("a: b", "a: b", id="a map"),
        pytest.param("'quoted'", "quoted", id="a text in quotes"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_where_a_text_is_wanted_a_flag_and_a_variable_are_texts(
    loaded: Callable[..., Loaded], text: str, name: str
) -> None:
    assert loaded("", f"settings.nodeName={text}").config.settings.node_name == name
    assert loaded("", NODE_DOCTOR_SETTINGS__NODENAME=text).config.settings.node_name == name


def test_nothing_takes_back_what_may_be_absent(loaded: Callable[..., Loaded]) -> None:
    monitors = "monitors: [{name: a, type: noop, interval: 5s}]\n"
    assert loaded(monitors, "monitors[0].interval=null").config.monitors[0].interval is None


def test_a_reference_that_a_later_layer_replaced_need_not_be_set(
    loaded: Callable[..., Loaded], written: Callable[..., Path]
) -> None:
    text = "metadata: {name: '${NOT_SET}'}\n"
    assert loaded(text, "metadata.name=x").config.metadata.name == "x"
    files = [written(text, "a.yaml"), written("metadata: {name: x}\n", "b.yaml")]
    assert load(files, (), {}).config.metadata.name == "x"


def test_a_reference_does_not_come_back_over_what_replaced_it(faults: Callable[..., list[str]]) -> None:
    text = "exporters: {http: {hostPort: '${P}'}}\n"
    (fault,) = faults(text, P="81", NODE_DOCTOR_EXPORTERS__HTTP__HOSTPORT="x")
    assert fault.startswith("environment NODE_DOCTOR_EXPORTERS__HTTP__HOSTPORT: ")
    assert "found 'x', allowed: a whole number from 0 to 65535" in fault


def test_a_variable_that_is_not_set_is_told_once_and_not_as_a_bad_value_too(
    faults: Callable[..., list[str]],
) -> None:
    (fault,) = faults("settings: {updateInterval: '${NOT_SET}'}\n")
    assert "${NOT_SET} is not set" in fault

"""A whole agent and the API server: faults of the node come there and go, whatever happens to the API meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_support import ACCOUNT, MANIFESTS, Act, APIServer, hang, reset, rules_of, trickle
from tests_support import Agent, eventually

from nodedoctor.config.rules import KUBELETS_OWN

Start = Callable[..., Agent]
NODE = "test-node"


class Port:
    """A TCP service that can be stopped and started: the fault."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.number = 0
        self.open()

    def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.number), backlog=1000)
        self.number = listener.getsockname()[1]
        self.stack.enter_context(listener)

    def close(self) -> None:
        self.stack.close()

    def monitor(self, name: str = "registry") -> str:
        return (
            f"{{name: {name}, type: tcp-health-check, interval: 200ms, timeout: 100ms, failureThreshold: 2,"
            f" config: {{targets: ['127.0.0.1:{self.number}'], connectTimeout: 50ms}}}}"
        )


@pytest.fixture
def port() -> Iterator[Port]:
    one = Port()
    yield one
    one.close()


@pytest.fixture
def api() -> Iterator[APIServer]:
    with APIServer(token="secret") as server:
        server.add_node(NODE)
        yield server


def run(agent: Start, api: APIServer, folder: Path, *monitors: str, **settings: str) -> Agent:
    """An agent that writes to `api`."""
    kubeconfig = api.kubeconfig(folder)
    options = {f"exporters__kubernetes__{key}": value for key, value in settings.items()}
    options.setdefault("exporters__kubernetes__updateInterval", "1s")
    options.setdefault("exporters__kubernetes__requestTimeout", "1s")
    return agent(f"[{', '.join(monitors)}]", settings__kubeconfig=str(kubeconfig), **options)


def becomes(api: APIServer, kind: str, status: str, patience: float = 30.0) -> dict[str, Any]:
    """Wait until the node's condition has this status."""

    def found() -> dict[str, Any] | None:
        condition = api.conditions(NODE).get(kind, {})
        return condition if condition.get("status") == status else None

    condition: dict[str, Any] = eventually(f"{kind} is {status}: {api.asked[-5:]}", found, patience)
    return condition


def exporter(one: Agent) -> dict[str, Any]:
    """What the agent says of its exporter."""
    return next(e for e in one.status()["exporters"] if e["name"] == "kubernetes")


def told(api: APIServer, text: str) -> list[dict[str, Any]]:
    """Events whose message has this text."""
    return [event for event in api.events() if text in event["message"]]


def test_a_fault_comes_to_the_node_and_goes(agent: Start, api: APIServer, port: Port, tmp_path: Path) -> None:
    one = run(agent, api, tmp_path, port.monitor()).ready()
    before = becomes(api, "RegistryUnhealthy", "False")
    kubelets = {kind: c for kind, c in api.conditions(NODE).items() if c["reason"].startswith("Kubelet")}
    port.close()
    bad = becomes(api, "RegistryUnhealthy", "True")
    assert f"127.0.0.1:{port.number}" in bad["message"]
    assert bad["lastTransitionTime"] >= before["lastTransitionTime"]
    (event,) = eventually("the event", lambda: told(api, "RegistryUnhealthy is now: True"))
    assert (event["type"], event["involvedObject"]["uid"]) == ("Warning", NODE)
    state = json.loads(api.annotations(NODE)["node-doctor.io/status"])
    assert state["health"] == "unhealthy"
    assert [problem["type"] for problem in state["problems"]] == ["RegistryUnhealthy"]
    port.open()
    becomes(api, "RegistryUnhealthy", "False")
    (event,) = eventually("the event", lambda: told(api, "RegistryUnhealthy is now: False"))
    assert event["type"] == "Normal"
    assert {k: c for k, c in api.conditions(NODE).items() if k in kubelets} == kubelets
    assert {request.code for request in api.asked} <= {200, 201}
    assert not api.requests("GET")
    assert all(r.query == {"fieldManager": "node-doctor"} for r in api.requests("PATCH"))
    patches = [r for r in api.asked if r.resource == "nodes/status"]
    assert {r.content_type for r in patches} == {"application/strategic-merge-patch+json"}
    eventually("counts", lambda: one.metric('api_requests_total{operation="node-patch",result="ok"}') >= 3)
    assert one.metric('api_requests_total{operation="event-create",result="ok"}') == 2


def test_what_the_kubelet_writes_at_the_same_moment_stays(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    """A patch of the whole list put back what the kubelet had just changed."""
    written: list[str] = []

    def kubelet() -> None:
        written.append(f"write {len(written)}")
        api.set_condition(NODE, "Ready", status="False", message=written[-1])

    api.before_patch = kubelet
    run(agent, api, tmp_path, port.monitor()).ready()
    becomes(api, "RegistryUnhealthy", "False")
    port.close()
    becomes(api, "RegistryUnhealthy", "True")
    assert api.conditions(NODE)["Ready"]["message"] == written[-1]
    assert api.conditions(NODE)["Ready"]["status"] == "False"


def test_a_restart_moves_no_time_and_what_is_not_configured_any_more_goes(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    other = Port()
    one = run(agent, api, tmp_path, port.monitor(), other.monitor("mirror")).ready()
    port.close()
    bad = becomes(api, "RegistryUnhealthy", "True")
    fine = becomes(api, "MirrorUnhealthy", "False")
    assert one.end() == 0
    assert becomes(api, "RegistryUnhealthy", "True") == api.conditions(NODE)["RegistryUnhealthy"]
    time.sleep(1.1)
    seen: list[str] = []
    asked = len(api.asked)
    api.before_patch = lambda: seen.append(api.conditions(NODE)["RegistryUnhealthy"]["status"])
    run(agent, api, tmp_path, port.monitor()).ready()
    eventually("the other is gone", lambda: "MirrorUnhealthy" not in api.conditions(NODE))
    eventually(
        "it was written again",
        lambda: api.conditions(NODE)["RegistryUnhealthy"]["lastHeartbeatTime"] > bad["lastHeartbeatTime"],
    )
    assert becomes(api, "RegistryUnhealthy", "True")["lastTransitionTime"] == bad["lastTransitionTime"]
    assert set(seen) == {"True"}
    assert fine["status"] == "False"
    assert not [r for r in api.asked[asked:] if r.method == "GET"]
    other.close()


def test_an_outage_touches_nothing_else_and_is_made_up_for(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    one = run(agent, api, tmp_path, port.monitor()).ready()
    becomes(api, "RegistryUnhealthy", "False")
    outages: tuple[tuple[Act, str], ...] = ((trickle(headers=True), "in time"), (reset(), "http"))
    for act, said in outages:
        api.fault(".", act)
        port.close()
        one.becomes("RegistryUnhealthy", "True")
        eventually("it is told", lambda: exporter(one)["state"] == "unavailable")
        assert "behind since" in exporter(one)["message"]
        assert said in exporter(one)["message"]
        assert one.get("/livez")[0] == 200
        assert one.monitor("registry")["state"] == "problem"
        api.heal()
        becomes(api, "RegistryUnhealthy", "True")
        eventually("it is told", lambda: exporter(one)["state"] == "running")
        port.open()
        becomes(api, "RegistryUnhealthy", "False")
    eventually("nothing is wrong", lambda: exporter(one)["message"] == "")
    assert one.worker("exporter kubernetes")["restarts"] == {}


def test_an_api_that_hangs_does_not_delay_the_end(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    one = run(agent, api, tmp_path, port.monitor()).ready()
    becomes(api, "RegistryUnhealthy", "False")
    api.fault(".", hang())
    port.close()
    one.becomes("RegistryUnhealthy", "True")
    began = time.monotonic()
    assert one.end() == 0
    assert time.monotonic() - began < 8


def test_the_agent_may_be_there_before_the_api_and_before_the_node(
    agent: Start, port: Port, tmp_path: Path
) -> None:
    """A credential or API failure at the start disabled the exporter for good."""
    with APIServer() as first:
        kubeconfig = first.kubeconfig(tmp_path)
    one = agent(f"[{port.monitor()}]", settings__kubeconfig=str(kubeconfig))
    eventually("refused", lambda: "refused" in exporter(one)["message"])
    with APIServer(port=first.port) as api:
        eventually("no node", lambda: "not found" in exporter(one)["message"])
        api.add_node(NODE)
        becomes(api, "RegistryUnhealthy", "False")
        one.ready()


def test_a_token_that_is_rotated_is_read_again(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    kubeconfig = api.kubeconfig(tmp_path, tokenFile="token")
    one = agent(f"[{port.monitor()}]", settings__kubeconfig=str(kubeconfig)).ready()
    becomes(api, "RegistryUnhealthy", "False")
    api.tokens = {"new"}
    (tmp_path / "token").write_text("new")
    port.close()
    becomes(api, "RegistryUnhealthy", "True")
    assert 401 not in {request.code for request in api.asked}
    api.tokens = {"newest"}
    port.open()
    eventually("refused", lambda: exporter(one)["state"] == "unavailable")
    (tmp_path / "token").write_text("newest")
    becomes(api, "RegistryUnhealthy", "False")


def test_a_right_that_is_missing_is_told_once(agent: Start, port: Port, tmp_path: Path) -> None:
    with APIServer(roles=()) as api:
        api.add_node(NODE)
        one = run(agent, api, tmp_path, port.monitor())
        eventually("forbidden", lambda: "not allowed to patch nodes/status" in exporter(one)["message"])
        port.close()
        one.becomes("RegistryUnhealthy", "True")
        assert one.text().count("not allowed to patch nodes/status") == 2, "by itself, and in the condition"
        assert len(api.asked) == 1


def test_a_stop_may_turn_the_conditions_unknown(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    one = run(agent, api, tmp_path, port.monitor(), onStop="unknown").ready()
    becomes(api, "RegistryUnhealthy", "False")
    assert one.end() == 0
    assert becomes(api, "RegistryUnhealthy", "Unknown")["reason"] == "AgentStopped"
    assert api.conditions(NODE)["Ready"]["status"] == "True"


def test_an_exporter_that_crashes_comes_back_and_tells_nothing_twice(
    agent: Start, api: APIServer, port: Port, tmp_path: Path
) -> None:
    one = run(agent, api, tmp_path, port.monitor()).ready()
    port.close()
    bad = becomes(api, "RegistryUnhealthy", "True")
    eventually("the event", lambda: told(api, "RegistryUnhealthy is now: True"))
    pid = one.worker("exporter kubernetes")["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually("another one", lambda: one.worker("exporter kubernetes")["pid"] not in {None, pid})
    port.open()
    becomes(api, "RegistryUnhealthy", "False")
    eventually("the event", lambda: told(api, "RegistryUnhealthy is now: False"))
    (event,) = told(api, "RegistryUnhealthy is now: True")
    assert event["count"] == 1
    assert bad["status"] == "True"


def test_without_credentials_it_is_off_and_says_so_once(agent: Start, port: Port) -> None:
    one = agent(f"[{port.monitor()}]").ready()
    assert exporter(one)["state"] == "inactive"
    assert "exporter kubernetes" not in {worker["name"] for worker in one.status()["workers"]}
    assert one.text().count("no credentials") == 1


def test_credentials_may_come_later(agent: Start, api: APIServer, port: Port, tmp_path: Path) -> None:
    one = agent(f"[{port.monitor()}]", settings__kubeconfig=str(tmp_path / "kubeconfig"))
    eventually("none yet", lambda: "can't be used" in exporter(one)["message"])
    asked = agent(f"[{port.monitor()}]", exporters__kubernetes__enabled="true").ready()
    assert exporter(asked)["state"] == "inactive"
    api.kubeconfig(tmp_path)
    becomes(api, "RegistryUnhealthy", "False", patience=45)


def test_many_transitions_are_few_requests(agent: Start, api: APIServer, port: Port, tmp_path: Path) -> None:
    one = run(agent, api, tmp_path, port.monitor()).ready()
    becomes(api, "RegistryUnhealthy", "False")
    began, asked = time.monotonic(), len(api.asked)
    stop = threading.Event()

    def flap() -> None:
        while not stop.wait(0.4):
            port.close()
            stop.wait(0.6)
            port.open()

    thread = threading.Thread(target=flap)
    thread.start()
    time.sleep(8)
    stop.set()
    thread.join()
    found = [value for name, value in one.metrics().items() if "problems_detected_total" in name]
    assert sum(found) > 3
    assert len(api.asked) - asked <= (time.monotonic() - began) + 2


def test_the_role_is_what_the_contract_says() -> None:
    assert sorted((r["resources"], r["verbs"]) for r in rules_of(MANIFESTS / "rbac.yaml")) == [
        (["events"], ["create", "patch"]),
        (["nodes"], ["get", "patch"]),
        (["nodes/status"], ["patch"]),
        (["pods"], ["list"]),
    ]
    documents = list(yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text()))
    assert [(d["kind"], d["metadata"]["name"]) for d in documents] == [
        ("ServiceAccount", "node-doctor"),
        ("ClusterRole", "node-doctor"),
        ("ClusterRoleBinding", "node-doctor"),
    ]
    assert documents[0]["metadata"]["namespace"] == documents[2]["subjects"][0]["namespace"] == "kube-system"
    assert rules_of(MANIFESTS / "rbac-peers.yaml") == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    ]


def test_the_admission_policy_is_for_this_agent_and_knows_the_kubelets_conditions() -> None:
    policy, binding = yaml.safe_load_all((MANIFESTS / "admission-policy.yaml").read_text())
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert ACCOUNT in policy["spec"]["matchConditions"][0]["expression"]
    variables = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}
    assert yaml.safe_load(variables["kubelets"]) == list(KUBELETS_OWN)

"""health-checker, a plugin that Node Problem Detector brings: whether the kubelet, the proxy or the runtime works."""

from __future__ import annotations

from typing import Any

from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.entries import Draft, label, without_defaults
from nodedoctor.npd.files import CustomPluginFile, PluginRule
from nodedoctor.npd.flags import is_true, parse_flags
from nodedoctor.npd.goduration import ours, parse_go_duration
from nodedoctor.npd.logs import condition_of
from nodedoctor.patterns import compile_pattern

FLAGS = {
    "component": "kubelet",
    "service": "",
    "systemd-service": "",
    "enable-repair": "true",
    "crictl-path": "/usr/bin/crictl",
    "cri-socket-path": "unix:///var/run/containerd/containerd.sock",
    "cri-timeout": "2s",
    "cooldown-time": "2m",
    "loopback-time": "0",
    "health-check-timeout": "10s",
    "log-pattern": "",
}
ENDPOINTS = {"kubelet": "http://localhost:10248/healthz", "kube-proxy": "http://localhost:10256/livez"}
COMPONENTS = ("kubelet", "kube-proxy", "docker", "cri")
MARGIN = 5.0
LOG_LASTS = 86400.0
"""Seconds: how far back lines count where the checker counts since the start of its service."""


class Checker:
    """One use of the health-checker."""

    def __init__(self, file: CustomPluginFile, rule: PluginRule) -> None:
        """Read its arguments.

        Raises:
            ConfigurationError: one of them is wrong.
        """
        self.file = file
        self.rule = rule
        self.where = "health-checker"
        values = parse_flags(self.where, rule.args, FLAGS, ["enable-repair"], ["log-pattern"])
        self.flags = {name: found[-1] for name, found in values.items()}
        self.component = self.flags["component"]
        if self.component not in COMPONENTS:
            raise ConfigurationError(
                [f"{self.where}: --component={self.component}: allowed: {', '.join(COMPONENTS)}"]
            )
        runtime = "containerd" if self.component == "cri" else self.component
        self.service = self.flags["service"] or self.flags["systemd-service"] or runtime
        self.timeout = self.duration("health-check-timeout")
        self.cooldown = self.duration("cooldown-time")
        self.log_lasts = self.duration("loopback-time") or LOG_LASTS
        self.patterns = [
            self.counted(part) for value in values["log-pattern"][1:] for part in value.split(",")
        ]

    def duration(self, name: str) -> float:
        """A duration, in seconds."""
        try:
            return parse_go_duration(self.flags[name])
        except ValueError as error:
            raise ConfigurationError([f"{self.where}: --{name}: {error}"]) from None

    def counted(self, text: str) -> tuple[int, str]:
        """A pattern of the service's log, and how often it must be found: `count:pattern`."""
        count, colon, pattern = text.partition(":")
        if not colon or not pattern or not count.isdigit() or int(count) < 1:
            raise ConfigurationError(
                [f"{self.where}: --log-pattern={text}: allowed: COUNT:PATTERN, COUNT above 0"]
            )
        try:
            compile_pattern(pattern)
        except ValueError as error:
            raise ConfigurationError([f"{self.where}: --log-pattern: {error}"]) from None
        return int(count), pattern

    def drafts(self) -> list[Draft]:
        """The check itself, and one of the service's log if patterns are given."""
        check = self.request() if self.component in ENDPOINTS else self.program()
        check.other |= self.repair()
        return [check, *([self.log()] if self.patterns else [])]

    @property
    def default(self) -> dict[str, str]:
        """What the condition says while it is False."""
        return next((condition_of(c) for c in self.file.conditions if c.type == self.rule.condition), {})

    @property
    def times(self) -> dict[str, str]:
        """How often to check, and for how long at most."""
        timeout = self.timeout + MARGIN
        return {"interval": ours(max(self.invoke_interval, timeout + MARGIN)), "timeout": ours(timeout)}

    @property
    def invoke_interval(self) -> float:
        """How often Node Problem Detector checks."""
        return self.rule.invoke_interval or self.file.plugin_config.invoke_interval

    def request(self) -> Draft:
        """A component that answers over HTTP. It is believed at once, as Node Problem Detector does it."""
        config = {
            "url": ENDPOINTS[self.component],
            "requestTimeout": ours(self.timeout),
            "condition": self.rule.condition,
            "reason": self.rule.reason,
            "okReason": self.default.get("reason", ""),
            "okMessage": self.default.get("message", ""),
        }
        return Draft(
            self.name, "http-health-check", without_defaults(config), **self.times, failureThreshold=1
        )

    def program(self) -> Draft:
        """A container runtime, which is asked through its own program."""
        if self.component == "docker":
            path, args = "/usr/bin/docker", ["ps"]
        else:
            timeout, socket = self.flags["cri-timeout"], self.flags["cri-socket-path"]
            path = self.flags["crictl-path"]
            args = [f"--timeout={timeout}", f"--runtime-endpoint={socket}", "pods", "--latest"]
        config: dict[str, Any] = {
            "invokeInterval": ours(self.invoke_interval),
            "pluginTimeout": ours(self.timeout),
            "user": "root",
            "conditions": [self.default],
            "rules": [
                {
                    "name": label(self.rule.reason),
                    "type": "permanent",
                    "condition": self.rule.condition,
                    "reason": self.rule.reason,
                    "path": path,
                    "args": args,
                }
            ],
        }
        return Draft(self.name, "custom-plugin-rules", config, **self.times)

    def log(self) -> Draft:
        """The service's log. It has a condition of its own, as each condition has one writer."""
        condition = f"{self.rule.condition}InLog"
        rules = [
            {
                "name": f"{label(self.rule.reason)}-{number}",
                "type": "permanent",
                "condition": condition,
                "reason": self.rule.reason,
                "severity": "warning",
                "pattern": f"(?i){pattern}",
                "count": count,
                "within": ours(self.log_lasts),
            }
            for number, (count, pattern) in enumerate(self.patterns, 1)
        ]
        config = {
            "source": "journal",
            "units": [self.service],
            "lookback": ours(self.log_lasts),
            "rules": rules,
        }
        draft = Draft(f"{self.name}-log", "log-pattern", config)
        draft.notes.append(
            f"{self.where}: what its --log-pattern finds is the condition {condition}, beside {self.rule.condition}"
        )
        return draft

    def repair(self) -> dict[str, Any]:
        """How the service is repaired, if it is."""
        if not is_true(self.flags["enable-repair"]):
            return {}
        strategy = "runtime-restart" if self.component in {"docker", "cri"} else "systemd-restart"
        service = {"service": self.service} if strategy == "systemd-restart" else {}
        return {
            "remediation": {"enabled": True, "strategy": strategy, **service, "cooldown": ours(self.cooldown)}
        }

    @property
    def name(self) -> str:
        """What the monitor is called."""
        return f"{self.service}-health"

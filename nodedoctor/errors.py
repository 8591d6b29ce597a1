"""Errors that a person can do something about. Each carries the exit code of the command that meets it."""

from __future__ import annotations


class NodeDoctorError(Exception):
    """Base of all expected errors; its text says what, where, and what to do."""

    exit_code = 1


class ConfigurationError(NodeDoctorError):
    """The configuration can't be used. `faults` holds every fault found, one line each."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class AgentUnreachableError(NodeDoctorError):
    """No agent answers on the socket that was asked."""

    exit_code = 3


class AlreadyRunningError(NodeDoctorError):
    """Another agent holds the run folder."""

    exit_code = 2


class Undetermined(NodeDoctorError):  # noqa: N818 - it is a verdict of a check, not a fault of the program
    """A check can't tell whether there is a problem; the conditions it did not reach become Unknown.

    Args:
        message: What is missing, and what would provide it.
        reason: CamelCase, for the condition.
    """

    def __init__(self, message: str, reason: str = "CheckUndetermined") -> None:
        self.reason = reason
        super().__init__(message)

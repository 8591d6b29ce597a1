"""Makes our configuration of Node Problem Detector's files: the same rules under the same names, on our monitors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nodedoctor.errors import ConfigurationError
from nodedoctor.npd.entries import Draft
from nodedoctor.npd.files import CustomPluginFile, NpdFile, SystemLogFile, read_npd
from nodedoctor.npd.logs import log_draft
from nodedoctor.npd.plugins import plugin_drafts
from nodedoctor.npd.stats import stats_draft


class Conversion(msgspec.Struct, frozen=True):
    """A configuration, and what whoever uses it should know."""

    data: dict[str, Any]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The configuration as YAML, with the notes as comments at its head."""
        head = "".join(f"# {note}\n" for note in self.notes)
        return head + yaml.safe_dump(escaped(self.data), sort_keys=False, allow_unicode=True, width=110)


def convert(paths: Iterable[Path]) -> Conversion:
    """The configuration for Node Problem Detector's files `paths`; one that is named twice counts once.

    Raises:
        ConfigurationError: with every fault of every file.
    """
    faults: list[str] = []
    drafts: list[Draft] = []
    notes: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            file = read_npd(path)
            made = drafts_of(str(path), file)
        except ConfigurationError as error:
            faults += error.faults
            continue
        drafts += [draft for draft in made if not joined(drafts, draft)]
        own = (*file.notes, *(note for draft in made for note in draft.notes))
        notes += [f"{path}: {note}" for note in own]
    if faults:
        raise ConfigurationError(faults)
    taken: set[str] = set()
    data = {
        "apiVersion": "node-doctor.io/v1alpha1",
        "kind": "NodeDoctorConfig",
        "metadata": {"name": "node-problem-detector"},
        "monitors": [draft.entry(taken) for draft in drafts],
        "exporters": {"prometheus": {"npdCompatible": True}},
    }
    return Conversion(data, tuple(dict.fromkeys(notes)))


def drafts_of(name: str, file: NpdFile) -> list[Draft]:
    """The monitors for one file.

    Raises:
        ConfigurationError: something of it can't be done here.
    """
    if isinstance(file, SystemLogFile):
        return [log_draft(file)]
    if isinstance(file, CustomPluginFile):
        return plugin_drafts(name, file)
    return [stats_draft(name, file)]


def joined(drafts: Iterable[Draft], newer: Draft) -> bool:
    """Whether `newer` watches the same log as an earlier draft and sets one of its conditions: it is made part of that.

    Node Problem Detector lets two files write one condition; here each condition has one writer.
    """
    for draft in drafts:
        if draft.log and draft.log == newer.log and draft.condition_types & newer.condition_types:
            draft.join(newer)
            return True
    return False


def escaped(value: Any) -> Any:  # noqa: ANN401 - any part of a configuration
    """`value` with each dollar doubled, so that nothing of it is taken for a variable."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value

"""The state of one ``prepare`` call: its input, what was done so far, and the report made of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.models.locations import DiskFile, Location
from worker.models.manifest import Entry
from worker.models.prompt_names import Mentions, ModelNames
from worker.sites.types import RepoLine, Report
from worker.stop import Stop

Facts = dict[str, Any]


@dataclass(frozen=True)
class ModelReport:
    """The outcome of :meth:`model_manager.ModelManager.prepare`: models for the answer, names for the prompt."""

    ready: list[Facts] = field(default_factory=list)
    """Listed models already on disk: ``name``, ``folder``, ``bytes``, ``identity``, and ``sha256`` if known."""
    downloaded: list[Facts] = field(default_factory=list)
    pruned: list[Facts] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    names: ModelNames = field(default_factory=ModelNames)
    """For :func:`worker.models.prompt_names.match_models`."""

    def answer(self) -> dict[str, list[Facts]]:
        """Return the ``models`` of the job's answer."""
        return {"ready": self.ready, "downloaded": self.downloaded, "pruned": self.pruned}


@dataclass
class ModelJob:
    """One call of ``prepare``: its input, and what was done for it so far."""

    lines: Sequence[RepoLine]
    mentions: Mentions
    prune: bool
    stop: Stop
    report: Report
    no_other_job: Callable[[], bool]
    started_ns: int
    read_ahead: bool
    downloaded: dict[Location, Entry] = field(default_factory=dict)
    pruned: list[Facts] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    deleted: set[Location] = field(default_factory=set)
    name_conflicts: set[Location] = field(default_factory=set)
    """Locations that other workers filled with other bytes while this job was downloading to them."""
    released: bool = False
    lost_races: int = 0
    """Rounds that ended because another worker deleted one of the job's files or took its name."""

    def result(self, listed: Iterable[Entry], names: ModelNames) -> ModelReport:
        """Return the report of a job whose listed models are all on disk."""
        return ModelReport(
            ready=[listed_facts(entry) for entry in listed if entry.location not in self.downloaded],
            downloaded=[listed_facts(entry) for entry in self.downloaded.values()],
            pruned=self.pruned,
            warnings=self.warnings,
            names=names,
        )


def file_facts(file: DiskFile, entry: Entry | None) -> Facts:
    """Return a file on disk as answers show it."""
    facts = {"name": file.location.name, "folder": file.location.folder, "bytes": file.size}
    return {**facts, "identity": entry.identity} if entry else facts


def listed_facts(entry: Entry) -> Facts:
    """Return a listed model as answers show it."""
    location = entry.location
    facts = {"name": location.name, "folder": location.folder, "bytes": entry.size, "identity": entry.identity}
    return {**facts, "sha256": entry.sha256} if entry.sha256 else facts

"""repo_list -> files on disk: fetches each job's models under their canonical names and prunes the rest.

``worker/sites/`` resolves the lines, ``worker/downloads/`` downloads the files. ``worker/models/`` scans the disk
(``inventory.py``), recognises wanted files on it (``recognise.py``), chooses what to fetch (``plan.py``), claims models
beside other workers (``leases.py``), and decides what may be deleted (``prune_rules.py``, ``pruner.py``). ComfyUI is
only reached by a function that makes it close its model files.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from worker.downloads.disk import free_bytes, nearest_existing
from worker.errors import Code, WorkerError
from worker.models import plan
from worker.models.ensure_state import Facts, ModelJob, ModelReport, file_facts, listed_facts
from worker.models.fetch import ModelFetcher
from worker.models.inventory import Inventory, ModelFolders
from worker.models.leases import Leases
from worker.models.locations import Location
from worker.models.manifest import MANIFEST_VERSION, Entry
from worker.models.page_cache import ReadAhead
from worker.models.plan import Want
from worker.models.prompt_names import find_mentions
from worker.models.prune_rules import PrunePlan, is_within
from worker.models.pruner import Pruner
from worker.models.recognise import recognise
from worker.settings import NETWORK_VOLUME, Settings
from worker.sites.repo_list import parse_repo_list
from worker.sites.types import ModelSource, RepoLine, Report
from worker.stop import Stop
from worker.text import amount

__all__ = ["ModelManager", "ModelReport"]

log = logging.getLogger(__name__)

MAX_ROUNDS = 3
"""Most rounds of a job: it starts over when another worker deleted its models or took their names."""
LEASE_SLACK_S = 60.0
"""Time that a job's claims outlast its limit, for workers that cannot see whether its process lives."""


class ModelManager:
    """Manages one worker's models. Build it once, before the first job: files on its disk then are never pruned.

    Args:
        settings: the models folder, and what may be pruned.
        source: resolves and downloads missing models; by default the sites of ``worker.downloads.source``.
        release: makes ComfyUI close the files it has loaded; called before the first of them is deleted.
        volume: the mount point of a shared network volume, if there is one.
        free_bytes: returns the bytes free on the disk of a folder.
    """

    def __init__(
        self,
        settings: Settings,
        source: ModelSource | None = None,
        release: Callable[[], None] | None = None,
        *,
        volume: Path = NETWORK_VOLUME,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.settings = settings
        self.root = settings.models_dir.resolve()
        self.shared = is_within(self.root, [volume.resolve()])
        self.folders = ModelFolders(self.root)
        self._source = source or _model_sites(settings)
        self._parse = _parser(settings)
        self._leases = Leases(self.root)
        self._pruner = Pruner(
            settings, self.folders, self._leases, shared=self.shared, release=release, free_bytes=free_bytes
        )
        self._lock = threading.Lock()
        self._read_ahead: ReadAhead | None = None
        self._fetcher = ModelFetcher(self.folders, self._source, self._leases, self._pruner)
        self._fetcher.sweep()

    def prepare(
        self,
        repo_list: str,
        prompt: Mapping[str, Any],
        *,
        prune: bool | None = None,
        skip: bool = False,
        stop: Stop | None = None,
        report: Report = lambda _: None,
        no_other_job: Callable[[], bool] = lambda: True,
        read_ahead: bool = False,
    ) -> ModelReport:
        """Fetch the listed models that are missing and prune the rest. Blocks; run it in a thread.

        Until :meth:`release`, no other worker deletes them or the models that the prompt names.

        Args:
            repo_list: the job's lines; if there are none, nothing is fetched or pruned.
            prompt: the job's prompt; the models it names are not pruned.
            prune: whether to prune; None for the environment's setting.
            skip: fetch and prune nothing.
            stop: cancels, also while waiting for another job's turn to end.
            report: called with the progress of the downloads.
            no_other_job: returns True if no other job of this process uses models; called right before deleting.
            read_ahead: also read the models that the prompt names into the page cache (while ComfyUI starts).

        Raises:
            WorkerError: a line cannot be read or found, a download failed, the disk is full. Nothing was pruned then
                except to make room; files that were fetched stay.
            worker.stop.StoppedError: ``stop`` was set.
        """
        job = ModelJob(
            lines=[] if skip else self._parse(repo_list),
            mentions=find_mentions(prompt),
            prune=self.settings.prune if prune is None else prune,
            stop=stop or Stop(),
            report=report,
            no_other_job=no_other_job,
            started_ns=time.time_ns(),
            read_ahead=read_ahead,
        )
        with self._one_at_a_time(job.stop):
            while job.lost_races < MAX_ROUNDS:
                result = self._ensure(job)
                if result:
                    return result
                log.info("another worker changed or fetched the same models; looking again")
        raise WorkerError(
            Code.DOWNLOAD_FAILED,
            "other workers on this volume keep changing this job's models",
            "Send it again. If this recurs, take the volume out of PRUNE_ROOTS, or give its endpoints one repo_list.",
        )

    def inspect(self) -> Facts:
        """Return this worker's ``models`` by folder, ``disk`` in bytes, ``prune`` (on, or why not) and ``versions``."""
        inventory = self.folders.read(fresh=True)
        models: dict[str, list[Facts]] = {}
        for location, file in sorted(inventory.files.items()):
            facts = file_facts(file, inventory.entries.get(location))
            facts["baked"] = file.fingerprint in self._pruner.preinstalled
            models.setdefault(location.folder, []).append(facts)
        usage = shutil.disk_usage(nearest_existing(self.root))
        return {
            "models": models,
            "disk": {"free_bytes": usage.free, "total_bytes": usage.total, "shared_volume": self.shared},
            "prune": self._pruner.blocked_by() or "on",
            "versions": {"python": platform.python_version(), "manifest": MANIFEST_VERSION},
        }

    def known_models(self) -> list[Facts]:
        """Return every model on disk whose identity is known, listed by this job or an earlier one."""
        return [listed_facts(entry) for entry in self.folders.read().entries.values()]

    def release(self) -> None:
        """Give up all claims: no job uses models now, so other workers may delete them. Idempotent."""
        self._leases.release()

    def close(self) -> None:
        """Give up all claims, and stop the thread that may be reading ahead."""
        self.release()
        self._stop_reading_ahead()

    def _ensure(self, job: ModelJob) -> ModelReport | None:
        """Run one round. Return None if another worker changed or fetched the same models: the caller runs another."""
        inventory, known, unknown = self._find_known(job)
        if not job.lines:
            return ModelReport(names=plan.names_of(inventory, {}))
        recognised, wants = self._resolve(job, inventory, unknown)
        present = {entry.location: entry for entry in (*known, *recognised)}
        locations = plan.choose_locations(wants, inventory, self._pruner.deleted_names)
        fetched_elsewhere = self._claim(job, inventory, [*present, *locations], wants) if unknown else frozenset()
        if unknown and not self._plan_still_holds(job, present, wants, locations):
            return None
        to_fetch = {
            want: location
            for want, location in zip(wants, locations, strict=True)
            if want.file.identity not in fetched_elsewhere
        }
        pruning = self._pruner.plan(job, inventory, present)
        _log_plan(present, to_fetch, pruning)
        fetched = self._fetcher.fetch(job, inventory, _changed(present, inventory), to_fetch, pruning)
        job.downloaded |= fetched
        listed = present | fetched
        if unknown and not (len(fetched) == len(to_fetch) and self._are_unchanged(listed.values())):
            job.lost_races += 1
            return None
        if fetched_elsewhere:
            self._fetcher.wait_for_others(job, [want for want in wants if want not in to_fetch])
            return None
        self._pruner.prune(job, inventory, pruning)
        self._pruner.record_use(listed, inventory, pruning)
        after = self.folders.read() if _changed(listed, inventory) or job.deleted else inventory
        return job.result(listed.values(), plan.names_of(after, listed))

    def _claim(
        self, job: ModelJob, inventory: Inventory, locations: Iterable[Location], wants: Sequence[Want] = ()
    ) -> frozenset[str]:
        """Claim these files and downloads. Return the identities that another worker is already fetching."""
        remaining_s = job.stop.remaining_s()
        seconds = (self.settings.job_timeout_s if remaining_s == float("inf") else remaining_s) + LEASE_SLACK_S
        used = [*locations, *inventory.mentioned(job.mentions)]
        return self._leases.claim(used, [want.file.identity for want in wants], seconds)

    def _plan_still_holds(
        self, job: ModelJob, present: Mapping[Location, Entry], wants: Sequence[Want], locations: Sequence[Location]
    ) -> bool:
        """Return True if, now that all is claimed, present files are still present and missing ones still missing."""
        if not self._are_unchanged(present.values()):
            job.lost_races += 1
            return False
        if not wants:
            return True
        now = self.folders.read(fresh=True)
        appeared = any((want.file.identity, want.file.folder) in now.by_identity for want in wants)
        return not appeared and not any(
            (location.folder, location.name.casefold()) in now.occupied for location in locations
        )

    @contextmanager
    def _one_at_a_time(self, stop: Stop) -> Iterator[None]:
        """Let the jobs of one worker take turns: the second then finds the first one's models on disk."""
        while not self._lock.acquire(timeout=0.1):
            stop.check()
        try:
            yield
        finally:
            self._lock.release()

    def _find_known(self, job: ModelJob) -> tuple[Inventory, list[Entry], list[RepoLine]]:
        """Return the inventory, the entries of the listed files on disk, now claimed, and the lines without one.

        The listed files are checked one by one, since changing a file in place does not change its folder.
        """
        inventory = self.folders.read()
        while True:
            known, unknown = plan.split_known(job.lines, inventory)
            self._claim(job, inventory, (entry.location for entry in known))
            if self._are_unchanged(known):
                break
            inventory = self.folders.read(fresh=True)
        if job.read_ahead:
            job.read_ahead = False
            self._start_reading_ahead(job, inventory, {entry.location for entry in known})
        return inventory, known, unknown

    def _are_unchanged(self, entries: Iterable[Entry]) -> bool:
        return all(self.folders.is_unchanged(entry) for entry in entries)

    def _start_reading_ahead(self, job: ModelJob, inventory: Inventory, listed: Collection[Location]) -> None:
        self._stop_reading_ahead()
        named = [file for file in inventory.files.values() if job.mentions.may_mean(file.location.name)]
        named.sort(key=lambda file: (file.location not in listed, -file.size))
        self._read_ahead = ReadAhead([(self.folders.path(file.location), file.size) for file in named])

    def _stop_reading_ahead(self) -> None:
        if self._read_ahead:
            self._read_ahead.close()

    def _resolve(
        self, job: ModelJob, inventory: Inventory, unknown: Sequence[RepoLine]
    ) -> tuple[list[Entry], list[Want]]:
        """Resolve lines without an entry. Return the files that are on disk anyway, and those to fetch."""
        if not unknown:
            return [], []
        files = self._source.resolve(unknown, job.stop)
        present, missing = [], []
        for want in plan.unique_wants(files):
            entry = inventory.by_identity.get((want.file.identity, want.file.folder))
            if entry:
                present.append(plan.add_names(entry, want))
            else:
                missing.append(want)
        recognised = recognise(missing, inventory, self.folders, job.stop, skip=job.name_conflicts)
        return [*present, *recognised.values()], [want for want in missing if want not in recognised]


def _model_sites(settings: Settings) -> ModelSource:
    from worker.downloads.source import WebModelSource  # noqa: PLC0415 - not needed with another source

    return WebModelSource(settings)


def _parser(settings: Settings) -> Callable[[str], Sequence[RepoLine]]:
    """Make a parser that caches: a worker gets the same list again and again."""

    @lru_cache(maxsize=16)
    def parse(repo_list: str) -> Sequence[RepoLine]:
        return parse_repo_list(repo_list, hosts=settings.model_hosts, allow_pickle=settings.allow_pickle)

    return parse


def _changed(present: Mapping[Location, Entry], inventory: Inventory) -> dict[Location, Entry]:
    return {location: entry for location, entry in present.items() if inventory.entries.get(location) is not entry}


def _log_plan(present: Collection[Location], wants: Mapping[Want, Location], pruning: PrunePlan) -> None:
    """Log all that will be fetched and pruned, before it is."""
    log.info("models: %d on disk, %d to fetch, %d to prune", len(present), len(wants), len(pruning.to_delete))
    for want, location in wants.items():
        size = "size unknown" if want.file.size is None else amount(want.file.size)
        log.info("fetch %s (%s, %s)", location, size, want.file.identity)
    for file in pruning.to_delete:
        log.info("prune %s (%s): not listed, not named by the prompt", file.location, amount(file.size))
    for location, reason in pruning.kept.items():
        log.debug("keep %s: %s", location, reason)
    if pruning.blocked_by:
        log.info("nothing is pruned: %s", pruning.blocked_by)

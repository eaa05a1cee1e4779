"""repo_list -> files on disk: each job's models made present under their canonical names, the rest pruned.

Reads like a table of contents. ``worker/sites/`` says what the lines mean, ``worker/downloads/`` brings the bytes,
``worker/models/`` knows what is on disk (``inventory.py``), which wanted files are there already (``recognise.py``),
what to do about the others (``plan.py``), what other workers use and fetch (``leases.py``), and what may be deleted
(``prune_rules.py``, ``pruner.py``). Knows nothing of ComfyUI but a function that makes it let go of its files.
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
from worker.models.prompt_names import model_names
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

ROUNDS = 3
"""How often a job brings its models anew when another worker deletes them under it."""
LEASE_SLACK_S = 60.0
"""How much longer than its time a job's models stay claimed where nobody sees that its worker is gone."""


class ModelManager:
    """Keeps one worker's models. Build it once, before the first job: what is on its disk then is never pruned.

    Args:
        settings: where the models are and what may be pruned.
        source: where missing models come from; the sites of ``worker.downloads.source`` when left out.
        release: makes ComfyUI let go of files it has loaded; called before the first of them is deleted.
        volume: where a shared network volume would be mounted.
        free_bytes: what the disk of a folder has free.
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
        self._source = source or _sites(settings)
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
        """Make the listed models present and prune the rest. Blocks; run it in a thread.

        No other worker deletes them, or what the prompt names, until :meth:`release`.

        Args:
            repo_list: the job's lines; none means that nothing is ensured and nothing pruned.
            prompt: the job's prompt; the models it names are not pruned.
            prune: the job's own wish; None for the environment's.
            skip: leave models alone.
            stop: cancels, also while another job's models are being fetched.
            report: told how far the downloads are.
            alone: whether no other job of this process may be using models; asked right before deleting.
            read_ahead: also read the models that the prompt names into memory (while ComfyUI starts).

        Raises:
            WorkerError: a line cannot be read or found, a download failed, the disk is full. Nothing was pruned then,
                but for what had to make room first; what was fetched stays.
            worker.stop.Stopped: ``stop`` was set.
        """
        job = ModelJob(
            lines=[] if skip else self._parse(repo_list),
            mentions=model_names(prompt),
            prune=self.settings.prune if prune is None else prune,
            stop=stop or Stop(),
            report=report,
            no_other_job=no_other_job,
            started_ns=time.time_ns(),
            read_ahead=read_ahead,
        )
        with self._one_at_a_time(job.stop):
            while job.lost_races < ROUNDS:
                result = self._ensure(job)
                if result:
                    return result
                log.info("another worker was at the same models; looking again")
        raise WorkerError(
            Code.DOWNLOAD_FAILED,
            "other workers on this volume keep changing the models of this job",
            "Send it again; if it stays, take the volume out of PRUNE_ROOTS, or give its endpoints one repo_list.",
        )

    def inspect(self) -> Facts:
        """What this worker has: ``models`` by folder, ``disk`` in bytes, what it may prune, ``versions``."""
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
            "prune": self._pruner.why_not() or "on",
            "versions": {"python": platform.python_version(), "manifest": MANIFEST_VERSION},
        }

    def known(self) -> list[Facts]:
        """Every model on the disk of which is known what it is, listed by this job or an earlier one."""
        inventory = self.folders.read()
        return [listed_facts(entry) for location, entry in inventory.entries.items() if location in inventory.files]

    def release(self) -> None:
        """No job uses models now: other workers may delete them. Idempotent."""
        self._leases.release()

    def close(self) -> None:
        """Stop the thread that may be reading ahead, and give up all claims."""
        self.release()
        self._stop_reading_ahead()

    def _ensure(self, job: ModelJob) -> ModelReport | None:
        """One round; None when another worker was at the same models, and it is worth looking again."""
        inventory, known, unknown = self._look(job)
        if not job.lines:
            return ModelReport(names=plan.names_of(inventory, {}))
        found, wants = self._resolve(job, inventory, unknown)
        present = {entry.location: entry for entry in (*known, *found)}
        locations = plan.choose_locations(wants, inventory, self._pruner.deleted_names)
        fetched_elsewhere = self._claim(job, inventory, [*present, *locations], wants) if unknown else frozenset()
        if unknown and not self._still_so(job, present, wants, locations):
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
        if unknown and not (len(fetched) == len(to_fetch) and self._are_there(listed.values())):
            job.lost_races += 1
            return None
        if fetched_elsewhere:
            self._fetcher.wait_for_others(job, [want for want in wants if want not in to_fetch])
            return None
        self._pruner.prune(job, inventory, pruning)
        self._pruner.note_use(listed, inventory, pruning)
        after = self.folders.read() if _changed(listed, inventory) or job.deleted else inventory
        return job.result(listed.values(), plan.names_of(after, listed))

    def _claim(
        self, job: ModelJob, inventory: Inventory, locations: Iterable[Location], wants: Sequence[Want] = ()
    ) -> frozenset[str]:
        """Tell the other workers what not to delete and what is being brought; the wanted models that they bring."""
        left_s = job.stop.remaining_s()
        seconds = (self.settings.job_timeout_s if left_s == float("inf") else left_s) + LEASE_SLACK_S
        used = [*locations, *inventory.meant(job.mentions)]
        return self._leases.claim(used, [want.file.identity for want in wants], seconds)

    def _still_so(
        self, job: ModelJob, present: Mapping[Location, Entry], wants: Sequence[Want], locations: Sequence[Location]
    ) -> bool:
        """Whether, now that all is claimed, what was there is there and what was missing is missing."""
        if not self._are_there(present.values()):
            job.lost_races += 1
            return False
        if not wants:
            return True
        now = self.folders.read(fresh=True)
        have_come = any((want.file.identity, want.file.folder) in now.by_identity for want in wants)
        return not have_come and not any(
            (location.folder, location.name.casefold()) in now.occupied for location in locations
        )

    @contextmanager
    def _one_at_a_time(self, stop: Stop) -> Iterator[None]:
        """Jobs of one worker take turns: the second finds the first one's models there."""
        while not self._lock.acquire(timeout=0.1):
            stop.check()
        try:
            yield
        finally:
            self._lock.release()

    def _look(self, job: ModelJob) -> tuple[Inventory, list[Entry], list[RepoLine]]:
        """The disk now, the listed files on it, claimed, and the lines that it does not answer.

        The job's own files are looked at one by one: a file that was changed does not change its folder.
        """
        inventory = self.folders.read()
        while True:
            known, unknown = plan.split_known(job.lines, inventory)
            self._claim(job, inventory, (entry.location for entry in known))
            if self._are_there(known):
                break
            inventory = self.folders.read(fresh=True)
        if job.read_ahead:
            job.read_ahead = False
            self._start_reading_ahead(job, inventory, {entry.location for entry in known})
        return inventory, known, unknown

    def _are_there(self, entries: Iterable[Entry]) -> bool:
        return all(self.folders.is_unchanged(entry) for entry in entries)

    def _start_reading_ahead(self, job: ModelJob, inventory: Inventory, listed: Collection[Location]) -> None:
        self._stop_reading_ahead()
        named = [file for file in inventory.files.values() if job.mentions.cover(file.location.name)]
        named.sort(key=lambda file: (file.location not in listed, -file.size))
        self._read_ahead = ReadAhead([(self.folders.path(file.location), file.size) for file in named])

    def _stop_reading_ahead(self) -> None:
        if self._read_ahead:
            self._read_ahead.close()

    def _resolve(
        self, job: ModelJob, inventory: Inventory, unknown: Sequence[RepoLine]
    ) -> tuple[list[Entry], list[Want]]:
        """Look lines up that the manifest does not know: files that are there nonetheless, and those to fetch."""
        if not unknown:
            return [], []
        files = self._source.resolve(unknown, job.stop)
        found, missing = [], []
        for want in plan.gather(files):
            entry = inventory.by_identity.get((want.file.identity, want.file.folder))
            if entry:
                found.append(plan.record_names(entry, want))
            else:
                missing.append(want)
        adopted = recognise(missing, inventory, self.folders, job.stop, but=job.taken)
        return [*found, *adopted.values()], [want for want in missing if want not in adopted]


def _sites(settings: Settings) -> ModelSource:
    from worker.downloads.source import WebModelSource  # noqa: PLC0415 - a worker with a source of its own needs no sites

    return WebModelSource(settings)


def _parser(settings: Settings) -> Callable[[str], Sequence[RepoLine]]:
    """Reads each list once: a worker gets the same one again and again."""

    @lru_cache(maxsize=16)
    def parse(repo_list: str) -> Sequence[RepoLine]:
        return parse_repo_list(repo_list, hosts=settings.model_hosts, allow_pickle=settings.allow_pickle)

    return parse


def _changed(present: Mapping[Location, Entry], inventory: Inventory) -> dict[Location, Entry]:
    return {location: entry for location, entry in present.items() if inventory.entries.get(location) is not entry}


def _log_plan(present: Collection[Location], wants: Mapping[Want, Location], pruning: PrunePlan) -> None:
    """Say what is going to happen before anything does."""
    log.info("models: %d there, %d to fetch, %d to prune", len(present), len(wants), len(pruning.to_delete))
    for want, location in wants.items():
        size = "size unknown" if want.file.size is None else amount(want.file.size)
        log.info("fetch %s (%s, %s)", location, size, want.file.identity)
    for file in pruning.to_delete:
        log.info("prune %s (%s): not listed, not named by the prompt", file.location, amount(file.size))
    for location, reason in pruning.kept.items():
        log.debug("keep %s: %s", location, reason)
    if pruning.blocked_by:
        log.info("nothing is pruned: %s", pruning.blocked_by)

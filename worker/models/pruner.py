"""Makes room and prunes for one worker, as ``prune.py`` decides.

Remembers what that decision needs for as long as the worker lives: what was on its disk before it, when models were
last used, and what it deleted. Its ComfyUI lets go of its files before the first of them goes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from worker.downloads.disk import nearest_existing
from worker.errors import Code, WorkerError
from worker.models.ensure_state import ModelJob, file_facts
from worker.models.folder_lock import folder_lock
from worker.models.inventory import Inventory, ModelFolders
from worker.models.leases import Leases
from worker.models.locations import DiskFile, Location
from worker.models.manifest import THIS_HOST, Entry
from worker.models.prune_rules import (
    Outcome,
    PrunePlan,
    PruneRules,
    delete,
    disk_full,
    is_within,
    plan_prune,
    room_first,
)
from worker.settings import Settings
from worker.stop import Stop
from worker.text import amount

USES_EVERY_S = 60.0
"""How old the manifest's ``last_used`` may be: writing it for every job would cost more than knowing it is worth."""
ROOM_WAIT_S = 10.0
"""How long deleted bytes may take to come free: ComfyUI's mapping of a file holds them until it lets go."""

log = logging.getLogger(__name__)


class Pruner:
    """Deletes one worker's models. Build it before the first job: what is on the disk then is never pruned.

    Args:
        settings: what may be pruned.
        folders: the models.
        leases: what the other workers on these folders are using.
        shared: they are on a network volume that other workers use too.
        release: makes ComfyUI let go of files it has loaded.
        free_bytes: what the disk of a folder has free.
    """

    def __init__(
        self,
        settings: Settings,
        folders: ModelFolders,
        leases: Leases,
        *,
        shared: bool,
        release: Callable[[], None] | None,
        free_bytes: Callable[[Path], int],
    ) -> None:
        self.settings = settings
        self.folders = folders
        self._leases = leases
        self.shared = shared
        self.preinstalled = frozenset() if shared else folders.read().not_brought_here(THIS_HOST)
        self.deleted_names: dict[Location, str] = {}
        """Identity by place of what was deleted while this ComfyUI lived; its caches go by name."""
        self._used: dict[Location, float] = {}
        self._release = release
        self._free_bytes = free_bytes

    def plan(self, job: ModelJob, inventory: Inventory, listed: Collection[Location]) -> PrunePlan:
        """What may go in this job."""
        rules = self._rules(job.started_ns, wanted=job.prune, empty=not job.lines, no_other_job=job.no_other_job())
        if not rules.why_not():
            rules = replace(rules, in_use=self._leases.others().using)
        return plan_prune(inventory, listed, job.mentions, rules)

    def why_not(self) -> str | None:
        """Why this worker prunes nothing whatever a job lists; None when it does prune."""
        return self._rules(time.time_ns(), wanted=self.settings.prune, empty=False, no_other_job=True).why_not()

    def make_room(self, job: ModelJob, inventory: Inventory, needed: int, pruning: PrunePlan) -> None:
        """Delete unlisted models before a download of so many bytes, only if it fits with that and not without.

        Raises:
            WorkerError: DISK_FULL.
        """
        free = self._free_bytes(nearest_existing(self.folders.root))
        first = room_first(pruning, needed, free, shared=self.shared)
        if first is None:
            raise disk_full(pruning, needed, free)
        if first:
            log.info("making room for %s: %d files go first", amount(needed), len(first))
            self._delete(job, inventory, first)
            self._wait_for_room(job.stop, needed)

    def prune(self, job: ModelJob, inventory: Inventory, pruning: PrunePlan) -> None:
        """Delete what the plan dooms, or warn of what would have gone."""
        if pruning.blocked_by:
            if pruning.to_delete:
                names = ", ".join(str(file.location) for file in pruning.to_delete)
                job.warnings.append(f"{pruning.blocked_by}: {len(pruning.to_delete)} models would have gone: {names}")
            return
        self._delete(job, inventory, [file for file in pruning.to_delete if file.location not in job.deleted])

    def note_use(self, listed: Mapping[Location, Entry], inventory: Inventory, pruning: PrunePlan) -> None:
        """Remember when the job's models were used; written down only if what is written is rather old."""
        now = time.time()
        named = (location for location, reason in pruning.kept.items() if reason == "named by the prompt")
        used = [*listed, *named]
        self._used.update(dict.fromkeys(used, now))
        entries = {**inventory.entries, **listed}
        stale = [
            entries[location]
            for location in used
            if location in entries and entries[location].last_used < now - USES_EVERY_S
        ]
        if stale:
            self.folders.commit({entry.location: replace(entry, last_used=now) for entry in stale})

    def _rules(self, started_ns: int, *, wanted: bool, empty: bool, no_other_job: bool) -> PruneRules:
        settings = self.settings
        named = is_within(self.folders.root, [root.resolve() for root in settings.prune_roots])
        return PruneRules(
            wanted=wanted,
            list_empty=empty,
            shared=self.shared and not named,
            no_other_job=no_other_job,
            started_ns=started_ns,
            dry_run=settings.prune_dry_run,
            keep_globs=settings.keep_models,
            keep_bytes=int(settings.keep_gb * 1e9),
            preinstalled=self.preinstalled,
            used_since=time.time() - settings.job_timeout_s - USES_EVERY_S if self.shared else None,
            last_used=self._used,
        )

    def _wait_for_room(self, stop: Stop, needed: int) -> None:
        until = time.monotonic() + ROOM_WAIT_S
        while (free := self._free_bytes(self.folders.root)) < needed:
            if time.monotonic() > until:
                what = f"the missing models need {amount(needed)} but the disk has {amount(free)} free"
                raise WorkerError(
                    Code.DISK_FULL, f"{what}, though unlisted models were deleted: something still maps them"
                )
            stop.sleep(0.2)

    def _delete(self, job: ModelJob, inventory: Inventory, to_delete: Sequence[DiskFile]) -> None:
        if not to_delete or not job.no_other_job():
            return
        self._release_comfyui_files(job)
        for file in to_delete:
            try:
                with folder_lock(self.folders.root):
                    claimed = file.location in self._leases.others().using
                    outcome = Outcome.CLAIMED if claimed else delete(self.folders.root, file)
            except OSError as error:
                job.warnings.append(f"{file.location} could not be pruned: {error.strerror}")
                continue
            log.info("pruned %s (%s): %s", file.location, amount(file.size), outcome.value)
            if outcome is Outcome.DELETED:
                entry = inventory.entries.get(file.location)
                self.deleted_names[file.location] = entry.identity if entry else f"unknown:{file.size}:{file.mtime_ns}"
                job.pruned.append(file_facts(file, entry))
                job.deleted.add(file.location)
        self.folders.commit(dict.fromkeys(job.deleted))

    def _release_comfyui_files(self, job: ModelJob) -> None:
        """Ask ComfyUI once a job to close its files: a mapped file keeps its disk space though it is deleted."""
        if self._release and not job.released:
            job.released = True
            try:
                self._release()
            except (OSError, WorkerError) as error:
                log.warning("ComfyUI did not let go of its models (%s)", type(error).__name__)

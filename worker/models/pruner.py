"""Makes room and prunes for one worker, by the rules of ``prune_rules.py``.

Keeps the facts those rules need while the worker lives: the files that were on its disk before it, the last use of each
model, and what it deleted. ComfyUI is asked to close its model files before the first one is deleted.
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
    files_to_make_room,
    is_within,
    plan_prune,
)
from worker.settings import Settings
from worker.stop import Stop
from worker.text import amount

USES_EVERY_S = 60.0
"""Longest age of ``last_used`` in the manifest: writing it for every job would cost too much."""
ROOM_WAIT_S = 10.0
"""Longest wait for deleted bytes to become free: ComfyUI holds them until it unmaps the file."""

log = logging.getLogger(__name__)


class Pruner:
    """Deletes one worker's models. Build it before the first job: files that are on the disk then are never pruned.

    Args:
        settings: whether and what to prune.
        folders: the models folder.
        leases: the claims of the other workers on it.
        shared: the folder is on a network volume that other workers use too.
        release: makes ComfyUI close the model files it has loaded.
        free_bytes: returns the bytes free on the disk of a folder.
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
        self.preinstalled = frozenset() if shared else folders.read().not_downloaded_on(THIS_HOST)
        self.deleted_names: dict[Location, str] = {}
        """Location -> identity of files deleted since ComfyUI started: its caches go by name."""
        self._used: dict[Location, float] = {}
        self._release = release
        self._free_bytes = free_bytes

    def plan(self, job: ModelJob, inventory: Inventory, listed: Collection[Location]) -> PrunePlan:
        """Decide what this job may delete."""
        rules = self._rules(job.started_ns, enabled=job.prune, empty=not job.lines, no_other_job=job.no_other_job())
        if not rules.blocked_by():
            rules = replace(rules, in_use=self._leases.others().using)
        return plan_prune(inventory, listed, job.mentions, rules)

    def blocked_by(self) -> str | None:
        """Return the reason why this worker never prunes, whatever a job lists; None if it may prune."""
        return self._rules(time.time_ns(), enabled=self.settings.prune, empty=False, no_other_job=True).blocked_by()

    def make_room(self, job: ModelJob, inventory: Inventory, needed: int, pruning: PrunePlan) -> None:
        """Delete unlisted models if only then a download of ``needed`` bytes fits.

        Raises:
            WorkerError: DISK_FULL.
        """
        free = self._free_bytes(nearest_existing(self.folders.root))
        to_delete = files_to_make_room(pruning, needed, free, shared=self.shared)
        if to_delete is None:
            raise disk_full(pruning, needed, free)
        if to_delete:
            log.info("making room for %s: deleting %d files first", amount(needed), len(to_delete))
            self._delete(job, inventory, to_delete)
            self._wait_for_room(job.stop, needed)

    def prune(self, job: ModelJob, inventory: Inventory, pruning: PrunePlan) -> None:
        """Delete the files of the plan, or add a warning that names them if the plan is blocked (a dry run)."""
        if pruning.blocked_by:
            if pruning.to_delete:
                names = ", ".join(str(file.location) for file in pruning.to_delete)
                job.warnings.append(f"{pruning.blocked_by}: {len(pruning.to_delete)} models would be deleted: {names}")
            return
        self._delete(job, inventory, [file for file in pruning.to_delete if file.location not in job.deleted])

    def record_use(self, listed: Mapping[Location, Entry], inventory: Inventory, pruning: PrunePlan) -> None:
        """Record that the job's models were used now; in the manifest only if its ``last_used`` is old."""
        now = time.time()
        named = (location for location, reason in pruning.kept.items() if reason == "named by the prompt")
        used = [*listed, *named]
        self._used.update(dict.fromkeys(used, now))
        entries = {**inventory.entries, **listed}
        stale = [entry for entry in map(entries.get, used) if entry and entry.last_used < now - USES_EVERY_S]
        if stale:
            self.folders.commit({entry.location: replace(entry, last_used=now) for entry in stale})

    def _rules(self, started_ns: int, *, enabled: bool, empty: bool, no_other_job: bool) -> PruneRules:
        settings = self.settings
        in_prune_roots = is_within(self.folders.root, [root.resolve() for root in settings.prune_roots])
        return PruneRules(
            enabled=enabled,
            list_empty=empty,
            shared=self.shared and not in_prune_roots,
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
        deadline = time.monotonic() + ROOM_WAIT_S
        while (free := self._free_bytes(self.folders.root)) < needed:
            if time.monotonic() > deadline:
                raise WorkerError(
                    Code.DISK_FULL,
                    f"the missing models need {amount(needed)} but the disk has {amount(free)} free, though unlisted "
                    "models were deleted: a process still has them open",
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
        """Ask ComfyUI once a job to close its model files: a deleted file keeps its disk space while it is mapped."""
        if self._release and not job.released:
            job.released = True
            try:
                self._release()
            except (OSError, WorkerError) as error:
                log.warning("ComfyUI did not close its model files (%s)", type(error).__name__)

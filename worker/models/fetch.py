"""Fetches one job's missing models: makes room, marks them as pending, downloads them, records them in the manifest.

Models that another worker on the same folder is downloading are waited for, not downloaded twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from worker.downloads.part_files import sweep_parts
from worker.errors import WorkerError
from worker.models import plan
from worker.models.ensure_state import ModelJob
from worker.models.inventory import Inventory, ModelFolders
from worker.models.leases import Leases
from worker.models.locations import Location
from worker.models.manifest import Changes, Entry
from worker.models.plan import Want
from worker.models.prune_rules import PrunePlan
from worker.models.pruner import Pruner
from worker.sites.types import MANAGED_FOLDERS, Download, FileProgress, ModelSource

POLL_EVERY_S = 0.2

log = logging.getLogger(__name__)


class ModelFetcher:
    """Downloads the models that the plan chose.

    Args:
        folders: the models folder and its manifest.
        source: the model sites.
        leases: the claims of this worker and of the others.
        pruner: makes room on the disk.
    """

    def __init__(self, folders: ModelFolders, source: ModelSource, leases: Leases, pruner: Pruner) -> None:
        self._folders, self._source, self._leases, self._pruner = folders, source, leases, pruner

    def sweep(self) -> None:
        """Delete the partial files of downloads that were killed."""
        for folder in MANAGED_FOLDERS:
            sweep_parts(self._folders.root / folder)

    def fetch(
        self,
        job: ModelJob,
        inventory: Inventory,
        changed: Changes,
        wants: Mapping[Want, Location],
        pruning: PrunePlan,
    ) -> dict[Location, Entry]:
        """Make room, mark the models as pending in the manifest and download them. Return their final entries."""
        try:
            if wants:
                self.sweep()
                self._pruner.make_room(job, inventory, sum(want.file.size or 0 for want in wants), pruning)
            pending = {location: plan.pending_entry(want, location, time.time()) for want, location in wants.items()}
            self._folders.commit({**changed, **pending})
            return self._download(job, wants) if wants else {}
        finally:
            if wants:
                self._leases.end_fetching()

    def _download(self, job: ModelJob, wants: Mapping[Want, Location]) -> dict[Location, Entry]:
        """Download the files and record each in the manifest as it is on disk: another worker may have put it there.

        If one fails, the finished ones stay pending: the next job that wants them recognises them. Fewer entries than
        wants mean that another worker interfered, and that the caller should try again.
        """
        downloads = [Download(want.file, self._folders.path(location)) for want, location in wants.items()]
        try:
            downloaded = {each.path: each for each in self._source.fetch(downloads, job.stop, job.report)}
        except BaseException as error:
            conflict = _name_conflict(error)
            absent = [
                location for location in wants.values() if location == conflict or not self._folders.stat_file(location)
            ]
            self._folders.commit(dict.fromkeys(absent))
            if not conflict:
                raise
            job.name_conflicts.add(conflict)
            log.warning("another worker saved another file as %s meanwhile; choosing another name", conflict)
            return {}
        fetched = {}
        for want, location in wants.items():
            result, file = downloaded.get(self._folders.path(location)), self._folders.stat_file(location)
            if result and file and file.size == result.size:
                fetched[location] = plan.new_entry(want, file, time.time(), sha256=result.sha256, origin="downloaded")
        self._folders.commit({location: fetched.get(location) for location in wants.values()})
        return fetched

    def wait_for_others(self, job: ModelJob, wants: Sequence[Want]) -> None:
        """Wait until the workers that download these models have finished, failed or died."""
        log.info("waiting for another worker's downloads: %s", ", ".join(want.file.filename for want in wants))
        job.report([FileProgress(want.file.filename, 0, want.file.size) for want in wants])
        identities = {want.file.identity for want in wants}
        while identities & self._leases.others().fetching:
            job.stop.sleep(POLL_EVERY_S)


def _name_conflict(error: BaseException) -> Location | None:
    """Return the location that another worker filled during the download; None for any other error."""
    name = error.details.get("taken") if isinstance(error, WorkerError) else None
    return Location.parse(name) if isinstance(name, str) else None

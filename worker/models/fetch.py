"""Brings one job's missing models: makes room, notes them as begun, fetches them and notes them as they are.

Those that another worker on the same folder brings already are waited for, not fetched a second time.
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

WAIT_LOOK_S = 0.2

log = logging.getLogger(__name__)


class ModelFetcher:
    """One worker's hands; what to bring is decided before.

    Args:
        folders: where the models go, and their manifest.
        source: where they come from.
        leases: what this worker and the others claim.
        pruner: makes room.
    """

    def __init__(self, folders: ModelFolders, source: ModelSource, leases: Leases, pruner: Pruner) -> None:
        self._folders, self._source, self._leases, self._pruner = folders, source, leases, pruner

    def sweep(self) -> None:
        """Free the space of downloads that were killed."""
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
        """Make room for the missing models and fetch them, each noted as begun before and as it is afterwards."""
        try:
            if wants:
                self.sweep()
                self._pruner.make_room(job, inventory, sum(want.file.size or 0 for want in wants), pruning)
            begun = {location: plan.record_begun(want, location, time.time()) for want, location in wants.items()}
            self._folders.commit({**changed, **begun})
            return self._download(job, wants) if wants else {}
        finally:
            if wants:
                self._leases.fetched()

    def _download(self, job: ModelJob, wants: Mapping[Want, Location]) -> dict[Location, Entry]:
        """Bring the files and note each in the manifest, as it is now: another worker may have brought it.

        When one fails, the finished ones stay noted as begun: the next job that wants them recognises them. Fewer
        entries than wants mean that another worker was at work here, and that it is worth looking again.
        """
        downloads = [Download(want.file, self._folders.path(location)) for want, location in wants.items()]
        try:
            done = {each.path: each for each in self._source.fetch(downloads, job.stop, job.report)}
        except BaseException as error:
            taken = _taken(error)
            gone = [
                location for location in wants.values() if location == taken or not self._folders.stat_file(location)
            ]
            self._folders.commit(dict.fromkeys(gone))
            if not taken:
                raise
            job.taken.add(taken)
            log.warning("another worker gave the name %s to another file; choosing again", taken)
            return {}
        fetched = {}
        for want, location in wants.items():
            result, file = done.get(self._folders.path(location)), self._folders.stat_file(location)
            if result and file and file.size == result.size:
                fetched[location] = plan.record(want, file, time.time(), sha256=result.sha256, origin="downloaded")
        self._folders.commit({location: fetched.get(location) for location in wants.values()})
        return fetched

    def wait_for_others(self, job: ModelJob, wants: Sequence[Want]) -> None:
        """Until the workers that bring these models have done so, have failed or are gone."""
        log.info("waiting for models that another worker brings: %s", ", ".join(want.file.filename for want in wants))
        job.report([FileProgress(want.file.filename, 0, want.file.size) for want in wants])
        identities = {want.file.identity for want in wants}
        while identities & self._leases.others().fetching:
            job.stop.sleep(WAIT_LOOK_S)


def _taken(error: BaseException) -> Location | None:
    """The place whose name another worker's file took during the download; None when that failed otherwise."""
    name = error.details.get("taken") if isinstance(error, WorkerError) else None
    return Location.parse(name) if isinstance(name, str) else None

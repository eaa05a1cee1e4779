"""Recognises wanted models by their bytes that are on disk but not in the manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worker.downloads.disk import sha256_of
from worker.downloads.safetensors import SafetensorsError, check_safetensors
from worker.models import plan
from worker.models.inventory import Inventory, ModelFolders
from worker.models.locations import Location
from worker.models.manifest import Entry
from worker.models.plan import Want
from worker.sites.file_names import SAFE_EXTENSIONS
from worker.sites.types import ModelFile
from worker.stop import Stop

HASHERS = 4

log = logging.getLogger(__name__)


def recognise(
    wants: Sequence[Want], inventory: Inventory, folders: ModelFolders, stop: Stop, *, skip: Collection[Location] = ()
) -> dict[Want, Entry]:
    """Return an entry for each wanted model that is on disk already, with the right name, size and bytes.

    Args:
        wants: the models to look for; a file on disk answers one of them at most.
        inventory: the files on disk.
        folders: the models folder.
        stop: cancels the hashing.
        skip: locations that are not considered.
    """
    candidates = {want: plan.candidates(want, inventory) for want in wants}
    searching = [want for want, files in candidates.items() if files]
    if not searching:
        return {}

    def search(want: Want) -> Entry | None:
        allowed = (file for file in candidates[want] if file.location not in skip)
        file = next((f for f in allowed if has_expected_bytes(folders.path(f.location), want.file, stop)), None)
        if not file:
            return None
        log.info("%s is there already", file.location)
        origin = "downloaded" if file.location in inventory.pending else "adopted"
        return plan.new_entry(want, file, time.time(), sha256=want.file.sha256, origin=origin)

    with ThreadPoolExecutor(HASHERS, "recognise") as pool:
        found = list(zip(searching, pool.map(search, searching), strict=True))
    first: dict[Location, tuple[Want, Entry]] = {}
    for want, entry in found:
        if entry:
            first.setdefault(entry.location, (want, entry))
    return dict(first.values())


def has_expected_bytes(path: Path, wanted: ModelFile, stop: Stop) -> bool:
    """Return True if the file has the header and, if the site published it, the hash of the wanted model."""
    try:
        if path.name.lower().endswith(SAFE_EXTENSIONS):
            check_safetensors(path)
        return wanted.sha256 is None or sha256_of(path, stop) == wanted.sha256
    except (OSError, SafetensorsError):
        return False

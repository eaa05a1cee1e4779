"""Recognises wanted models that are on disk already though the manifest does not know them, by their bytes."""

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
    wants: Sequence[Want], inventory: Inventory, folders: ModelFolders, stop: Stop, *, but: Collection[Location] = ()
) -> dict[Want, Entry]:
    """The wanted files that are on disk already: right name, right size, right bytes.

    Args:
        wants: what to look for; a file on disk answers one of them at most.
        inventory: the disk.
        folders: where the files are.
        stop: ends the hashing.
        but: names at which nothing is looked at.
    """
    candidates = {want: plan.candidates(want, inventory) for want in wants}
    searching = [want for want, files in candidates.items() if files]
    if not searching:
        return {}

    def search(want: Want) -> Entry | None:
        allowed = (file for file in candidates[want] if file.location not in but)
        file = next((f for f in allowed if is_right(folders.path(f.location), want.file, stop)), None)
        if not file:
            return None
        log.info("%s is there already", file.location)
        origin = "downloaded" if file.location in inventory.pending else "adopted"
        return plan.record(want, file, time.time(), sha256=want.file.sha256, origin=origin)

    with ThreadPoolExecutor(HASHERS, "adopt") as pool:
        found = list(zip(searching, pool.map(search, searching), strict=True))
    first: dict[Location, tuple[Want, Entry]] = {}
    for want, entry in found:
        if entry:
            first.setdefault(entry.location, (want, entry))
    return dict(first.values())


def is_right(path: Path, wanted: ModelFile, stop: Stop) -> bool:
    """Whether the bytes on disk are the wanted ones, as far as the site says what those are."""
    try:
        if path.name.lower().endswith(SAFE_EXTENSIONS):
            check_safetensors(path)
        return wanted.sha256 is None or sha256_of(path, stop) == wanted.sha256
    except (OSError, SafetensorsError):
        return False

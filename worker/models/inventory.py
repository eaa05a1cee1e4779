"""The model files on disk, together with their entries in the manifest.

Owns the scan of the managed folders and the immutable :class:`Inventory` made of it and the manifest
(``manifest.py``). It neither decides what to fetch (``plan.py``) nor what to delete (``prune_rules.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from worker.models.folder_lock import folder_lock
from worker.models.locations import LEGACY_FOLDERS, DiskFile, Fingerprint, Location
from worker.models.manifest import MANIFEST_PATH, Changes, Entry, Manifest
from worker.models.prompt_names import Mentions
from worker.sites.types import MANAGED_FOLDERS, MODEL_EXTENSIONS

log = logging.getLogger(__name__)

SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before the scan may change again unnoticed within the same clock tick."""
MAX_DEPTH = 12


@dataclass(frozen=True)
class Inventory:
    """A snapshot of the models root: its files, and the manifest entries that are still true of them."""

    files: Mapping[Location, DiskFile] = field(default_factory=dict)
    entries: Mapping[Location, Entry] = field(default_factory=dict)
    """Only entries that match their file."""
    pending: Mapping[Location, Entry] = field(default_factory=dict)
    """Downloads that a worker began; their files may exist by now, or never will."""
    occupied: frozenset[tuple[str, str]] = frozenset()
    """(folder, case-folded name) of everything directly in a folder: files, folders, broken links."""

    @cached_property
    def by_key(self) -> Mapping[str, Entry]:
        """Request key -> the entry that answers it."""
        return {key: entry for entry in self.entries.values() for key in entry.keys}

    @cached_property
    def by_identity(self) -> Mapping[tuple[str, str], Entry]:
        """(identity, folder) -> its entry."""
        return {(entry.identity, entry.location.folder): entry for entry in self.entries.values()}

    @cached_property
    def aliases(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Folder -> file name as ComfyUI lists it -> other names of the file, for those that have any."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for location, entry in self.entries.items():
            if entry.aliases or entry.canonical != location.name:
                found.setdefault(location.folder, {})[location.name] = (*entry.aliases, entry.canonical)
        return found

    @cached_property
    def by_basename(self) -> Mapping[tuple[str, str], list[DiskFile]]:
        """(folder, basename) -> the files of that name, in any subfolder."""
        found: dict[tuple[str, str], list[DiskFile]] = {}
        for file in self.files.values():
            found.setdefault((file.location.folder, file.location.basename), []).append(file)
        return found

    def mentioned(self, mentions: Mentions) -> list[Location]:
        """Return the files that a prompt may mean by any of their names."""
        if not (mentions.names or mentions.texts):
            return []
        return [location for location in self.files if mentions.may_mean(location.name, self.other_names(location))]

    def other_names(self, location: Location) -> tuple[str, ...]:
        """Return the aliases and the canonical name that the manifest has for a file."""
        entry = self.entries.get(location)
        return (*entry.aliases, entry.canonical) if entry else ()

    def not_downloaded_on(self, host: str) -> frozenset[Fingerprint]:
        """Return the files that no worker on ``host`` downloaded: baked into the image, or put there by hand.

        The manifest marks downloads, also after a restart in the same container, and if a worker was killed between a
        download and its final entry. Downloads made while the image was built have another host.
        Without a manifest every file is kept: a full disk is better than a deleted model.
        """
        entries = (*self.entries.values(), *self.pending.values())
        downloaded = {entry.location for entry in entries if entry.origin != "adopted" and entry.host == host}
        return frozenset(file.fingerprint for location, file in self.files.items() if location not in downloaded)


class ModelFolders:
    """The models root on disk: scans it and keeps its manifest. Thread-safe.

    Args:
        root: the models root with its symlinks resolved. It need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest = Manifest(root / MANIFEST_PATH)
        self._lock = threading.Lock()
        self._scan: _Scan | None = None
        self._last: tuple[_Scan, Mapping[Location, Entry], Inventory] | None = None

    def path(self, location: Location) -> Path:
        """Return the file's path on this machine."""
        return self.root / location.disk_folder / location.name

    def read(self, *, fresh: bool = False) -> Inventory:
        """Return the current inventory. Scan the disk only if a folder changed since the last scan, or if ``fresh``.

        Changing a file in place does not change its folder: call :meth:`is_unchanged` for the files that matter.
        """
        with self._lock:
            if fresh or self._scan is None or not self._scan.is_current():
                self._scan = _Scan(self.root)
            entries = self._manifest.read()
            if self._last and self._last[0] is self._scan and self._last[1] is entries:
                return self._last[2]
            inventory = _inventory(self._scan, entries)
            self._last = (self._scan, entries, inventory)
            return inventory

    def stat_file(self, location: Location) -> DiskFile | None:
        """Return one file as it is now; None if it is gone, not a regular file, or a broken link."""
        path = self.path(location)
        try:
            facts = path.stat()
            linked = path.is_symlink()
        except OSError:
            return None
        return DiskFile.of(location, facts, linked) if stat.S_ISREG(facts.st_mode) else None

    def is_unchanged(self, file: DiskFile | Entry) -> bool:
        """Return True if the file still has this size and modification time (one ``stat``, for the warm path)."""
        try:
            facts = os.stat(f"{self.root}/{file.location.disk_folder}/{file.location.name}")  # noqa: PTH116 - a Path costs 3x the call
        except OSError:
            return False
        return facts.st_size == file.size and facts.st_mtime_ns == file.mtime_ns

    def commit(self, changes: Changes) -> None:
        """Merge ``changes`` into the manifest. A failed write is only logged: the files are then recognised again."""
        if not changes:
            return
        with self._lock:
            try:
                with folder_lock(self.root):  # without it, two workers merging at once would lose entries
                    self._manifest.merge(changes, self._scan.files if self._scan else {}, self.root)
            except OSError as error:
                log.warning("the model manifest could not be written (%s); models are recognised again", error.strerror)


class _Scan:
    """One walk over the managed folders, and the folders' times: an unchanged tree is not walked again."""

    def __init__(self, root: Path) -> None:
        self.files: dict[Location, DiskFile] = {}
        self.occupied: set[tuple[str, str]] = set()
        self._folder_times: dict[str, int | None] = {}
        self._began_ns = time.time_ns()
        for where in (*MANAGED_FOLDERS, *LEGACY_FOLDERS):
            path = f"{root}/{where}"
            self._walk(path, where, "", os.path.islink(path), ())  # noqa: PTH114 - all paths here are str, for speed
        self._settled = all(
            self._began_ns - changed > SETTLED_NS for changed in self._folder_times.values() if changed is not None
        )

    def is_current(self) -> bool:
        """Return True if no folder has gained, lost or renamed a file since the walk."""
        return self._settled and all(_folder_time(path) == before for path, before in self._folder_times.items())

    def _walk(self, path: str, where: str, prefix: str, linked: bool, ancestors: tuple[tuple[int, int], ...]) -> None:
        try:
            facts = os.stat(path)  # noqa: PTH116
            here = (facts.st_dev, facts.st_ino)
            self._folder_times[path] = facts.st_mtime_ns
            if here in ancestors or len(ancestors) > MAX_DEPTH:
                return
            with os.scandir(path) as found:
                for item in found:
                    self._add(item, where, prefix, linked, (*ancestors, here))
        except OSError:
            self._folder_times.setdefault(path, None)

    def _add(
        self, item: os.DirEntry[str], where: str, prefix: str, linked: bool, ancestors: tuple[tuple[int, int], ...]
    ) -> None:
        location = Location(where, prefix + item.name)
        if not prefix:
            self.occupied.add((location.folder, item.name.casefold()))
        linked = linked or item.is_symlink()
        if item.name.lower().endswith(MODEL_EXTENSIONS) and not item.is_dir():
            with contextlib.suppress(OSError):  # a broken link, or a file deleted since: not present
                facts = item.stat()
                if stat.S_ISREG(facts.st_mode):
                    self.files[location] = DiskFile.of(location, facts, linked)
        elif item.name != ".git" and item.is_dir():  # ComfyUI skips it too
            self._walk(item.path, where, f"{prefix}{item.name}/", linked, ancestors)


def _folder_time(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return None


def _inventory(scan: _Scan, entries: Mapping[Location, Entry]) -> Inventory:
    matching = {}
    pending = {}
    for location, entry in entries.items():
        file = scan.files.get(location)
        if entry.origin == "pending":
            pending[location] = entry
        elif file and entry.matches(file):
            matching[location] = entry
    return Inventory(scan.files, matching, pending, frozenset(scan.occupied))

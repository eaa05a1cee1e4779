"""What model files are on disk, and the manifest that remembers facts about them.

Owns the scan of the managed folders, the manifest ``<models_dir>/.comfy-worker/manifest.json`` and the immutable
:class:`Inventory` made of the two. Decides nothing about what to fetch or delete (``plan.py``) and deletes nothing
(``prune.py``).

The manifest is a memory, never the authority: an entry counts only while its file has the size and the modification
time that were written down. A manifest that is lost, broken or of another version is an empty one; files are then
recognised again by their name, size and content (:mod:`model_manager` adopts them), not fetched again. Several workers
may share one folder: each write reads the manifest again, merges and replaces it, so at worst an entry is lost and its
file is recognised once more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from worker.model_types import MANAGED_FOLDERS, MODEL_EXTENSIONS

log = logging.getLogger(__name__)

MANIFEST_PATH = ".comfy-worker/manifest.json"
MANIFEST_VERSION = 1
READ_ALSO = {"unet": "diffusion_models", "clip": "text_encoders"}
"""Older folders that ComfyUI lists together with a managed one: files in them are present, and never deleted."""
SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was read may change again within the same clock tick, unseen."""
ABANDONED_S = 24 * 3600
WRITING_S = 60
MAX_DEPTH = 12
THIS_HOST = socket.gethostname()


class Place(NamedTuple):
    """Where a model file is: a folder directly under the models root, and the path inside it with forward slashes."""

    where: str
    name: str

    @property
    def folder(self) -> str:
        """The managed folder whose ComfyUI list shows this file."""
        return READ_ALSO.get(self.where, self.where)

    @property
    def basename(self) -> str:
        """The file's name without its subfolders."""
        return self.name.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.where}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that ``str()`` wrote."""
        where, _, name = text.partition("/")
        return cls(where, name)


Fingerprint = tuple[Place, int, int]
"""Place, size and modification time (ns)."""


class DiskFile(NamedTuple):
    """One model file as the scan saw it; a symlink stands for the file it leads to, one to nowhere is not there."""

    place: Place
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    linked: bool
    """The file is a symlink or lies behind a symlinked folder: somebody else's, so never deleted."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells these bytes at this place from any that come later."""
        return self.place, self.size, self.mtime_ns


@dataclass(frozen=True)
class Entry:
    """What the manifest knows of one file."""

    place: Place
    identity: str
    canonical: str
    """The name the file should have by its site or its line; ``place`` may differ when that name was taken."""
    size: int
    mtime_ns: int
    keys: tuple[str, ...] = ()
    """Request keys (:attr:`worker.model_types.RepoLine.key`) that this file answers."""
    aliases: tuple[str, ...] = ()
    sha256: str | None = None
    verified: str = ""
    """``sha256`` or ``size+header``: how it is known that the bytes are right."""
    source: str = ""
    last_used: float = 0.0
    """Seconds since the epoch."""
    origin: str = "downloaded"
    """``downloaded`` by a worker, ``adopted`` (it was there before), or ``pending``: a download of it was begun."""
    host: str = ""
    """The machine or container whose worker wrote this."""

    def matches(self, file: DiskFile) -> bool:
        """Whether the entry speaks of the very file on disk."""
        return self.size == file.size and self.mtime_ns == file.mtime_ns

    def to_json(self) -> dict[str, Any]:
        """The entry without its place, which is its key in the manifest."""
        return {name: getattr(self, name) for name in _ENTRY_TYPES}

    @classmethod
    def from_json(cls, place: str, facts: Any) -> Entry | None:
        """Read one entry; None when anything in it is not what it should be."""
        if not isinstance(facts, dict):
            return None
        known = {name: facts[name] for name in _ENTRY_TYPES if name in facts}
        if not all(isinstance(value, _ENTRY_TYPES[name]) for name, value in known.items()):
            return None
        for name in ("keys", "aliases"):
            known[name] = tuple(str(item) for item in known.get(name, ()))
        try:
            return cls(Place.parse(place), **known)
        except TypeError:
            return None


_ENTRY_TYPES: dict[str, type | tuple[type, ...]] = {
    "identity": str,
    "canonical": str,
    "size": int,
    "mtime_ns": int,
    "keys": list,
    "aliases": list,
    "sha256": (str, type(None)),
    "verified": str,
    "source": str,
    "last_used": (int, float),
    "origin": str,
    "host": str,
}

Changes = Mapping[Place, Entry | None]
"""What to write into the manifest: an entry, or None to forget the file."""


@dataclass(frozen=True)
class Inventory:
    """One consistent look at the models root: files, and those facts about them that still hold."""

    files: Mapping[Place, DiskFile] = field(default_factory=dict)
    entries: Mapping[Place, Entry] = field(default_factory=dict)
    """Only entries that match their file."""
    pending: Mapping[Place, Entry] = field(default_factory=dict)
    """Downloads that some worker began; their files may be there by now, or never come."""
    occupied: frozenset[tuple[str, str]] = frozenset()
    """(folder, case-folded name) of everything directly in a folder, be it a file, a folder or a broken link."""

    @cached_property
    def by_key(self) -> Mapping[str, Entry]:
        """Request key -> the entry that answers it."""
        return {key: entry for entry in self.entries.values() for key in entry.keys}

    @cached_property
    def by_identity(self) -> Mapping[tuple[str, str], Entry]:
        """(identity, folder) -> its entry."""
        return {(entry.identity, entry.place.folder): entry for entry in self.entries.values()}

    @cached_property
    def aliases(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Folder -> file name as ComfyUI lists it -> other names of the file, for those that have any."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for place, entry in self.entries.items():
            if entry.aliases or entry.canonical != place.name:
                found.setdefault(place.folder, {})[place.name] = (*entry.aliases, entry.canonical)
        return found

    @cached_property
    def by_basename(self) -> Mapping[tuple[str, str], list[DiskFile]]:
        """(folder, basename) -> the files of that name, in whatever subfolder."""
        found: dict[tuple[str, str], list[DiskFile]] = {}
        for file in self.files.values():
            found.setdefault((file.place.folder, file.place.basename), []).append(file)
        return found

    def not_brought_here(self, host: str) -> frozenset[Fingerprint]:
        """The files that no worker on ``host`` brought: baked into the image, or put there by hand.

        The manifest tells downloads apart, also after a restart in the same container, and when a worker was killed
        between a download and its note of it. One that lies in the image was written while the image was built, on
        another host. A lost manifest makes everything precious: lean is worth less.
        """
        notes = (*self.entries.values(), *self.pending.values())
        brought = {entry.place for entry in notes if entry.origin != "adopted" and entry.host == host}
        return frozenset(file.fingerprint for place, file in self.files.items() if place not in brought)


class ModelFolders:
    """The models root on disk: reads inventories and keeps the manifest. Safe to use from several threads.

    Args:
        root: the models root, its symlinks resolved. It need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest = _Manifest(root / MANIFEST_PATH)
        self._lock = threading.Lock()
        self._scan: _Scan | None = None
        self._last: tuple[_Scan, Mapping[Place, Entry], Inventory] | None = None

    def path(self, place: Place) -> Path:
        """The file's path on this machine."""
        return self.root / place.where / place.name

    def read(self, *, fresh: bool = False) -> Inventory:
        """Look at the disk. Folders that did not change since the last look are not read again, unless ``fresh``.

        A file that was changed in place does not change its folder: use :meth:`look` on the files that matter.
        """
        with self._lock:
            if fresh or self._scan is None or not self._scan.holds():
                self._scan = _Scan(self.root)
            entries = self._manifest.read()
            if self._last and self._last[0] is self._scan and self._last[1] is entries:
                return self._last[2]
            inventory = _inventory(self._scan, entries)
            self._last = (self._scan, entries, inventory)
            return inventory

    def look(self, place: Place) -> DiskFile | None:
        """One file as it is now; None when it is gone, is no regular file or its link leads nowhere."""
        path = self.path(place)
        try:
            facts = path.stat()
            linked = path.is_symlink()
        except OSError:
            return None
        return _disk_file(place, facts, linked) if stat.S_ISREG(facts.st_mode) else None

    def same(self, file: DiskFile | Entry) -> bool:
        """Whether the file has the size and time that were seen or written down (one ``stat``, for the warm path)."""
        try:
            facts = os.stat(f"{self.root}/{file.place.where}/{file.place.name}")  # noqa: PTH116 - a Path costs 3x the call
        except OSError:
            return False
        return facts.st_size == file.size and facts.st_mtime_ns == file.mtime_ns

    def commit(self, changes: Changes) -> None:
        """Merge ``changes`` into the manifest on disk. A disk that refuses is logged: only a memory is lost."""
        if not changes:
            return
        with self._lock:
            try:
                self._manifest.merge(changes, self._scan.files if self._scan else {}, self.root)
            except OSError as error:
                log.warning("the model manifest could not be written (%s); models get recognised again", error.strerror)


class _Manifest:
    """The manifest file; what was parsed is kept as long as the file on disk is the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: Mapping[Place, Entry] = MappingProxyType({})
        self._stamp: tuple[int, int, int] | None = None

    def read(self) -> Mapping[Place, Entry]:
        """The entries on disk; none when the file cannot be read, never an error."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._entries = MappingProxyType(self._parse() if stamp else {})
            self._stamp = stamp
        return self._entries

    def merge(self, changes: Changes, seen: Mapping[Place, DiskFile], root: Path) -> None:
        """Read again (another worker may have written), overlay ``changes``, drop what is gone, replace atomically."""
        merged = {**self.read(), **changes}
        kept = {place: entry for place, entry in merged.items() if entry and self._worth_keeping(entry, seen, root)}
        self._stamp = self._write(kept)
        self._entries = MappingProxyType(kept)

    def _worth_keeping(self, entry: Entry, seen: Mapping[Place, DiskFile], root: Path) -> bool:
        if entry.place in seen or (root / entry.place.where / entry.place.name).is_file():
            return True
        return entry.origin == "pending" and time.time() - entry.last_used < ABANDONED_S

    def _parse(self) -> dict[Place, Entry]:
        try:
            document = json.loads(self.path.read_bytes())
            version, files = document["version"], document["files"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("the model manifest cannot be read; models get recognised again")
            return {}
        if version != MANIFEST_VERSION:
            log.warning(
                "the model manifest has version %r, not %d; models get recognised again", version, MANIFEST_VERSION
            )
            return {}
        entries = (Entry.from_json(place, facts) for place, facts in files)
        return {entry.place: entry for entry in entries if entry}

    def _write(self, entries: Mapping[Place, Entry]) -> tuple[int, int, int] | None:
        """Replace the file; the stamp is of what was written here, not of what another worker may write next."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "version": MANIFEST_VERSION,
            "files": {str(place): entry.to_json() for place, entry in sorted(entries.items())},
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            self._sweep()
            temporary.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
            stamp = _stamp(temporary)
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return stamp

    def _sweep(self) -> None:
        """Remove what workers left that were killed while they wrote."""
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            with contextlib.suppress(FileNotFoundError):  # its worker lives, and was done with it just now
                if time.time() - left.stat().st_mtime > WRITING_S:
                    left.unlink()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


class _Scan:
    """One walk over the managed folders, with the folders' times so that an unchanged tree need not be walked again."""

    def __init__(self, root: Path) -> None:
        self.files: dict[Place, DiskFile] = {}
        self.occupied: set[tuple[str, str]] = set()
        self._folder_times: dict[str, int | None] = {}
        self._began_ns = time.time_ns()
        for where in (*MANAGED_FOLDERS, *READ_ALSO):
            path = f"{root}/{where}"
            self._walk(path, where, "", os.path.islink(path), ())  # noqa: PTH114 - all paths here are str, for speed
        self._settled = all(
            self._began_ns - changed > SETTLED_NS for changed in self._folder_times.values() if changed is not None
        )

    def holds(self) -> bool:
        """Whether no folder has gained, lost or renamed a file since the walk."""
        return self._settled and all(_folder_time(path) == before for path, before in self._folder_times.items())

    def _walk(self, path: str, where: str, prefix: str, linked: bool, trail: tuple[tuple[int, int], ...]) -> None:
        try:
            facts = os.stat(path)  # noqa: PTH116
            here = (facts.st_dev, facts.st_ino)
            self._folder_times[path] = facts.st_mtime_ns
            if here in trail or len(trail) > MAX_DEPTH:
                return
            with os.scandir(path) as found:
                for item in found:
                    self._see(item, where, prefix, linked, (*trail, here))
        except OSError:
            self._folder_times.setdefault(path, None)

    def _see(
        self, item: os.DirEntry[str], where: str, prefix: str, linked: bool, trail: tuple[tuple[int, int], ...]
    ) -> None:
        place = Place(where, prefix + item.name)
        if not prefix:
            self.occupied.add((place.folder, item.name.casefold()))
        linked = linked or item.is_symlink()
        if item.name.lower().endswith(MODEL_EXTENSIONS) and not item.is_dir():
            with contextlib.suppress(OSError):  # a link that leads nowhere, or a file deleted just now: not present
                facts = item.stat()
                if stat.S_ISREG(facts.st_mode):
                    self.files[place] = _disk_file(place, facts, linked)
        elif item.name != ".git" and item.is_dir():  # the one folder that ComfyUI leaves out too
            self._walk(item.path, where, f"{prefix}{item.name}/", linked, trail)


def _folder_time(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return None


def _disk_file(place: Place, facts: os.stat_result, linked: bool) -> DiskFile:
    return DiskFile(place, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, linked)


def _inventory(scan: _Scan, entries: Mapping[Place, Entry]) -> Inventory:
    holding = {}
    pending = {}
    for place, entry in entries.items():
        file = scan.files.get(place)
        if entry.origin == "pending":
            pending[place] = entry
        elif file and entry.matches(file):
            holding[place] = entry
    return Inventory(scan.files, holding, pending, frozenset(scan.occupied))

"""The manifest ``<models_dir>/.comfy-worker/manifest.json``: the identity, source and last use of each model file.

It is a cache, never the authority: an entry counts only while its file has the recorded size and modification time. A
manifest that is lost, broken or of another version counts as empty; files are then recognised again by name, size and
content (``recognise.py``), not downloaded again. Several workers may share one folder: each write reads the manifest
again, merges and replaces it under the folder's lock (``folder_lock.py``). On a disk without locks an entry may get
lost; its file is then recognised again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from worker.models.locations import DiskFile, Location

log = logging.getLogger(__name__)

MANIFEST_PATH = ".comfy-worker/manifest.json"
MANIFEST_VERSION = 1
ABANDONED_S = 24 * 3600
"""A pending entry without a file is dropped after this."""
WRITING_S = 60
"""A temporary manifest older than this is from a killed worker."""
THIS_HOST = socket.gethostname()


@dataclass(frozen=True)
class Entry:
    """The facts about one file."""

    location: Location
    identity: str
    canonical: str
    """The name that the site or the line gives the file; ``location`` differs if another file had that name."""
    size: int
    mtime_ns: int
    keys: tuple[str, ...] = ()
    """Request keys (:attr:`worker.sites.types.RepoLine.key`) that this file answers."""
    aliases: tuple[str, ...] = ()
    sha256: str | None = None
    verified: str = ""
    """``sha256`` or ``size+header``: the check that the bytes passed."""
    source: str = ""
    last_used: float = 0.0
    """Seconds since the epoch."""
    origin: str = "downloaded"
    """``downloaded`` by a worker, ``adopted`` (recognised on disk), or ``pending`` (its download was begun)."""
    host: str = ""
    """The machine or container of the worker that wrote this."""

    def matches(self, file: DiskFile) -> bool:
        """Return True if the entry describes the file that is on disk."""
        return self.size == file.size and self.mtime_ns == file.mtime_ns

    def to_json(self) -> dict[str, Any]:
        """Return the entry without its location, which is its key in the manifest."""
        return {name: getattr(self, name) for name in _ENTRY_TYPES}

    @classmethod
    def from_json(cls, location: str, facts: Any) -> Entry | None:
        """Read one entry; None if any field is missing or has the wrong type."""
        if not isinstance(facts, dict):
            return None
        known = {name: facts[name] for name in _ENTRY_TYPES if name in facts}
        if not all(isinstance(value, _ENTRY_TYPES[name]) for name, value in known.items()):
            return None
        for name in ("keys", "aliases"):
            known[name] = tuple(str(item) for item in known.get(name, ()))
        try:
            return cls(Location.parse(location), **known)
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

Changes = Mapping[Location, Entry | None]
"""The changes to write: an entry, or None to delete it."""


class Manifest:
    """The manifest file, parsed again only if it changed on disk. The caller locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: Mapping[Location, Entry] = MappingProxyType({})
        self._stamp: tuple[int, int, int] | None = None

    def read(self) -> Mapping[Location, Entry]:
        """Return the entries on disk; none if the file cannot be read."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._entries = MappingProxyType(self._parse() if stamp else {})
            self._stamp = stamp
        return self._entries

    def merge(self, changes: Changes, scanned: Mapping[Location, DiskFile], root: Path) -> None:
        """Read again (another worker may have written), apply ``changes``, drop entries without a file, and write.

        An entry to delete stays if it matches the file on disk: another worker has downloaded that meanwhile.
        """
        before = self.read()
        restored = {
            location for location, entry in changes.items() if entry is None and _is_on_disk(before.get(location), root)
        }
        merged = {**before, **{location: entry for location, entry in changes.items() if location not in restored}}
        kept = {
            location: entry for location, entry in merged.items() if entry and self._worth_keeping(entry, scanned, root)
        }
        self._stamp = self._write(kept)
        self._entries = MappingProxyType(kept)

    def _worth_keeping(self, entry: Entry, scanned: Mapping[Location, DiskFile], root: Path) -> bool:
        if entry.location in scanned or (root / entry.location.disk_folder / entry.location.name).is_file():
            return True
        return entry.origin == "pending" and time.time() - entry.last_used < ABANDONED_S

    def _parse(self) -> dict[Location, Entry]:
        try:
            document = json.loads(self.path.read_bytes())
            version, files = document["version"], document["files"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("the model manifest cannot be read; models are recognised again")
            return {}
        if version != MANIFEST_VERSION:
            log.warning(
                "the model manifest has version %r, not %d; models are recognised again", version, MANIFEST_VERSION
            )
            return {}
        entries = (Entry.from_json(location, facts) for location, facts in files)
        return {entry.location: entry for entry in entries if entry}

    def _write(self, entries: Mapping[Location, Entry]) -> tuple[int, int, int] | None:
        """Replace the file. Return the stamp of what was written here, not of what another worker may write next."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "version": MANIFEST_VERSION,
            "files": {str(location): entry.to_json() for location, entry in sorted(entries.items())},
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
        """Delete the temporary files of workers that were killed while writing."""
        for leftover in self.path.parent.glob(f".{self.path.name}.*"):
            with contextlib.suppress(FileNotFoundError):  # a live worker has just renamed it
                if time.time() - leftover.stat().st_mtime > WRITING_S:
                    leftover.unlink()


def _is_on_disk(entry: Entry | None, root: Path) -> bool:
    """Return True if the file is on disk with the recorded size and modification time."""
    if entry is None:
        return False
    try:
        facts = (root / entry.location.disk_folder / entry.location.name).stat()
    except OSError:
        return False
    return facts.st_size == entry.size and facts.st_mtime_ns == entry.mtime_ns


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino

"""The manifest ``<models_dir>/.comfy-worker/manifest.json``: what is known of model files that the disk does not say.

It is a memory, never the authority: an entry counts only while its file has the size and the modification time that
were written down. A manifest that is lost, broken or of another version is an empty one; files are then recognised
again by their name, size and content (``adopt.py``), not fetched again. Several workers may share one folder: each
write reads the manifest again, merges and replaces it under the folder's lock (``root_lock.py``); on a disk without
locks an entry may get lost, and its file is recognised once more.
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
WRITING_S = 60
THIS_HOST = socket.gethostname()


@dataclass(frozen=True)
class Entry:
    """What the manifest knows of one file."""

    location: Location
    identity: str
    canonical: str
    """The name the file should have by its site or its line; ``place`` may differ when that name was taken."""
    size: int
    mtime_ns: int
    keys: tuple[str, ...] = ()
    """Request keys (:attr:`worker.sites.types.RepoLine.key`) that this file answers."""
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
    def from_json(cls, location: str, facts: Any) -> Entry | None:
        """Read one entry; None when anything in it is not what it should be."""
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
"""What to write into the manifest: an entry, or None to forget the file."""


class Manifest:
    """The manifest file; what was parsed is kept as long as the file on disk is the same. The caller locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: Mapping[Location, Entry] = MappingProxyType({})
        self._stamp: tuple[int, int, int] | None = None

    def read(self) -> Mapping[Location, Entry]:
        """The entries on disk; none when the file cannot be read, never an error."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._entries = MappingProxyType(self._parse() if stamp else {})
            self._stamp = stamp
        return self._entries

    def merge(self, changes: Changes, seen: Mapping[Location, DiskFile], root: Path) -> None:
        """Read again (another worker may have written), overlay ``changes``, drop what is gone, replace atomically.

        What is to be forgotten stays when it is true of the file there now: another worker brought that meanwhile.
        """
        before = self.read()
        true = {
            location for location, entry in changes.items() if entry is None and _is_true(before.get(location), root)
        }
        merged = {**before, **{location: entry for location, entry in changes.items() if location not in true}}
        kept = {
            location: entry for location, entry in merged.items() if entry and self._worth_keeping(entry, seen, root)
        }
        self._stamp = self._write(kept)
        self._entries = MappingProxyType(kept)

    def _worth_keeping(self, entry: Entry, seen: Mapping[Location, DiskFile], root: Path) -> bool:
        if entry.location in seen or (root / entry.location.where / entry.location.name).is_file():
            return True
        return entry.origin == "pending" and time.time() - entry.last_used < ABANDONED_S

    def _parse(self) -> dict[Location, Entry]:
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
        entries = (Entry.from_json(location, facts) for location, facts in files)
        return {entry.location: entry for entry in entries if entry}

    def _write(self, entries: Mapping[Location, Entry]) -> tuple[int, int, int] | None:
        """Replace the file; the stamp is of what was written here, not of what another worker may write next."""
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
        """Remove what workers left that were killed while they wrote."""
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            with contextlib.suppress(FileNotFoundError):  # its worker lives, and was done with it just now
                if time.time() - left.stat().st_mtime > WRITING_S:
                    left.unlink()


def _is_true(entry: Entry | None, root: Path) -> bool:
    """Whether the file is there with the size and the time that were written down."""
    if entry is None:
        return False
    try:
        facts = (root / entry.location.where / entry.location.name).stat()
    except OSError:
        return False
    return facts.st_size == entry.size and facts.st_mtime_ns == entry.mtime_ns


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino

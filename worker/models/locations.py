"""A model file's location and its facts on disk: the types that scan, manifest, plan and pruning share."""

from __future__ import annotations

import os
from typing import NamedTuple

LEGACY_FOLDERS = {"unet": "diffusion_models", "clip": "text_encoders"}
"""Folder on disk -> the managed folder ComfyUI lists it with. Its files count as present and are never pruned."""


class Location(NamedTuple):
    """A folder directly under the models root, and the path inside it."""

    disk_folder: str
    name: str
    """With forward slashes."""

    @property
    def folder(self) -> str:
        """The managed folder whose ComfyUI list shows this file."""
        return LEGACY_FOLDERS.get(self.disk_folder, self.disk_folder)

    @property
    def basename(self) -> str:
        """The file's name without its subfolders."""
        return self.name.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.disk_folder}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read what ``str()`` wrote."""
        where, _, name = text.partition("/")
        return cls(where, name)


Fingerprint = tuple[Location, int, int]
"""Location, size and modification time (ns)."""


class DiskFile(NamedTuple):
    """One model file as the scan found it. A symlink has the facts of its target; a broken one is not listed."""

    location: Location
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    linked: bool
    """The file is a symlink or lies behind a symlinked folder: its bytes belong elsewhere, so it is never deleted."""

    @classmethod
    def of(cls, location: Location, facts: os.stat_result, linked: bool) -> DiskFile:
        """Make one from the file's ``stat``."""
        return cls(location, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, linked)

    @property
    def fingerprint(self) -> Fingerprint:
        """Tells these bytes at this location from any that come later."""
        return self.location, self.size, self.mtime_ns

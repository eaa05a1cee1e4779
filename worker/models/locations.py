"""Where a model file is, and what the disk says of it: the nouns that scan, manifest, plan and pruning share."""

from __future__ import annotations

import os
from typing import NamedTuple

READ_ALSO = {"unet": "diffusion_models", "clip": "text_encoders"}
"""Older folders that ComfyUI lists together with a managed one: files in them are present, and never deleted."""


class Location(NamedTuple):
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
    def parse(cls, text: str) -> Location:
        """The place that ``str()`` wrote."""
        where, _, name = text.partition("/")
        return cls(where, name)


Fingerprint = tuple[Location, int, int]
"""Place, size and modification time (ns)."""


class DiskFile(NamedTuple):
    """One model file as the scan saw it; a symlink stands for the file it leads to, one to nowhere is not there."""

    location: Location
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    linked: bool
    """The file is a symlink or lies behind a symlinked folder: somebody else's, so never deleted."""

    @classmethod
    def of(cls, location: Location, facts: os.stat_result, linked: bool) -> DiskFile:
        """The file at ``place`` by its ``stat``."""
        return cls(location, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, linked)

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells these bytes at this place from any that come later."""
        return self.location, self.size, self.mtime_ns

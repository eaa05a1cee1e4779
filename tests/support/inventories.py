"""Inventories made up of files and entries, for rules that are pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worker.models.inventory import Inventory, ModelFolders
from worker.models.locations import DiskFile, Location
from worker.models.manifest import Entry
from worker.models.plan import Want
from worker.sites.types import ModelFile, RepoLine

NOW_NS = 2_000_000_000_000_000_000


OLD_NS = NOW_NS - 3600 * 10**9


GB = 10**9


def disk(text: str, size: int = GB, mtime_ns: int = OLD_NS, ctime_ns: int = OLD_NS, linked: bool = False) -> DiskFile:
    """One file of a made-up disk, an hour older than the job."""
    return DiskFile(Location.parse(text), size, mtime_ns, ctime_ns, hash(text), linked)


def entry(file: DiskFile, identity: str = "civitai:1:2", **more: Any) -> Entry:
    """An entry of the manifest that matches ``file``."""
    more.setdefault("canonical", file.location.name)
    return Entry(file.location, identity, size=file.size, mtime_ns=file.mtime_ns, **more)


def inventory(
    *files: DiskFile,
    entries: Iterable[Entry] = (),
    pending: Iterable[Entry] = (),
    occupied: Iterable[tuple[str, str]] = (),
) -> Inventory:
    """A disk with these files on it."""
    names = {(file.location.folder, file.location.name.casefold()) for file in files if "/" not in file.location.name}
    return Inventory(
        {file.location: file for file in files},
        {each.location: each for each in entries},
        {each.location: each for each in pending},
        frozenset(names | set(occupied)),
    )


def line(key: str, number: int = 1) -> RepoLine:
    """A line of ``repo_list``."""
    return RepoLine(number, key, key, "civitai", "https://civitai.com/x", None, None)


def wanted(
    identity: str = "civitai:1:2",
    filename: str = "a.safetensors",
    folder: str = "loras",
    key: str = "k",
    **more: Any,
) -> Want:
    """A listed model that the site answered with this; ``more`` are fields of its :class:`ModelFile`."""
    file = ModelFile(identity, folder, filename, "https://civitai.com/x", line(key), **more)
    return Want(file, (key,), ())


def entry_for(folders: ModelFolders, name: str, identity: str = "civitai:1:2", **more: Any) -> Entry:
    """An entry for a file that is on the disk."""
    file = folders.stat_file(Location.parse(name))
    assert file
    return Entry(file.location, identity, file.location.basename, file.size, file.mtime_ns, **{"keys": ("k",), **more})

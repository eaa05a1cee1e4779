"""Decides which models of a job are on disk, which to fetch, and under which names. Pure, no I/O.

Every function works on an :class:`~worker.models.inventory.Inventory`, a snapshot of the disk. ``prune_rules.py``
decides what may be deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from worker.models.inventory import Inventory
from worker.models.locations import DiskFile, Location
from worker.models.manifest import THIS_HOST, Entry
from worker.models.prompt_names import ModelNames
from worker.net.redact import redact_url
from worker.sites.file_names import MAX_NAME_BYTES, SAFE_EXTENSIONS, extension
from worker.sites.types import ModelFile, RepoLine

MAX_ID_BYTES = 32
"""A longer file id (made of a link's fields if the site gave no metadata) is replaced by its hash in a name."""


@dataclass(frozen=True)
class Want:
    """A listed model whose lines have no entry in the manifest: the site's metadata, and all its lines and names."""

    file: ModelFile
    keys: tuple[str, ...]
    aliases: tuple[str, ...]


def split_known(lines: Sequence[RepoLine], inventory: Inventory) -> tuple[list[Entry], list[RepoLine]]:
    """Return the entries of the lines' files on disk, each once, and the lines that must be resolved by a site."""
    by_key = inventory.by_key
    known: dict[Location, Entry] = {}
    unknown: dict[str, RepoLine] = {}
    for line in lines:
        entry = by_key.get(line.key)
        if entry:
            known[entry.location] = entry
        else:
            unknown.setdefault(line.key, line)
    return list(known.values()), list(unknown.values())


def unique_wants(files: Iterable[ModelFile]) -> list[Want]:
    """Merge the files to one want for each (identity, folder), in list order. Names of later lines become aliases."""
    wants: dict[tuple[str, str], Want] = {}
    for file in files:
        same = wants.get((file.identity, file.folder))
        first = same.file if same else file
        keys = (*(same.keys if same else ()), file.line.key)
        names = dict.fromkeys((*(same.aliases if same else ()), *file.aliases, file.filename))
        wants[file.identity, file.folder] = Want(first, keys, tuple(n for n in names if n != first.filename))
    return list(wants.values())


def candidates(want: Want, inventory: Inventory) -> list[DiskFile]:
    """Return files without an entry that may be the wanted model, likeliest first. Their bytes are not checked yet.

    A file directly in its folder qualifies by the name this worker would give it and by its size. In a subfolder the
    site must also have published a hash. A name alone never qualifies, except at a location where a download of this
    very model was begun: only complete files appear there.
    """
    file = want.file
    named = [found for name in _own_names(file) for found in inventory.by_basename.get((file.folder, name), ())]
    return [
        found
        for found in sorted(named, key=lambda found: "/" in found.location.name)
        if found.location not in inventory.entries
        and (file.size is None or found.size == file.size)
        and (file.sha256 or _is_conclusive(found.location, file, inventory))
    ]


def _is_conclusive(location: Location, file: ModelFile, inventory: Inventory) -> bool:
    """Return True if name and size suffice for this file without a published hash."""
    pending = inventory.pending.get(location)
    if pending and pending.identity == file.identity:
        return True
    return file.size is not None and "/" not in location.name and location.name.lower().endswith(SAFE_EXTENSIONS)


def choose_locations(
    wants: Sequence[Want], inventory: Inventory, deleted_names: Mapping[Location, str]
) -> list[Location]:
    """Choose each new file's location: its canonical name, unless another file has, had or is about to get that path.

    Args:
        wants: files to fetch, in list order.
        inventory: the disk; a name in use stays in use, even if this job is going to delete its file.
        deleted_names: location -> identity of files deleted since ComfyUI started: its caches go by name.
    """
    occupied = set(inventory.occupied)
    locations = []
    for want in wants:
        file = want.file
        location = next(
            location
            for location in (Location(file.folder, name) for name in _possible_names(file))
            if (location.folder, location.name.casefold()) not in occupied
            and deleted_names.get(location, file.identity) == file.identity
            and (location not in inventory.pending or inventory.pending[location].identity == file.identity)
        )
        occupied.add((location.folder, location.name.casefold()))
        locations.append(location)
    return locations


def collision_name(filename: str, identity: str) -> str:
    """Return ``<stem>.<fileId>.safetensors``, the name of a file whose canonical name another file has."""
    ending = extension(filename)
    stem = filename[: len(filename) - len(ending)]
    site, _, rest = identity.partition(":")
    number = rest.rpartition(":")[2]
    if site != "civitai" or len(number.encode()) > MAX_ID_BYTES:
        number = hashlib.sha256(identity.encode()).hexdigest()[:8]
    tail = f".{number}{filename[len(stem) :]}"
    return stem.encode()[: MAX_NAME_BYTES - len(tail.encode())].decode(errors="ignore") + tail


def _own_names(file: ModelFile) -> tuple[str, str]:
    """Return the names this worker gives a file; the one with its id first, since it can mean no other file."""
    return collision_name(file.filename, file.identity), file.filename


def _possible_names(file: ModelFile) -> Iterator[str]:
    yield file.filename
    yield collision_name(file.filename, file.identity)
    for count in range(2, 10_000):
        yield collision_name(file.filename, f"{file.identity}-{count}")


def new_entry(want: Want, file: DiskFile, now: float, *, sha256: str | None, origin: str) -> Entry:
    """Make the manifest entry of a file that is on disk and was checked."""
    return Entry(
        location=file.location,
        identity=want.file.identity,
        canonical=want.file.filename,
        size=file.size,
        mtime_ns=file.mtime_ns,
        keys=want.keys,
        aliases=want.aliases,
        sha256=sha256,
        verified="sha256" if want.file.sha256 else "size+header",
        source=redact_url(want.file.url),
        last_used=now,
        origin=origin,
        host=THIS_HOST,
    )


def pending_entry(want: Want, location: Location, now: float) -> Entry:
    """Make the entry of a download that begins. Others then avoid its path, and a file found there is recognised."""
    return Entry(
        location=location,
        identity=want.file.identity,
        canonical=want.file.filename,
        size=want.file.size or 0,
        mtime_ns=0,
        last_used=now,
        origin="pending",
        host=THIS_HOST,
    )


def add_names(entry: Entry, want: Want) -> Entry:
    """Return the entry with the want's lines and names added."""
    aliases = dict.fromkeys((*entry.aliases, *want.aliases, want.file.filename))
    return replace(
        entry,
        keys=tuple(dict.fromkeys((*entry.keys, *want.keys))),
        aliases=tuple(name for name in aliases if name != entry.canonical),
    )


def names_of(inventory: Inventory, listed: Mapping[Location, Entry]) -> ModelNames:
    """Return the aliases of all files, and the listed files that are not stored under their canonical name."""
    renamed: dict[str, dict[str, str]] = {}
    for location, entry in listed.items():
        if entry.canonical != location.name and Location(location.disk_folder, entry.canonical) not in listed:
            renamed.setdefault(location.folder, {})[entry.canonical] = location.name
    return ModelNames(inventory.aliases, renamed)

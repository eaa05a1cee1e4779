"""What a job's lines mean on this disk: which models are there, which to fetch, and under which name. Pure, no I/O.

Every function works on an :class:`~worker.models.inventory.Inventory`, one look at the disk. ``prune_rules.py`` decides
what may be deleted.
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
"""A longer file id (made of a link's own fields where the site gave no metadata) is a hash in a name."""


@dataclass(frozen=True)
class Want:
    """A listed model that no request key of the manifest knew: what the site says, and all lines that mean it."""

    file: ModelFile
    keys: tuple[str, ...]
    aliases: tuple[str, ...]


def split_known(lines: Sequence[RepoLine], inventory: Inventory) -> tuple[list[Entry], list[RepoLine]]:
    """The files that the lines ask for and that are there, each once; and the lines that must be looked up."""
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


def gather(files: Iterable[ModelFile]) -> list[Want]:
    """One want for each (identity, folder), in list order; names that later lines give it become aliases."""
    wants: dict[tuple[str, str], Want] = {}
    for file in files:
        before = wants.get((file.identity, file.folder))
        first = before.file if before else file
        keys = (*(before.keys if before else ()), file.line.key)
        names = dict.fromkeys((*(before.aliases if before else ()), *file.aliases, file.filename))
        wants[file.identity, file.folder] = Want(first, keys, tuple(n for n in names if n != first.filename))
    return list(wants.values())


def candidates(want: Want, inventory: Inventory) -> list[DiskFile]:
    """Files that may be the wanted one though the manifest does not say so, likeliest first.

    A file qualifies by the name this worker would give it, directly in its folder, and by its size. In a subfolder a
    name says less, so there the site must have published a hash. Without a size or a hash nothing qualifies, for a name
    alone proves nothing; except at a path where a download of this very model was begun, since only whole files appear
    there. The bytes are still to be checked.
    """
    file = want.file
    named = [found for name in _own_names(file) for found in inventory.by_basename.get((file.folder, name), ())]
    return [
        found
        for found in sorted(named, key=lambda found: "/" in found.location.name)
        if found.location not in inventory.entries
        and (file.size is None or found.size == file.size)
        and (file.sha256 or _is_telling(found.location, file, inventory))
    ]


def _is_telling(location: Location, file: ModelFile, inventory: Inventory) -> bool:
    """Whether the name and the size of what lies there say enough when no hash was published."""
    begun = inventory.pending.get(location)
    if begun and begun.identity == file.identity:
        return True
    return file.size is not None and "/" not in location.name and location.name.lower().endswith(SAFE_EXTENSIONS)


def choose_locations(
    wants: Sequence[Want], inventory: Inventory, deleted_names: Mapping[Location, str]
) -> list[Location]:
    """Where each new file goes: its canonical name, unless other bytes have, had or are about to have that path.

    Args:
        wants: files to fetch, in list order.
        inventory: the disk; whatever occupies a name keeps it, even if this very job is going to delete it.
        spent: identity by place of files that were deleted while this ComfyUI lived; its caches go by name.
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
    """``<stem>.<fileId>.safetensors``: the name of a file whose own name other bytes hold."""
    ending = extension(filename)
    stem = filename[: len(filename) - len(ending)]
    site, _, rest = identity.partition(":")
    number = rest.rpartition(":")[2]
    if site != "civitai" or len(number.encode()) > MAX_ID_BYTES:
        number = hashlib.sha256(identity.encode()).hexdigest()[:8]
    tail = f".{number}{filename[len(stem) :]}"
    return stem.encode()[: MAX_NAME_BYTES - len(tail.encode())].decode(errors="ignore") + tail


def _own_names(file: ModelFile) -> tuple[str, str]:
    """The names this worker gives a file; the one with its id in it first, for it can mean no other file."""
    return collision_name(file.filename, file.identity), file.filename


def _possible_names(file: ModelFile) -> Iterator[str]:
    yield file.filename
    yield collision_name(file.filename, file.identity)
    for count in range(2, 10_000):
        yield collision_name(file.filename, f"{file.identity}-{count}")


def record(want: Want, file: DiskFile, now: float, *, sha256: str | None, origin: str) -> Entry:
    """What the manifest is to know of a file that is there and was checked."""
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


def record_begun(want: Want, location: Location, now: float) -> Entry:
    """The note that a download was begun: other workers leave the path alone, and a file found there is ours."""
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


def record_names(entry: Entry, want: Want) -> Entry:
    """The entry, also answering to the want's lines and names."""
    aliases = dict.fromkeys((*entry.aliases, *want.aliases, want.file.filename))
    return replace(
        entry,
        keys=tuple(dict.fromkeys((*entry.keys, *want.keys))),
        aliases=tuple(name for name in aliases if name != entry.canonical),
    )


def names_of(inventory: Inventory, listed: Mapping[Location, Entry]) -> ModelNames:
    """What names mean in a job that lists these files: what others call them, and which had to take another name."""
    renamed: dict[str, dict[str, str]] = {}
    for location, entry in listed.items():
        if entry.canonical != location.name and Location(location.where, entry.canonical) not in listed:
            renamed.setdefault(location.folder, {})[entry.canonical] = location.name
    return ModelNames(inventory.aliases, renamed)

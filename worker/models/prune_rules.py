"""Decides which models may be deleted, and holds the one function in the worker that deletes a model.

The rules are pure: they read an :class:`~worker.models.inventory.Inventory`, a snapshot of the disk, and give a reason
for every file that is kept. :func:`delete` checks again, and deletes only the very file of the snapshot.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from worker.errors import Code, WorkerError
from worker.models.inventory import Inventory
from worker.models.locations import DiskFile, Fingerprint, Location
from worker.models.manifest import Entry
from worker.models.prompt_names import Mentions
from worker.sites.types import MANAGED_FOLDERS
from worker.text import amount

PRUNABLE = ".safetensors"
PRUNE_MAX_FILES = 200
"""A job that would delete more files than this deletes none: its list or its folder must be wrong."""
SPARE_BYTES = 64 << 20
"""Kept free besides the new models: outputs, logs and the manifest are on the same disk."""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class PruneRules:
    """Everything besides the snapshot that decides what is deleted."""

    enabled: bool
    """The job's ``prune``, else the environment's."""
    list_empty: bool
    shared: bool
    """The root is on a shared network volume that PRUNE_ROOTS does not name."""
    no_other_job: bool
    """No other job is running in this process."""
    started_ns: int
    """Job start (ns since the epoch); newer files are never pruned."""
    dry_run: bool = False
    keep_globs: tuple[str, ...] = ()
    keep_bytes: int = 0
    """KEEP_GB: budget for unlisted files."""
    preinstalled: Collection[Fingerprint] = frozenset()
    """Files that were on the worker's own disk before it started."""
    in_use: Collection[Location] = frozenset()
    """Files that other workers claim (:mod:`worker.models.leases`)."""
    used_since: float | None = None
    """On a shared volume: files used after this (seconds since the epoch) may be in use by another worker."""
    last_used: Mapping[Location, float] = field(default_factory=dict)
    """Uses that are not in the manifest yet (seconds since the epoch)."""

    def blocked_by(self) -> str | None:
        """Return the reason why this job deletes nothing; None if it may delete."""
        reasons = (
            (self.list_empty, "repo_list is empty"),
            (not self.enabled, "prune is off"),
            (self.shared, "the models are on a shared volume that PRUNE_ROOTS does not name"),
            (not self.no_other_job, "another job is running in this worker"),
        )
        return next((reason for holds, reason in reasons if holds), None)


@dataclass(frozen=True)
class PrunePlan:
    """The files that may be deleted; none are if ``blocked_by`` has a reason."""

    to_delete: tuple[DiskFile, ...] = ()
    """Largest first."""
    cached: tuple[DiskFile, ...] = ()
    """Unlisted files kept by KEEP_GB; deleted only if the new models do not fit otherwise. Largest first."""
    kept: Mapping[Location, str] = field(default_factory=dict)
    """Unlisted files that are kept -> the reason."""
    blocked_by: str | None = None


def plan_prune(inventory: Inventory, listed: Collection[Location], mentions: Mentions, rules: PruneRules) -> PrunePlan:
    """Keep or delete each unlisted file. The reason to keep it is that of the first rule that applies."""
    blocked_by = rules.blocked_by()
    if blocked_by:
        return PrunePlan(blocked_by=blocked_by)
    kept: dict[Location, str] = {}
    unprotected = []
    for location, file in inventory.files.items():
        if location in listed:
            continue
        reason = _why_kept(file, inventory.entries.get(location), mentions, rules)
        if reason:
            kept[location] = reason
        else:
            unprotected.append(file)
    cached = _within_budget(unprotected, inventory, rules)
    kept.update((file.location, "KEEP_GB") for file in cached)
    to_delete = [file for file in unprotected if file not in cached]
    if len(to_delete) > PRUNE_MAX_FILES:
        return PrunePlan(kept=kept, blocked_by=f"{len(to_delete)} files would be deleted, more than {PRUNE_MAX_FILES}")
    return PrunePlan(
        to_delete=_largest_first(to_delete),
        cached=_largest_first(cached),
        kept=kept,
        blocked_by="PRUNE_DRY_RUN is on" if rules.dry_run else None,
    )


def _why_kept(file: DiskFile, entry: Entry | None, mentions: Mentions, rules: PruneRules) -> str | None:
    location = file.location
    reason = None
    if location.disk_folder not in MANAGED_FOLDERS:
        reason = "not in a managed folder"
    elif file.linked:
        reason = "behind a symlink"
    elif not location.name.lower().endswith(PRUNABLE):
        reason = f"not {PRUNABLE}"
    elif mentions.may_mean(location.name, (*entry.aliases, entry.canonical) if entry else ()):
        reason = "named by the prompt"
    elif _matches_glob(location, rules.keep_globs):
        reason = "KEEP_MODELS"
    elif file.fingerprint in rules.preinstalled:
        reason = "baked into the image, or there before the worker"
    elif max(file.mtime_ns, file.ctime_ns) >= rules.started_ns:
        reason = "younger than the job"
    elif location in rules.in_use:
        reason = "another worker uses it"
    elif rules.used_since is not None and _last_use(file, entry, rules) >= rules.used_since:
        reason = "another worker may be using it"
    return reason


def _matches_glob(location: Location, globs: Sequence[str]) -> bool:
    spellings = [spelling.casefold() for spelling in (location.basename, location.name, str(location))]
    return any(fnmatch.fnmatchcase(spelling, glob.casefold()) for glob in globs for spelling in spellings)


def _last_use(file: DiskFile, entry: Entry | None, rules: PruneRules) -> float:
    """Return the time of the last known use, or else of the last change, in seconds since the epoch."""
    used = max(entry.last_used if entry else 0.0, rules.last_used.get(file.location, 0.0))
    return used or max(file.mtime_ns, file.ctime_ns) / 1e9


def _within_budget(files: Sequence[DiskFile], inventory: Inventory, rules: PruneRules) -> list[DiskFile]:
    """Return the most recently used files that fit into KEEP_GB. If one does not fit, older ones may take its room."""
    if not rules.keep_bytes:
        return []
    room = rules.keep_bytes
    chosen = []
    for file in sorted(files, key=lambda f: _last_use(f, inventory.entries.get(f.location), rules), reverse=True):
        if file.size <= room:
            chosen.append(file)
            room -= file.size
    return chosen


def _largest_first(files: Iterable[DiskFile]) -> tuple[DiskFile, ...]:
    return tuple(sorted(files, key=lambda file: (-file.size, file.location)))


def files_to_make_room(plan: PrunePlan, needed: int, free: int, *, shared: bool) -> tuple[DiskFile, ...] | None:
    """Return the files to delete so that the new models fit; None if they would not fit even then.

    Args:
        plan: files that will be deleted anyway come first; those kept by KEEP_GB only if that is not enough.
        needed: bytes of the new models, as far as the sites publish sizes.
        free: bytes free now.
        shared: on a shared volume no room is made: another worker may need the files next.
    """
    missing = needed + SPARE_BYTES - free if needed else 0
    if missing <= 0:
        return ()
    if plan.blocked_by or shared:
        return None
    chosen = []
    for file in (*plan.to_delete, *plan.cached):
        chosen.append(file)
        missing -= file.size
        if missing <= 0:
            return tuple(chosen)
    return None


def bytes_of(files: Iterable[DiskFile]) -> int:
    """Return the sum of the files' sizes."""
    return sum(file.size for file in files)


def disk_full(plan: PrunePlan, needed: int, free: int) -> WorkerError:
    """Make the error for models that do not fit, with what pruning could free or why it may not."""
    unlisted = 0 if plan.blocked_by else bytes_of((*plan.to_delete, *plan.cached))
    could = f", and deleting {amount(unlisted)} of unlisted models would not be enough" if unlisted else ""
    why = f" (nothing is pruned: {plan.blocked_by})" if plan.blocked_by else ""
    return WorkerError(
        Code.DISK_FULL,
        f"the missing models need {amount(needed)} but the disk has {amount(free)} free{could}{why}",
        details={"needed_bytes": needed, "free_bytes": free, "prunable_bytes": unlisted},
    )


def is_within(root: Path, folders: Iterable[Path]) -> bool:
    """Return True if ``root`` is one of ``folders`` or under one. All symlinks must be resolved already."""
    return any(root == folder or folder in root.parents for folder in folders)


class Outcome(Enum):
    """The result of a deletion, as the log shows it."""

    DELETED = "deleted"
    GONE = "was already gone"
    CHANGED = "is not the file that was planned for"
    CLAIMED = "stays: another worker came to use it"


def delete(root: Path, file: DiskFile) -> Outcome:
    """Delete ``file`` if its path still holds the file of the snapshot: same inode, size and modification time.

    No symlink under ``root`` is followed, not even one that replaced a folder since the snapshot.

    Raises:
        OSError: the file cannot be deleted (read-only disk, no permission).
    """
    *folders, name = (file.location.disk_folder, *file.location.name.split("/"))
    try:
        folder = _open_folder(root, folders)
    except FileNotFoundError:
        return Outcome.GONE
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a symlink: ENOTDIR on Linux, ELOOP on macOS
            return Outcome.CHANGED
        raise
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not _is_same_file(facts, file):
            return Outcome.CHANGED
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return Outcome.GONE
    finally:
        os.close(folder)
    return Outcome.DELETED


def _open_folder(root: Path, parts: list[str]) -> int:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        if part in ("", ".", ".."):
            os.close(folder)
            raise NotADirectoryError(errno.ENOTDIR, "not a folder name", part)
        try:
            deeper = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _is_same_file(facts: os.stat_result, file: DiskFile) -> bool:
    return (
        stat.S_ISREG(facts.st_mode)
        and facts.st_ino == file.inode
        and facts.st_size == file.size
        and facts.st_mtime_ns == file.mtime_ns
    )

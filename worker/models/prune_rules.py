"""What may be deleted, and the one function in the worker that deletes a model.

The rules are pure: they judge an :class:`~worker.models.inventory.Inventory`, one look at the disk, and say of every
file why it stays. :func:`delete` looks again, and takes away the very file that was judged or none.
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
"""A job that would delete more than this deletes nothing: that is a wrong list or a wrong folder, not lean keeping."""
SPARE_BYTES = 64 << 20
"""Stays free beside new models: outputs, logs and the manifest live on the same disk."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class PruneRules:
    """Everything besides the disk that decides whether and what to delete."""

    wanted: bool
    """The job's ``prune``, else the environment's."""
    list_empty: bool
    shared: bool
    """The root is on a shared network volume that PRUNE_ROOTS does not name."""
    no_other_job: bool
    """No other job runs in this process."""
    started_ns: int
    """When the job began: what was written since is not this plan's to judge."""
    dry_run: bool = False
    keep_globs: tuple[str, ...] = ()
    keep_bytes: int = 0
    """Budget of KEEP_GB for unlisted files."""
    preinstalled: Collection[Fingerprint] = frozenset()
    """What was on the worker's own disk before it."""
    in_use: Collection[Location] = frozenset()
    """Files that other workers claim (:mod:`worker.models.leases`)."""
    used_since: float | None = None
    """On a shared volume: a file used by any worker after this (seconds since the epoch) may be in use there now."""
    last_used: Mapping[Location, float] = field(default_factory=dict)
    """Uses that the manifest does not know of yet."""

    def why_not(self) -> str | None:
        """Why this job deletes nothing; None when it may."""
        reasons = (
            (self.list_empty, "repo_list is empty"),
            (not self.wanted, "prune is off"),
            (self.shared, "the models are on a shared volume that PRUNE_ROOTS does not name"),
            (not self.no_other_job, "another job is running in this worker"),
        )
        return next((reason for holds, reason in reasons if holds), None)


@dataclass(frozen=True)
class PrunePlan:
    """What may go. Nothing goes when ``withheld`` says why."""

    to_delete: tuple[DiskFile, ...] = ()
    """Largest first."""
    cached: tuple[DiskFile, ...] = ()
    """Unlisted, kept by KEEP_GB; may go when the disk cannot hold the new models otherwise. Largest first."""
    kept: Mapping[Location, str] = field(default_factory=dict)
    """Unlisted files that stay, and why."""
    blocked_by: str | None = None


def plan_prune(inventory: Inventory, listed: Collection[Location], mentions: Mentions, rules: PruneRules) -> PrunePlan:
    """Decide for every unlisted file whether it stays, by the first rule that keeps it."""
    blocked_by = rules.why_not()
    if blocked_by:
        return PrunePlan(blocked_by=blocked_by)
    kept: dict[Location, str] = {}
    loose = []
    for location, file in inventory.files.items():
        if location in listed:
            continue
        reason = _why_kept(file, inventory.entries.get(location), mentions, rules)
        if reason:
            kept[location] = reason
        else:
            loose.append(file)
    cached = _within_budget(loose, inventory, rules)
    kept.update((file.location, "KEEP_GB") for file in cached)
    to_delete = [file for file in loose if file not in cached]
    if len(to_delete) > PRUNE_MAX_FILES:
        return PrunePlan(kept=kept, blocked_by=f"{len(to_delete)} files would go, more than {PRUNE_MAX_FILES}")
    return PrunePlan(
        to_delete=_largest_first(to_delete),
        cached=_largest_first(cached),
        kept=kept,
        blocked_by="PRUNE_DRY_RUN is on" if rules.dry_run else None,
    )


def _why_kept(file: DiskFile, entry: Entry | None, mentions: Mentions, rules: PruneRules) -> str | None:
    location = file.location
    reason = None
    if location.where not in MANAGED_FOLDERS:
        reason = "not in a managed folder"
    elif file.linked:
        reason = "behind a symlink"
    elif not location.name.lower().endswith(PRUNABLE):
        reason = f"not {PRUNABLE}"
    elif mentions.cover(location.name, (*entry.aliases, entry.canonical) if entry else ()):
        reason = "named by the prompt"
    elif _globbed(location, rules.keep_globs):
        reason = "KEEP_MODELS"
    elif file.fingerprint in rules.preinstalled:
        reason = "baked into the image, or there before the worker"
    elif max(file.mtime_ns, file.ctime_ns) >= rules.started_ns:
        reason = "younger than the job"
    elif location in rules.in_use:
        reason = "another worker uses it"
    elif rules.used_since is not None and _recency(file, entry, rules) >= rules.used_since:
        reason = "another worker may be using it"
    return reason


def _globbed(location: Location, globs: Sequence[str]) -> bool:
    spellings = [spelling.casefold() for spelling in (location.basename, location.name, str(location))]
    return any(fnmatch.fnmatchcase(spelling, glob.casefold()) for glob in globs for spelling in spellings)


def _recency(file: DiskFile, entry: Entry | None, rules: PruneRules) -> float:
    """Seconds since the epoch of the last known use; when a use is not known, of the last change."""
    used = max(entry.last_used if entry else 0.0, rules.last_used.get(file.location, 0.0))
    return used or max(file.mtime_ns, file.ctime_ns) / 1e9


def _within_budget(files: Sequence[DiskFile], inventory: Inventory, rules: PruneRules) -> list[DiskFile]:
    """The most recently used files that fit into KEEP_GB; one that does not fit leaves its room to older ones."""
    if not rules.keep_bytes:
        return []
    room = rules.keep_bytes
    chosen = []
    for file in sorted(files, key=lambda f: _recency(f, inventory.entries.get(f.location), rules), reverse=True):
        if file.size <= room:
            chosen.append(file)
            room -= file.size
    return chosen


def _largest_first(files: Iterable[DiskFile]) -> tuple[DiskFile, ...]:
    return tuple(sorted(files, key=lambda file: (-file.size, file.location)))


def room_first(plan: PrunePlan, needed: int, free: int, *, shared: bool) -> tuple[DiskFile, ...] | None:
    """What must be deleted before the new models can be fetched; None when they would not fit even then.

    Args:
        plan: files that go anyway are taken first, those that KEEP_GB keeps only if that is not enough.
        needed: bytes of the new models, as far as the sites say.
        free: bytes free now.
        shared: on a shared volume no room is made; it is not this worker's to judge what others need next.
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
    """The files' sizes together."""
    return sum(file.size for file in files)


def disk_full(plan: PrunePlan, needed: int, free: int) -> WorkerError:
    """The error of models that do not fit, and what pruning could or could not do about it."""
    unlisted = 0 if plan.blocked_by else bytes_of((*plan.to_delete, *plan.cached))
    could = f", and {amount(unlisted)} of unlisted models are too little" if unlisted else ""
    why = f" (nothing is pruned: {plan.blocked_by})" if plan.blocked_by else ""
    return WorkerError(
        Code.DISK_FULL,
        f"the missing models need {amount(needed)} but the disk has {amount(free)} free{could}{why}",
        details={"needed_bytes": needed, "free_bytes": free, "prunable_bytes": unlisted},
    )


def is_within(root: Path, folders: Iterable[Path]) -> bool:
    """Whether ``root`` is one of ``folders`` or lies under one; all symlinks already resolved."""
    return any(root == folder or folder in root.parents for folder in folders)


class Outcome(Enum):
    """How a deletion ended."""

    DELETED = "deleted"
    GONE = "was already gone"
    CHANGED = "is not the file that was planned for"
    CLAIMED = "stays: another worker came to use it"


def delete(root: Path, file: DiskFile) -> Outcome:
    """Delete ``file`` if what lies at its path is still the file that was seen: same inode, size and time.

    No symlink under ``root`` is followed, not even one that replaced a folder after the plan was made.

    Raises:
        OSError: the disk refuses (read-only, no permission).
    """
    *folders, name = (file.location.where, *file.location.name.split("/"))
    try:
        folder = _open_folder(root, folders)
    except FileNotFoundError:
        return Outcome.GONE
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a symlink, as Linux and macOS name it
            return Outcome.CHANGED
        raise
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not _is_same(facts, file):
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
            deeper = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _is_same(facts: os.stat_result, file: DiskFile) -> bool:
    return (
        stat.S_ISREG(facts.st_mode)
        and facts.st_ino == file.inode
        and facts.st_size == file.size
        and facts.st_mtime_ns == file.mtime_ns
    )

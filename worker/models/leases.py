"""Which models each worker on one models folder is using and bringing right now, for the others to see.

A worker writes what it claims into a file of its own, ``.comfy-worker/workers/<host>-<pid>-<start>-<8 hex>.json``, and
only then looks whether its models are there; a worker that prunes reads the others' files right before each deletion.
Both do so under the folder's lock, so one of them always sees the other. A claim ends with its job, with its process,
or, where another host cannot see that the process is gone, when its job's time is over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from worker.models.folder_lock import folder_lock
from worker.models.locations import Location
from worker.process_id import PATTERN, is_gone, is_of_this_host, process_id

LEASES_PATH = ".comfy-worker/workers"
FORGOTTEN_AFTER_S = 24 * 3600

_NAME = re.compile(rf"{PATTERN}-[0-9a-f]{{8}}\.(json|new)")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claims:
    """What workers claim at one moment."""

    using: frozenset[Location] = frozenset()
    """Files that their jobs list or name: not to be deleted."""
    fetching: frozenset[str] = frozenset()
    """Identities of models that live workers of this host are bringing: worth waiting for."""


class Leases:
    """One worker's claims on a models folder, and its view of the others'. Its threads take turns.

    A folder that cannot be written has no other worker that prunes it either: that is logged, once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / LEASES_PATH / f"{process_id()}-{secrets.token_hex(4)}.json"
        self._using: set[Location] = set()
        self._until = 0.0
        self._refused = False

    def claim(self, using: Collection[Location], wanted: Collection[str], seconds: float) -> frozenset[str]:
        """Claim files, and those of the wanted models that no other worker is bringing; the ones that others bring.

        Args:
            using: must not be deleted until :meth:`release`, whether they are there yet or not.
            wanted: identities of missing models.
            seconds: how long it lasts at most.
        """
        self._using.update(using)
        self._until = max(self._until, time.time() + seconds)
        if not self._using:
            return frozenset()
        try:
            with folder_lock(self._root):
                theirs = self.others().fetching.intersection(wanted) if wanted else frozenset()
                self._write(set(wanted) - theirs)
        except OSError as error:
            level = logging.DEBUG if self._refused else logging.WARNING  # once is enough for a folder that is read-only
            log.log(level, "other workers cannot be told which models are in use (%s)", error.strerror)
            self._refused = True
            return frozenset()
        return theirs

    def fetched(self) -> None:
        """Nothing is being brought any more."""
        with contextlib.suppress(OSError):
            self._write(())

    def release(self) -> None:
        """Give up all claims; idempotent."""
        if self._using:
            self._using.clear()
            self._until = 0.0
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def others(self) -> Claims:
        """What the other workers claim now; what dead ones left is removed on the way."""
        using: set[Location] = set()
        fetching: set[str] = set()
        for path in (self._root / LEASES_PATH).glob("*"):
            found = _NAME.fullmatch(path.name)
            if not found or path == self._path:
                continue
            near = is_of_this_host(found)
            until, theirs = _read(path)
            if is_gone(found) if near else time.time() - until > FORGOTTEN_AFTER_S:
                _remove(path)
            elif near or time.time() < until:
                using |= theirs.using
                fetching |= theirs.fetching if near else frozenset()
        return Claims(frozenset(using), frozenset(fetching))

    def _write(self, fetching: Collection[str]) -> None:
        facts = {"until": self._until, "using": sorted(map(str, self._using)), "fetching": sorted(fetching)}
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.replace(self._path)


def _read(path: Path) -> tuple[float, Claims]:
    """Until when a worker claims what; nothing when it cannot be read: it is being written or removed just now."""
    try:
        facts = json.loads(path.read_bytes())
        claims = Claims(frozenset(map(Location.parse, facts["using"])), frozenset(facts["fetching"]))
        return float(facts["until"]), claims
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return time.time(), Claims()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

"""The claims of the workers on one models folder: which models each one is using and fetching right now.

A worker writes its claims to its own file, ``.comfy-worker/workers/<host>-<pid>-<start>-<8 hex>.json``, and only then
checks that its models are on disk. A worker that prunes reads the others' claims right before each deletion. Both hold
the folder's lock, so one of them always sees the other. A claim ends with its job or its process; for workers on other
hosts, which cannot see that the process is gone, it ends when the job's time is up.
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
    """The claims of one or more workers at one moment."""

    using: frozenset[Location] = frozenset()
    """Files that their jobs list or name: these must not be deleted."""
    fetching: frozenset[str] = frozenset()
    """Identities of models that live workers on this host are fetching: worth waiting for."""


class Leases:
    """One worker's claims on a models folder, and its view of the others' claims. Not thread-safe.

    A read-only folder cannot be pruned by anyone, so claims are skipped (logged once).
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / LEASES_PATH / f"{process_id()}-{secrets.token_hex(4)}.json"
        self._using: set[Location] = set()
        self._expires_at = 0.0
        self._write_failed = False

    def claim(self, using: Collection[Location], wanted: Collection[str], seconds: float) -> frozenset[str]:
        """Claim files and downloads. Return the wanted identities that another worker is already fetching.

        Args:
            using: files that must not be deleted until :meth:`release`, on disk already or not.
            wanted: identities of missing models; those that no other worker is fetching are claimed.
            seconds: how long the claim lasts at most.
        """
        self._using.update(using)
        self._expires_at = max(self._expires_at, time.time() + seconds)
        if not self._using:
            return frozenset()
        try:
            with folder_lock(self._root):
                fetched_elsewhere = self.others().fetching.intersection(wanted) if wanted else frozenset()
                self._write(set(wanted) - fetched_elsewhere)
        except OSError as error:
            level = logging.DEBUG if self._write_failed else logging.WARNING
            log.log(level, "this worker's claims on models cannot be written (%s)", error.strerror)
            self._write_failed = True
            return frozenset()
        return fetched_elsewhere

    def end_fetching(self) -> None:
        """Give up all claims on downloads."""
        with contextlib.suppress(OSError):
            self._write(())

    def release(self) -> None:
        """Give up all claims. Idempotent."""
        if self._using:
            self._using.clear()
            self._expires_at = 0.0
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def others(self) -> Claims:
        """Return the other workers' claims. Delete the claim files of dead workers."""
        using: set[Location] = set()
        fetching: set[str] = set()
        for path in (self._root / LEASES_PATH).glob("*"):
            name = _NAME.fullmatch(path.name)
            if not name or path == self._path:
                continue
            same_host = is_of_this_host(name)
            expires_at, claims = _read(path)
            if is_gone(name) if same_host else time.time() - expires_at > FORGOTTEN_AFTER_S:
                _remove(path)
            elif same_host or time.time() < expires_at:
                using |= claims.using
                fetching |= claims.fetching if same_host else frozenset()
        return Claims(frozenset(using), frozenset(fetching))

    def _write(self, fetching: Collection[str]) -> None:
        facts = {"until": self._expires_at, "using": sorted(map(str, self._using)), "fetching": sorted(fetching)}
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.replace(self._path)


def _read(path: Path) -> tuple[float, Claims]:
    """Read when a worker's claims expire, and the claims; none if unreadable: the file is just being replaced."""
    try:
        facts = json.loads(path.read_bytes())
        claims = Claims(frozenset(map(Location.parse, facts["using"])), frozenset(facts["fetching"]))
        return float(facts["until"]), claims
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return time.time(), Claims()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

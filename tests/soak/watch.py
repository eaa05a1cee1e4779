"""Two watchers, each a thread: of the models folder (what appears with which bytes, what vanishes) and of processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.soak.checks import Sample, published
from tests.soak.generator import FOLDERS
from tests.soak.ledger import Ledger, Removal

LOOK_EVERY_S = 0.02
SAMPLE_EVERY_S = 1.0
PAGE = os.sysconf("SC_PAGE_SIZE")

Seen = tuple[int, int, int]
"""Inode, size and modification time: what tells one file at a place from the next."""


class Watcher(threading.Thread):
    """Calls ``look`` again and again until the block ends."""

    def __init__(self, every_s: float, look: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._every_s, self._look = every_s, look
        self._over = threading.Event()
        self.broke: Exception | None = None

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        if self.broke:
            raise self.broke

    def run(self) -> None:
        try:
            while not self._over.wait(self._every_s):
                self._look()
        except Exception as error:
            self.broke = error


class FolderWatch:
    """Writes into the ledger what vanishes under ``root``, and what has bytes that no model of its name has."""

    def __init__(self, root: Path, digests: Mapping[str, set[str]], ledger: Ledger) -> None:
        self._root, self._digests, self._ledger = root, digests, ledger
        self._known: dict[str, Seen] = {}
        self._looked = time.time()
        self.largest = 0
        """Bytes under the root at most, unfinished downloads included."""

    def look(self) -> None:
        began, now, total = time.time(), {}, 0
        for folder in FOLDERS.values():
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(self._root / folder):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        total += facts.st_size
                        if entry.name.endswith(".safetensors"):
                            now[f"{folder}/{entry.name}"] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        ended = time.time()
        for place, seen in self._known.items():
            if now.get(place) != seen:
                self._ledger.removals.append(Removal(place, self._looked, ended))
        for place, seen in now.items():
            if self._known.get(place) != seen:
                self._check(place)
        self._known, self._looked, self.largest = now, began, max(self.largest, total)

    def _check(self, place: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            digest = hashlib.sha256((self._root / place).read_bytes()).hexdigest()
            if digest not in self._digests.get(published(place.rpartition("/")[2]), set()):
                self._ledger.wrong_files.append(place)


def deleted_and_open(pids: Iterable[int], root: Path) -> list[str]:
    """Files under ``root`` that have no name any more and still take disk space, for a process has them open."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith(f"{root}/") and target.endswith(" (deleted)"):
                        found.append(f"process {pid} holds {target}")
    return found


class ProcessWatch:
    """Samples every process of a family for as long as it lives.

    Args:
        family: the processes now, by id, with a name for each.
    """

    def __init__(self, family: Callable[[], Mapping[int, str]]) -> None:
        self._family = family
        self.samples: dict[str, list[Sample]] = {}
        """By ``<name> <pid>``."""

    def look(self) -> None:
        now = time.time()
        for pid, name in self._family().items():
            with contextlib.suppress(OSError, ValueError, IndexError):
                folder = Path(f"/proc/{pid}")
                rss = int((folder / "statm").read_text().split()[1]) * PAGE
                threads = len(list((folder / "task").iterdir()))
                sample = Sample(now, rss, len(list((folder / "fd").iterdir())), threads)
                self.samples.setdefault(f"{name} {pid}", []).append(sample)

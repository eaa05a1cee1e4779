"""Reads model files into the page cache while ComfyUI starts, so that its loaders find them in memory.

It never fails a job, fills only free memory, and can be stopped at any time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

STEP = 1 << 20
"""Bytes per request. The kernel cuts a larger WILLNEED to the device's read size: one of 512 MiB read only 8 MiB."""
LEAVE_BYTES = 2 << 30
"""Free memory that is not filled: ComfyUI and torch take about this much while they start."""


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that can be filled without evicting anything, within the machine's and the container's limits.

    0 if the machine does not report them (it is not Linux).
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        room = _cgroup_room(cgroup / limit, cgroup / used, cache)
        if room is not None:
            available = min(available, room)
    return available


def _cgroup_room(limit: Path, used: Path, cache: str) -> int | None:
    """Return the bytes a control group still allows; None without a limit. Inactive page cache counts as free."""
    try:
        allowed = int(limit.read_text())  # "max" in version 2 is a ValueError: no limit
        in_use = int(used.read_text())
        facts = dict(line.split(maxsplit=1) for line in (limit.parent / "memory.stat").read_text().splitlines())
        return max(0, allowed - in_use + int(facts.get(cache, 0)))
    except (OSError, ValueError):
        return None


def choose_fitting(files: Iterable[tuple[Path, int]], budget: int) -> list[Path]:
    """Return the files, in order, that fit whole into ``budget`` bytes: half a cached model is soon evicted again."""
    chosen = []
    for path, size in files:
        if size <= budget:
            chosen.append(path)
            budget -= size
    return chosen


class ReadAhead:
    """A thread that reads files into the page cache. Use as a context manager, or call :meth:`close`.

    Args:
        files: (path, bytes) in the order they are needed.
        budget: bytes that may be filled; by default the free memory less :data:`LEAVE_BYTES`.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], budget: int | None = None) -> None:
        budget = free_memory() - LEAVE_BYTES if budget is None else budget
        self.paths = choose_fitting(files, budget)
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        if self.paths:
            self._thread.start()

    def close(self) -> None:
        """Stop at the next step and wait for the thread. Idempotent."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait until all files are read or the thread was stopped."""
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        for path in self.paths:
            try:
                self._read(path)
            except OSError as error:
                log.debug("%s was not read ahead: %s", path.name, error)
            if self._stop.is_set():
                return
        log.info("read %.1f GB of models ahead", self.bytes / 1e9)

    def _read(self, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for start in range(0, size, STEP):
                if self._stop.is_set():
                    return
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), start, STEP, os.POSIX_FADV_WILLNEED)
                else:
                    file.read(STEP)
                self.bytes += min(STEP, size - start)

"""Reads model files into the page cache while ComfyUI starts, so that its loaders find them in memory.

Only a head start: it never fails a job, never takes memory that is not free, and stops when told.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

STEP = 1 << 20
"""Bytes per request. The kernel cuts a larger WILLNEED to the device's read size: 512 MiB at once brought 8 MiB."""
LEAVE_BYTES = 2 << 30
"""Of the free memory, not to be filled: ComfyUI and torch take about this much while they start."""


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be filled without pushing anybody out: what the machine and the container's limit both allow.

    0 when the machine does not say (it is then no Linux).
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
        room = _room(cgroup / limit, cgroup / used, cache)
        if room is not None:
            available = min(available, room)
    return available


def _room(limit: Path, used: Path, cache: str) -> int | None:
    """What a control group still allows; None when it sets no limit. Old page cache counts as free: it gives way."""
    try:
        allowed = int(limit.read_text())  # "max" in version 2 is a ValueError: no limit
        taken = int(used.read_text())
        facts = dict(line.split(maxsplit=1) for line in (limit.parent / "memory.stat").read_text().splitlines())
        return max(0, allowed - taken + int(facts.get(cache, 0)))
    except (OSError, ValueError):
        return None


def choose(files: Iterable[tuple[Path, int]], budget: int) -> list[Path]:
    """The files, in order, that fit whole into ``budget`` bytes: half a model in memory is soon pushed out again."""
    chosen = []
    for path, size in files:
        if size <= budget:
            chosen.append(path)
            budget -= size
    return chosen


class ReadAhead:
    """A thread that reads the files ahead. Use as a context manager, or call :meth:`close`.

    Args:
        files: (path, bytes), the one needed first at the front.
        budget: bytes that may be filled; by default what is free, less what ComfyUI itself will need.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], budget: int | None = None) -> None:
        budget = free_memory() - LEAVE_BYTES if budget is None else budget
        self.paths = choose(files, budget)
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        if self.paths:
            self._thread.start()

    def close(self) -> None:
        """Stop at the next step and wait for the thread; idempotent."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait until all is asked for, or the thread was stopped."""
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

"""The disk under a models folder: free space, and a file's hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from worker.stop import Stop


def free_bytes(folder: Path) -> int:
    """What the disk of an existing folder has free for this process."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: a models root may not have been made yet."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def sha256_of(path: Path, stop: Stop | None = None) -> str:
    """Lower-case hex of a whole file; about 0.7 s a GB. ``stop`` ends it early, as :meth:`Stop.check` raises."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            if stop:
                stop.check()
            digest.update(block)
    return digest.hexdigest()

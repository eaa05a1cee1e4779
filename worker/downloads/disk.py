"""The disk under a models folder: free space, and a file's hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from worker.stop import Stop


def free_bytes(folder: Path) -> int:
    """Return the bytes that this process may still write to the disk of an existing folder."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def nearest_existing(folder: Path) -> Path:
    """Return ``folder``, or its nearest parent that exists: a models root may not have been made yet."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def sha256_of(path: Path, stop: Stop | None = None) -> str:
    """Return a file's SHA-256 in lower-case hex; about 0.7 s a GB. Raise what ``stop.check`` raises."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            if stop:
                stop.check()
            digest.update(block)
    return digest.hexdigest()

"""A lock on a models folder that several workers share, held only while one deletes a file or writes the manifest."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_PATH = ".comfy-worker/lock"
WAIT_S = 10.0
"""Longer than any holder needs it; after this we assume the holder is stuck."""
POLL_EVERY_S = 0.005

log = logging.getLogger(__name__)


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the models folder ``root``, creating the folder if needed. Not reentrant.

    The lock ends with its process. If the disk has no locks or the holder is stuck, the block runs without it: the
    races it prevents are rare, while waiting on would stop every job.

    Raises:
        OSError: the folder cannot be written.
    """
    path = root / LOCK_PATH
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        held = _acquire(lock)
        try:
            yield
        finally:
            if held:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked child may hold the file open
    finally:
        os.close(lock)


def _acquire(lock: int) -> bool:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.debug("the models folder cannot be locked (%s)", error.strerror)
                return False
        if time.monotonic() > deadline:
            log.warning("another worker has held the models folder's lock for %.0f s; going on without it", WAIT_S)
            return False
        time.sleep(POLL_EVERY_S)

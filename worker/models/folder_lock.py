"""A lock on a models folder that several workers share: the few moments that only one of them may have at a time."""

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
"""Nobody holds it longer than a deletion or a write of the manifest takes; past this he hangs."""
LOOK_EVERY_S = 0.005

log = logging.getLogger(__name__)


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the models folder ``root``, which is made when missing. Not for two threads or nested use.

    It goes with the process that held it. On a disk that knows no locks, or when somebody hangs with it, the block
    runs without: what it guards against is rare, a job that never runs is not.

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
        held = _take(lock)
        try:
            yield
        finally:
            if held:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile has the file open as well
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.debug("the models folder cannot be locked (%s)", error.strerror)
                return False
        if time.monotonic() > until:
            log.warning("another worker has held the models folder's lock for %.0f s; going on without", WAIT_S)
            return False
        time.sleep(LOOK_EVERY_S)

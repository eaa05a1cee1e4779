"""Unfinished downloads: a ``.part`` file beside the target, which is moved into place or removed.

``.<name>.<host>-<pid>-<start>-<8 hex>.part``: unique, without a model's extension (ComfyUI does not list it), and with
the process in its name, so that :func:`sweep_parts` finds what a dead process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import time
from pathlib import Path

from worker.downloads.disk import free_bytes, sha256_of
from worker.errors import Code, WorkerError
from worker.process_id import PATTERN, is_gone, is_of_this_host, process_id
from worker.text import amount

STALE_AFTER_S = 24 * 3600.0
NAME_BYTES_IN_PART = 150

_PART = re.compile(rf"\..*\.{PATTERN}-[0-9a-f]{{8}}\.part", re.DOTALL)
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

log = logging.getLogger(__name__)


class PathTakenError(Exception):
    """Other bytes are at the final path: another worker put them there meanwhile."""


class PartFile:
    """One ``.part``. Its descriptor is open as long as a thread has this object, so no late write hits another file.

    Args:
        target: the final path; its folder is made when missing.

    Raises:
        WorkerError: DISK_FULL, or DOWNLOAD_FAILED when the folder cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(part_name(target.name))
        self._fd = -1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise disk_error(error, target) from None

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def reserve(self, size: int, network_volume: bool) -> None:
        """Make the file ``size`` bytes long; on a local disk allocate its blocks, so that a full disk fails now.

        On a network file system only the length is set: glibc emulates ``posix_fallocate`` there, one write a block.
        """
        try:
            if network_volume or not size or not self._preallocate(size):
                if size > free_bytes(self.target.parent):
                    raise OSError(errno.ENOSPC, "")
                os.ftruncate(self._fd, size)
        except OSError as error:
            raise disk_error(error, self.target, size) from None

    def _preallocate(self, size: int) -> bool:
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno in _NO_PREALLOCATION:
                return False
            raise
        return True

    def write(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Raise WorkerError (DISK_FULL)."""
        try:
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset + written)
        except OSError as error:
            raise disk_error(error, self.target) from None

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read the bytes at ``offset``; return how many were read."""
        return os.preadv(self._fd, [buffer], offset)

    def drop(self) -> None:
        """Remove the file and free its space; idempotent. A file that already has its final name keeps its bytes.

        The space is freed even while something, such as an error's traceback, still refers to this object.
        """
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            if os.fstat(self._fd).st_nlink == 0:
                os.ftruncate(self._fd, 0)

    def move_into_place(self, size: int, sha256: str, fsync: bool) -> None:
        """Give the finished file its final name, whole or not at all, and make ComfyUI list the folder again.

        Existing bytes are never replaced. The same bytes under the name (another worker was faster) count as done.

        Raises:
            PathTakenError: other bytes have the name.
            WorkerError: the folder cannot be written.
        """
        try:
            os.ftruncate(self._fd, size)
            if fsync:
                os.fsync(self._fd)
            self._link_or_rename(size, sha256)
            os.utime(self.target.parent)  # ComfyUI caches a folder's list by its mtime
        except OSError as error:
            raise disk_error(error, self.target) from None

    def _link_or_rename(self, size: int, sha256: str) -> None:
        try:
            os.link(self.path, self.target, follow_symlinks=False)
        except FileExistsError:
            self._check_same_bytes(size, sha256)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(self.target):
                self._check_same_bytes(size, sha256)
            else:
                self.path.replace(self.target)
        self.path.unlink(missing_ok=True)

    def _check_same_bytes(self, size: int, sha256: str) -> None:
        if not self.target.is_file() or self.target.stat().st_size != size or sha256_of(self.target) != sha256:
            raise PathTakenError


def disk_error(error: OSError, target: Path, size: int | None = None) -> WorkerError:
    """Turn a failed file operation into a WorkerError that names the folder under ``models/``, never the whole path."""
    folder = target.parent.name
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = "is full" if error.errno == errno.ENOSPC else "quota is used up"
        needs = f" ({target.name} has {amount(size)}, free are {amount(free_bytes(target.parent))})" if size else ""
        return WorkerError(Code.DISK_FULL, f"the disk {cause} and cannot take {target.name}{needs}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        what = f"the models folder `{folder}` cannot be written ({os.strerror(error.errno)})"
        return WorkerError(Code.DOWNLOAD_FAILED, what, "Make MODELS_DIR a folder that this worker may write to.")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return WorkerError(Code.DOWNLOAD_FAILED, f"{target.name} could not be written to `{folder}` ({reason})")


def part_name(name: str) -> str:
    """Return a new unique name for a file that will become ``name``; at most 255 bytes."""
    head = name.encode()[:NAME_BYTES_IN_PART].decode(errors="ignore")
    return f".{head}.{process_id()}-{secrets.token_hex(4)}.part"


def sweep_parts(folder: Path) -> list[Path]:
    """Remove dead downloads' files from ``folder``: this host's by pid and start time, any other's after 24 hours.

    The ``.part`` of a live process on this host is never touched, however old it is. A missing folder is an empty one.

    Returns:
        the removed files.
    """
    removed = []
    try:
        entries = sorted(folder.glob(".*.part"))
    except OSError:
        return []
    for path in entries:
        match = _PART.fullmatch(path.name)
        try:
            if match and _is_left_over(match, path.lstat().st_mtime):
                path.unlink()
                removed.append(path)
        except OSError:
            continue  # another worker was faster, or this process has no right to it; nothing needs it
    if removed:
        log.info("removed %d unfinished downloads from %s", len(removed), folder.name)
    return removed


def _is_left_over(match: re.Match[str], mtime: float) -> bool:
    return is_gone(match) if is_of_this_host(match) else time.time() - mtime > STALE_AFTER_S

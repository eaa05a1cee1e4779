"""ComfyUI's input folder: stores a job's files by content, and never overwrites a file that is not ours.

A hidden store inside the folder has each content once; the names that jobs give it are links to it. So no list of our
files is needed: a name is ours if it links to the store. Over the budget, the least recently used contents are deleted,
with their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worker.errors import Code, WorkerError

STORE = ".comfy-worker"
BUDGET_BYTES = 2 << 30
KEPT_SHARE = 0.8  # of the budget; deleting down to it makes the next clean-up rare
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """One file's bytes in the store."""

    sha256: str
    path: Path


Inputs = Sequence[tuple[str, Content]]
"""A job's files: the name that the job gave each, and its content in the store."""


class InputFolder:
    """ComfyUI's input folder as the worker uses it. Safe for several threads.

    Args:
        root: the folder.
        budget_bytes: the store's largest size between jobs.
    """

    def __init__(self, root: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self.root = root
        self.store = root / STORE
        self._budget = budget_bytes
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> Content:
        """Put bytes into the store, unless it has them."""
        sha256 = hashlib.sha256(data).hexdigest()
        content = Content(sha256, self.store / sha256)
        with self._lock:
            if not self._touch(content.path, len(data)):
                with self.receiving() as part:
                    part.write_bytes(data)
                    part.replace(content.path)
        return content

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Path]:
        """Yield a path in the store to write to; a file still there at the end is deleted."""
        self.store.mkdir(parents=True, exist_ok=True)
        part = self.store / f"{secrets.token_hex(8)}.part"
        try:
            yield part
        except OSError as error:
            raise _disk_error(error) from error
        finally:
            part.unlink(missing_ok=True)

    def keep_received(self, part: Path, sha256: str) -> Content:
        """Move the file that was written to :meth:`receiving`'s path into the store."""
        content = Content(sha256, self.store / sha256)
        with self._lock:
            if not self._touch(content.path, part.stat().st_size):
                part.replace(content.path)
        return content

    def link_inputs(self, inputs: Inputs) -> dict[str, str]:
        """Link each content under its name, then shrink the store to its budget.

        Returns:
            The new name of each file whose name was taken by a file that is not ours.

        Raises:
            WorkerError: INVALID_INPUT, a name leads out of the folder or is a folder; DISK_FULL.
        """
        renamed: dict[str, str] = {}
        with self._lock:
            stored = self._inodes()
            for name, content in inputs:
                try:
                    actual = self._link_input(name, content, stored)
                except OSError as error:
                    raise _disk_error(error) from error
                if actual != name:
                    renamed[name] = actual
            self._shrink({content.path for _, content in inputs})
        return renamed

    def _link_input(self, name: str, content: Content, stored: set[tuple[int, int]]) -> str:
        target = self._target(name)
        if target.is_dir():
            raise _bad_name(name, "is a folder on this worker")
        if not os.path.lexists(target) or self._is_ours(target, stored):
            _link(content.path, target)
            return name
        if _has_content(target, content):
            return name
        path = PurePosixPath(name)
        other = str(path.with_name(f"{path.stem}.{content.sha256[:12]}{path.suffix}"))
        _link(content.path, self._target(other))
        return other

    def _target(self, name: str) -> Path:
        """Return the path of a name, and make its folder. Symlinks in it must not lead out of the input folder."""
        target = self.root / name
        try:
            folder = target.parent.resolve()
            if not folder.is_relative_to(self.root.resolve()) or folder.is_relative_to(self.store.resolve()):
                raise _bad_name(name, "leads out of the input folder")
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _bad_name(name, "needs a folder where this worker has a file") from None
        return folder / target.name

    def _is_ours(self, target: Path, stored: set[tuple[int, int]]) -> bool:
        if target.is_symlink():
            return Path(os.path.realpath(target)).is_relative_to(self.store.resolve())
        info = target.stat()
        return (info.st_dev, info.st_ino) in stored

    def _inodes(self) -> set[tuple[int, int]]:
        return {(info.st_dev, info.st_ino) for _, info in self._contents()}

    def _contents(self) -> list[tuple[Path, os.stat_result]]:
        """Return the files of the store, least recently used first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.store) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.endswith(".part"):
                    found.append((Path(entry.path), Path(entry.path).stat()))
        return sorted(found, key=lambda each: each[1].st_atime)

    def _touch(self, path: Path, size: int) -> bool:
        """Return True if the store has the whole file, and record its use."""
        try:
            info = path.stat()
            if info.st_size != size:
                return False
            # The modification time stays: some nodes detect a change by it.
            os.utime(path, ns=(time.time_ns(), info.st_mtime_ns))
        except OSError:
            return False
        return True

    def _shrink(self, in_use: Iterable[Path]) -> None:
        contents, kept = self._contents(), set(in_use)
        total = sum(info.st_size for _, info in contents)
        if total <= self._budget:
            return
        to_delete = {}
        for path, info in contents:
            if total <= self._budget * KEPT_SHARE:
                break
            if path not in kept:
                to_delete[(info.st_dev, info.st_ino)] = path
                total -= info.st_size
        for name in self._names_of(to_delete):
            name.unlink(missing_ok=True)
        for path in to_delete.values():
            path.unlink(missing_ok=True)

    def _names_of(self, to_delete: Mapping[tuple[int, int], Path]) -> list[Path]:
        """Return every path under the input folder that links to one of these contents."""
        found = []
        for folder, _, names in os.walk(self.root):
            if Path(folder) == self.store:
                continue
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    info = path.stat()
                    is_link = path.is_symlink() and not self._is_ours(path, set())
                    if (info.st_dev, info.st_ino) in to_delete and not is_link:
                        found.append(path)
        return found


def _link(content: Path, target: Path) -> None:
    """Link ``target`` to a file of the store, atomically replacing what was there."""
    if target.exists() and target.samefile(content):
        return
    part = content.parent / f"{secrets.token_hex(8)}.part"
    try:
        try:
            os.link(content, part)
        except OSError:  # the file system has no hard links
            part.symlink_to(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _has_content(path: Path, content: Content) -> bool:
    if not path.is_file() or path.stat().st_size != content.path.stat().st_size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == content.sha256


def _bad_name(name: str, problem: str) -> WorkerError:
    return WorkerError(
        Code.INVALID_INPUT, f"the input file's name {name!r} {problem}", details={"field": "files", "name": name}
    )


def _disk_error(error: OSError) -> WorkerError:
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    code = Code.DISK_FULL if full else Code.INTERNAL
    return WorkerError(code, f"an input file could not be written ({error.strerror})")

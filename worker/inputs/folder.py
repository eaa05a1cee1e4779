"""ComfyUI's input folder on this disk: a job's files by content, once, and never over anybody else's file.

Each content lies once in a hidden store inside the folder; the names that jobs gave it are links to it. So what is ours
is known without a list: a name is ours if it links to the store. Past the budget the contents that were used longest
ago are deleted, with their names.
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


KEPT_SHARE = 0.8


PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """One file's bytes in the store."""

    sha256: str
    path: Path


Inputs = Sequence[tuple[str, Content]]
"""A job's files that are on this disk: the name each is to have, and its bytes."""


class InputFolder:
    """ComfyUI's input folder as the worker uses it. Safe for several threads.

    Args:
        root: the folder.
        budget_bytes: what the store may hold between jobs.
    """

    def __init__(self, root: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self.root = root
        self.store = root / STORE
        self._budget = budget_bytes
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> Content:
        """Put bytes into the store, unless they are there."""
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
        """A path in the store to write to; what is left there at the end is deleted."""
        self.store.mkdir(parents=True, exist_ok=True)
        part = self.store / f"{secrets.token_hex(8)}.part"
        try:
            yield part
        except OSError as error:
            raise _disk_error(error) from error
        finally:
            part.unlink(missing_ok=True)

    def keep_received(self, part: Path, sha256: str) -> Content:
        """Take a file that was written to :meth:`receiving`'s path into the store."""
        content = Content(sha256, self.store / sha256)
        with self._lock:
            if not self._touch(content.path, part.stat().st_size):
                part.replace(content.path)
        return content

    def link_inputs(self, wanted: Inputs) -> dict[str, str]:
        """Give each content its name, then make room in the store; those whose name was another's file, with their own.

        Raises:
            WorkerError: INVALID_INPUT, a name leads out of the folder or is a folder; DISK_FULL.
        """
        renamed: dict[str, str] = {}
        with self._lock:
            ours = self._inodes()
            for name, content in wanted:
                try:
                    actual = self._link_input(name, content, ours)
                except OSError as error:
                    raise _disk_error(error) from error
                if actual != name:
                    renamed[name] = actual
            self._make_room({content.path for _, content in wanted})
        return renamed

    def _link_input(self, name: str, content: Content, ours: set[tuple[int, int]]) -> str:
        target = self._target(name)
        if target.is_dir():
            raise _bad_name(name, "is a folder on this worker")
        if not os.path.lexists(target) or self._is_ours(target, ours):
            _link(content.path, target)
            return name
        if _same(target, content):
            return name
        path = PurePosixPath(name)
        other = str(path.with_name(f"{path.stem}.{content.sha256[:12]}{path.suffix}"))
        _link(content.path, self._target(other))
        return other

    def _target(self, name: str) -> Path:
        """The path of a name; its folder is made. Symlinks in it must not lead out of the input folder."""
        target = self.root / name
        try:
            folder = target.parent.resolve()
            if not folder.is_relative_to(self.root.resolve()) or folder.is_relative_to(self.store.resolve()):
                raise _bad_name(name, "leads out of the input folder")
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _bad_name(name, "needs a folder where this worker has a file") from None
        return folder / target.name

    def _is_ours(self, target: Path, ours: set[tuple[int, int]]) -> bool:
        if target.is_symlink():
            return Path(os.path.realpath(target)).is_relative_to(self.store.resolve())
        info = target.stat()
        return (info.st_dev, info.st_ino) in ours

    def _inodes(self) -> set[tuple[int, int]]:
        return {(info.st_dev, info.st_ino) for _, info in self._contents()}

    def _contents(self) -> list[tuple[Path, os.stat_result]]:
        """What is in the store, least recently used first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.store) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.endswith(".part"):
                    found.append((Path(entry.path), Path(entry.path).stat()))
        return sorted(found, key=lambda each: each[1].st_atime)

    def _touch(self, path: Path, size: int) -> bool:
        """Whether the store has it, whole; notes the use."""
        try:
            info = path.stat()
            if info.st_size != size:
                return False
            os.utime(
                path, ns=(time.time_ns(), info.st_mtime_ns)
            )  # the time of writing stays: some nodes tell a change by it
        except OSError:
            return False
        return True

    def _make_room(self, spare: Iterable[Path]) -> None:
        contents, kept = self._contents(), set(spare)
        total = sum(info.st_size for _, info in contents)
        if total <= self._budget:
            return
        doomed = {}
        for path, info in contents:
            if total <= self._budget * KEPT_SHARE:
                break
            if path not in kept:
                doomed[(info.st_dev, info.st_ino)] = path
                total -= info.st_size
        for name in self._names_of(doomed):
            name.unlink(missing_ok=True)
        for path in doomed.values():
            path.unlink(missing_ok=True)

    def _names_of(self, doomed: Mapping[tuple[int, int], Path]) -> list[Path]:
        """Every name under the input folder that links to one of these contents."""
        found = []
        for folder, _, names in os.walk(self.root):
            if Path(folder) == self.store:
                continue
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    info = path.stat()
                    is_link = path.is_symlink() and not self._is_ours(path, set())
                    if (info.st_dev, info.st_ino) in doomed and not is_link:
                        found.append(path)
        return found


def _link(content: Path, target: Path) -> None:
    """Make ``target`` a second name of a file in the store, at once and in place of what was there."""
    if target.exists() and target.samefile(content):
        return
    part = content.parent / f"{secrets.token_hex(8)}.part"
    try:
        try:
            os.link(content, part)
        except OSError:  # a file system without hard links
            part.symlink_to(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _same(path: Path, content: Content) -> bool:
    if not path.is_file() or path.stat().st_size != content.path.stat().st_size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest() == content.sha256


def _bad_name(name: str, problem: str) -> WorkerError:
    return WorkerError(
        Code.INVALID_INPUT, f"the input file's name {name!r} {problem}", details={"field": "files", "name": name}
    )


def _disk_error(error: OSError) -> WorkerError:
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    code = Code.DISK_FULL if full else Code.INTERNAL
    return WorkerError(code, f"an input file could not be written ({error.strerror})")

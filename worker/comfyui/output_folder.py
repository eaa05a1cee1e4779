"""The worker's own output folder: read safely, and kept within a budget so that a warm worker's disk does not fill.

It is a folder of its own, not the checkout's ``output/``: files that a person saved there are never touched. Files stay
after they were returned, because a prompt that ComfyUI answers from its cache names the files of an earlier job. When
the folder passes its budget, the least recently returned are deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from worker.results.outputs import Output

BUDGET_BYTES = 1 << 30  # a few hundred large PNGs; far below the smallest container disk RunPod offers (5 GB)
KEPT_SHARE = 0.8  # of the budget, left by a clean-up, so that the next job does not start another one
PREFIX = "comfy-worker-"


class OutputFolder:
    """``output/`` and ``temp/`` of one worker process, removed when it ends."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        _remove_dead_workers_folders()
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self._budget = budget_bytes
        self._returned_since_sweep = 0
        (self.root / "output").mkdir()

    @property
    def flags(self) -> list[str]:
        """ComfyUI's flags for writing here; it adds ``temp`` to the temp directory itself."""
        return ["--output-directory", str(self.root / "output"), "--temp-directory", str(self.root)]

    def find(self, output: Output) -> Path | None:
        """Return the path of an output; None if it is gone or outside the folder (a node may write anywhere)."""
        path = self._path(output)
        if path is None:
            return None
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):
                return None
            os.utime(path)  # returned again: used most recently
        except OSError:
            return None
        self._returned_since_sweep += info.st_size
        return path

    @property
    def is_sweep_due(self) -> bool:
        """True once enough was returned since the last sweep for the folder to be full."""
        return self._returned_since_sweep >= self._budget * (1 - KEPT_SHARE)

    def sweep(self, spare: Collection[Path] = ()) -> None:
        """Delete the least recently returned files if the folder has passed its budget, but none of ``spare``."""
        if not self.is_sweep_due:
            return
        self._returned_since_sweep = 0
        files = sorted(_files(self.root), key=lambda found: found[1].st_mtime)
        total = sum(info.st_size for _, info in files)
        if total <= self._budget:
            return
        for path, info in files:
            if total <= self._budget * KEPT_SHARE:
                break
            if path in spare:
                continue
            path.unlink(missing_ok=True)
            total -= info.st_size

    def remove(self) -> None:
        """Delete the whole folder; idempotent."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, output: Output) -> Path | None:
        if output.type not in ("output", "temp"):
            return None
        base = self.root / output.type
        path = (base / output.subfolder / output.filename).resolve()
        return path if path.is_relative_to(base.resolve()) else None


def _files(root: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            with contextlib.suppress(OSError):
                info = path.lstat()
                if stat.S_ISREG(info.st_mode):
                    found.append((path, info))
    return found


def _remove_dead_workers_folders() -> None:
    """Delete the folders of workers killed with -9. A reused process id only delays the removal."""
    for left_over in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = left_over.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not _runs(int(pid)) and left_over.stat().st_uid == os.getuid():
            shutil.rmtree(left_over, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

"""Where models lie: a worker's own disk, pruned after each job, or one network volume; and what memory still has."""

from __future__ import annotations

from collections import OrderedDict

from benchmarks.simulation.settings import Endpoint

Models = tuple[tuple[str, float], ...]


class OwnDisk:
    """A worker's own: what a job does not list goes, but for the most recently used ``keep_gb``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._speed, self._keep_gb, self._baked = endpoint.download_mb_s, endpoint.keep_gb, endpoint.baked
        self.read_mb_s = endpoint.disk_read_mb_s
        self._there: OrderedDict[str, float] = OrderedDict()

    def bring(self, models: Models, now: float) -> tuple[float, set[str]]:
        """When all are there, and which were downloaded."""
        missing = [(name, size) for name, size in models if name not in self._there and not self._baked]
        for name, size in models:
            self._there[name] = size
            self._there.move_to_end(name)
        self._prune({name for name, _ in models})
        return now + sum(size for _, size in missing) * 1000 / self._speed, {name for name, _ in missing}

    def _prune(self, listed: set[str]) -> None:
        unlisted = sum(size for name, size in self._there.items() if name not in listed)
        for name in [name for name in self._there if name not in listed]:
            if unlisted <= self._keep_gb:
                return
            unlisted -= self._there.pop(name)


class Volume:
    """One for all workers: nothing is pruned, and what one worker brings the others wait for."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._speed = min(endpoint.download_mb_s, endpoint.volume_mb_s)
        self.read_mb_s = endpoint.volume_mb_s
        self._there_at: dict[str, float] = {}
        self.gb = 0.0

    def bring(self, models: Models, now: float) -> tuple[float, set[str]]:
        """When all are there, and which this worker downloaded."""
        missing = [(name, size) for name, size in models if name not in self._there_at]
        size = sum(size for _, size in missing)
        self.gb += size
        self._there_at.update({name: now + size * 1000 / self._speed for name, _ in missing})
        return max([now, *(self._there_at[name] for name, _ in models)]), {name for name, _ in missing}


class Memory:
    """A worker's: the models on the GPU are the last job's, and the kernel still has the files used most recently."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._speed, self._room_gb = endpoint.memory_mb_s, endpoint.memory_gb
        self._files: OrderedDict[str, float] = OrderedDict()
        self._on_gpu: set[str] = set()

    def load_s(self, models: Models, read_mb_s: float, fresh: set[str], ahead_s: float = 0.0) -> float:
        """Seconds until a job's models are on the GPU.

        Those in ``fresh`` were written here a moment ago; for ``ahead_s`` the others were already being read.
        """
        seconds, read_s, at_least_s = 0.0, 0.0, 0.0
        for name, size in models:
            if name not in self._on_gpu:
                from_memory_s = size * 1000 / self._speed
                if name in self._files or name in fresh:
                    seconds += from_memory_s
                else:
                    read_s += size * 1000 / read_mb_s
                    at_least_s += from_memory_s
            self._files[name] = size
            self._files.move_to_end(name)
        self._on_gpu = {name for name, _ in models}
        while sum(self._files.values()) > self._room_gb:
            self._files.popitem(last=False)
        return seconds + max(at_least_s, read_s - ahead_s)

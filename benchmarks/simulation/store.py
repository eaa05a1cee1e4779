"""The places of models: a worker's own disk, pruned after each job, or one network volume; and the page cache."""

from __future__ import annotations

from collections import OrderedDict

from benchmarks.simulation.settings import EndpointSettings

Models = tuple[tuple[str, float], ...]


class OwnDisk:
    """A worker's own disk: models that a job does not list are deleted, except the most recently used ``keep_gb``."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        self._speed, self._keep_gb, self._baked = endpoint.download_mb_s, endpoint.keep_gb, endpoint.baked
        self.read_mb_s = endpoint.disk_read_mb_s
        self._models: OrderedDict[str, float] = OrderedDict()

    def fetch(self, models: Models, now: float) -> tuple[float, set[str]]:
        """Return the time at which all are present, and the names of those downloaded."""
        missing = [(name, size) for name, size in models if name not in self._models and not self._baked]
        for name, size in models:
            self._models[name] = size
            self._models.move_to_end(name)
        self._prune({name for name, _ in models})
        return now + sum(size for _, size in missing) * 1000 / self._speed, {name for name, _ in missing}

    def _prune(self, listed: set[str]) -> None:
        unlisted = sum(size for name, size in self._models.items() if name not in listed)
        for name in [name for name in self._models if name not in listed]:
            if unlisted <= self._keep_gb:
                return
            unlisted -= self._models.pop(name)


class Volume:
    """One volume for all workers: nothing is pruned, and workers wait for each other's downloads."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        self._speed = min(endpoint.download_mb_s, endpoint.volume_mb_s)
        self.read_mb_s = endpoint.volume_mb_s
        self._present_at: dict[str, float] = {}
        self.gb = 0.0

    def fetch(self, models: Models, now: float) -> tuple[float, set[str]]:
        """Return the time at which all are present, and the names of those this worker downloads."""
        missing = [(name, size) for name, size in models if name not in self._present_at]
        size = sum(size for _, size in missing)
        self.gb += size
        self._present_at.update({name: now + size * 1000 / self._speed for name, _ in missing})
        return max([now, *(self._present_at[name] for name, _ in models)]), {name for name, _ in missing}


class Memory:
    """A worker's memory: the last job's models on the GPU, the most recently used files in the page cache."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        self._speed, self._room_gb = endpoint.memory_mb_s, endpoint.memory_gb
        self._files: OrderedDict[str, float] = OrderedDict()
        self._on_gpu: set[str] = set()

    def load_s(self, models: Models, read_mb_s: float, fresh: set[str], ahead_s: float = 0.0) -> float:
        """Return the seconds until a job's models are on the GPU.

        Those in ``fresh`` were just downloaded; the others have been read ahead for ``ahead_s``.
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

"""Models of a made-up site, and short ways to see what a ModelManager made of its folder with them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from model_manager import ModelManager
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code, WorkerError
from worker.models.leases import LEASES_PATH
from worker.sites.types import Download, Downloaded, ModelFile, RepoLine
from worker.stop import Stop

TOKEN = "t0ken-that-nobody-may-see"
HOUR_NS = 3600 * 10**9


def model_bytes(version: int, size: int = 4096) -> bytes:
    """What the site gives for a version."""
    return safetensors_bytes(size, f"version {version}")


def put(root: Path, name: str, data: bytes = b"model", age_ns: int = HOUR_NS) -> Path:
    """Write a model file by hand, as old as wanted; its path."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = path.stat().st_mtime_ns - age_ns
    os.utime(path, ns=(then, then))
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Every file below the root and its bytes, the manifest aside."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".comfy-worker" not in path.parts
    }


def named(facts: Iterable[dict[str, Any]]) -> list[str]:
    """``folder/name`` of each model in a part of the answer."""
    return sorted(f"{each['folder']}/{each['name']}" for each in facts)


def unhurried(manager: ModelManager) -> ModelManager:
    """The manager in a world where no other worker used a file within the last job's time."""
    manager._pruner.settings = replace(manager.settings, job_timeout_s=-3600)
    return manager


def lora(name: str) -> dict[str, Any]:
    """A prompt that names one LoRA."""
    return {"1": {"class_type": "LoraLoader", "inputs": {"lora_name": name}}}


class FakeSource:
    """Knows models by version number; brings them as a download does: whole files, atomically."""

    def __init__(self) -> None:
        self.models: dict[int, tuple[str, str, str, bytes, dict[str, Any]]] = {}
        self.resolved: list[int] = []
        self.fetched: list[str] = []
        self.before_fetch: Callable[[Sequence[Download]], object] = lambda downloads: None
        self.fail_at: int | None = None
        """The place in a job's downloads of the one that fails."""

    def add(
        self, version: int, folder: str = "loras", name: str | None = None, data: bytes | None = None, **more: Any
    ) -> bytes:
        """Publish a model; ``more`` are fields of its :class:`ModelFile`. Its bytes."""
        data = model_bytes(version) if data is None else data
        more = {"size": len(data), "sha256": sha256(data).hexdigest(), **more}
        identity = f"civitai:{version}:{version * 10}"
        self.models[version] = (identity, folder, name or f"m{version}.safetensors", data, more)
        return data

    def line(self, version: int, suffix: str = "") -> str:
        """A line of ``repo_list``."""
        return f"https://civitai.com/api/download/models/{version}{suffix}"

    def list(self, *versions: int) -> str:
        """A ``repo_list``."""
        return "\n".join(self.line(version) for version in versions)

    def resolve(self, lines: Sequence[RepoLine], stop: Stop) -> Sequence[ModelFile]:
        """What the site says of each line."""
        stop.check()
        return [self._file(line) for line in lines]

    def _file(self, line: RepoLine) -> ModelFile:
        version = int(line.url.rpartition("/")[2])
        self.resolved.append(version)
        if version not in self.models:
            raise WorkerError(Code.MODEL_NOT_FOUND, f"line {line.number}: no such model")
        identity, folder, name, _, more = self.models[version]
        url = f"https://user:{TOKEN}@cdn.example/{version}?token={TOKEN}"
        return ModelFile(identity, line.folder or folder, line.filename or name, url, line, **more)

    def fetch(self, downloads: Sequence[Download], stop: Stop, report: Any) -> Sequence[Downloaded]:
        """Bring each."""
        self.before_fetch(downloads)
        done = []
        for number, download in enumerate(downloads):
            stop.check()
            if number == self.fail_at:
                raise WorkerError(Code.DOWNLOAD_FAILED, "the network is down")
            data = self.models[int(download.file.identity.split(":")[1])][3]
            assert not os.path.lexists(download.path), "new bytes must never take the path of other bytes"
            download.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = download.path.with_name(f".{download.path.name}.part")
            temporary.write_bytes(data)
            temporary.replace(download.path)
            self.fetched.append(download.path.name)
            done.append(Downloaded(download.file, download.path, len(data), sha256(data).hexdigest()))
        return done


def claims_of(root: Path, name: str, **facts: Any) -> Path:
    """Write the claims of a worker that is not this process; their file."""
    path = root / LEASES_PATH / f"{name}-0123abcd.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"until": time.time() + 60, "using": [], "fetching": [], **facts}))
    return path

"""Saves results as files under the names that the workflow asks for, each once, and again in ``./remote_results``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jobs import RemoteJob
from ..media_types import AUDIO, VIDEO
from ..remote_sink import (
    RejectedError,
    check_picture,
    decode_base64,
    finish_part,
    free_names,
    link_once,
    part_file,
    plain_name,
    write_once,
)
from .link_download import ResultLink, ResultLinkError, download
from .node_outputs import outputs_of

MAX_FILE_BYTES = 192 * 1024 * 1024
OTHER = (
    ".txt", ".md", ".json", ".yaml", ".csv", ".srt", ".vtt", ".latent", ".safetensors", ".zip", ".pdf",
    ".glb", ".gltf", ".obj", ".stl", ".ply", ".exr", ".hdr", ".avif", ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""Accepted by extension, since they are only stored; no SVG, which a browser would run under ComfyUI's address."""
TEXT = "text"
SavePath = Callable[[str, str, int, int], tuple[str, str, int, str, str]]
"""ComfyUI's ``get_save_image_path``: (prefix, folder, width, height) to (folder, name, counter, subfolder, prefix)."""


@dataclass(frozen=True)
class ResultFile:
    """One checked file of a job's output."""

    index: int
    entry: dict[str, Any]
    data: bytes | Path
    digest: str
    extension: str
    width: int
    height: int

    @classmethod
    def of(cls, index: int, entry: dict[str, Any]) -> ResultFile:
        """Decode and check an entry. Raises RejectedError if its content is not allowed."""
        data = decode_base64(entry.get("b64") or entry.get("data"), MAX_FILE_BYTES)
        return cls(index, entry, data, hashlib.sha256(data).hexdigest(), *_kind(entry, data))

    @classmethod
    def downloaded(cls, index: int, entry: dict[str, Any], part: Path, digest: str) -> ResultFile:
        """Check a downloaded file. Raises RejectedError if its content is not allowed."""
        return cls(index, entry, part, digest, *_kind(entry, part))

    def write(self, path: Path) -> bool:
        """Write it whole or not at all. Return False if the name is taken."""
        return write_once(path, self.data) if isinstance(self.data, bytes) else finish_part(self.data, path)


def folder_of(entry: dict[str, Any]) -> str:
    """Return ``temp`` for previews, else ``output``."""
    return "temp" if entry.get("type") == "temp" else "output"


class ResultSaver:
    """Saves a job's output. ``store`` saves the job, so that each file's name and hash are stored before the file."""

    def __init__(
        self, folders: dict[str, Path], save_path: SavePath, copies: Path | None, store: Callable[[RemoteJob], None]
    ):
        self._folders, self._save_path, self._copies, self._store = folders, save_path, copies, store

    def save(self, job: RemoteJob, output: dict[str, Any]) -> list[str]:
        """Save every result and set ``job.outputs``. Return warnings about results that were not saved.

        Raises:
            ResultLinkError: a link cannot be read now; the rest is saved, and the next call continues.
        """
        link_error: ResultLinkError | None = None
        texts: dict[str, list[str]] = {}
        sent = output.get("warnings")
        warnings = [text[:500] for text in sent if isinstance(text, str)] if isinstance(sent, list) else []
        for index, entry in enumerate(_entries(output)):
            if entry.get("type") == TEXT and isinstance(entry.get("text"), str):
                texts.setdefault(str(entry.get("node_id") or ""), []).append(entry["text"])
                continue  # shown in its node only, as ComfyUI does with a local text
            try:
                if entry.get("url") and not (entry.get("b64") or entry.get("data")):
                    self._save_link(job, index, entry)
                else:
                    self._save_one(job, ResultFile.of(index, entry))
            except RejectedError as error:
                warnings.append(f"{str(entry.get('filename'))[:100]!r} was not saved: {error.message}")
            except ResultLinkError as error:
                link_error = error
        if link_error is not None:
            raise link_error
        job.outputs = outputs_of(job, texts)
        self._store(job)
        return warnings

    def _save_link(self, job: RemoteJob, index: int, entry: dict[str, Any]) -> None:
        """Download it into its folder, unless an earlier call has saved it."""
        if any(file["index"] == index and file.get("linked") and self._is_there(file) for file in job.files):
            return
        link = ResultLink.of(entry, job.endpoint)
        with part_file(self._folders[folder_of(entry)]) as part:
            self._save_one(job, ResultFile.downloaded(index, entry, part, download(link, part)))

    def _save_one(self, job: RemoteJob, result: ResultFile) -> None:
        saved = (file for file in job.files if (file["index"], file["sha256"]) == (result.index, result.digest))
        file = next(saved, None)
        if file is None or not self._is_there(file):
            file = self._write(job, result, file)
        self._write_sidecars(file, result.entry)
        if self._copies is not None and not file.get("copied"):
            self._copy(job, file, self._copies)

    def _write_sidecars(self, file: dict[str, Any], entry: dict[str, Any]) -> None:
        """Write the worker's metadata of a picture beside it; existing files are not changed."""
        metadata, text, path = entry.get("metadata"), entry.get("parameters"), self._path(file)
        if isinstance(metadata, dict) and metadata:
            encoded = json.dumps(metadata, indent=2, ensure_ascii=False).encode("utf-8", "replace")
            write_once(path.with_suffix(".json"), encoded)
        if isinstance(text, str) and text:
            write_once(path.with_suffix(".txt"), text.encode("utf-8", "replace"))

    def _path(self, file: dict[str, Any]) -> Path:
        return self._folders[file["type"]] / file["subfolder"] / file["filename"]

    def _is_there(self, file: dict[str, Any]) -> bool:
        digest = hashlib.sha256()
        with contextlib.suppress(OSError), self._path(file).open("rb") as whole:
            while chunk := whole.read(2**20):
                digest.update(chunk)
            return digest.hexdigest() == str(file["sha256"])
        return False

    def _write(self, job: RemoteJob, result: ResultFile, planned: dict[str, Any] | None) -> dict[str, Any]:
        """Choose a name, store it, then write; with the next name if another program has taken this one."""
        while True:
            file = planned or self._plan(job, result)
            job.files = [*(other for other in job.files if other["index"] != result.index), file]
            self._store(job)
            if result.write(self._path(file)):
                return file
            planned = None

    def _plan(self, job: RemoteJob, result: ResultFile) -> dict[str, Any]:
        kind = folder_of(result.entry)
        root = str(self._folders[kind])
        try:
            found = self._save_path(_prefix(job, result.entry), root, result.width, result.height)
        except Exception:  # ComfyUI raises a bare Exception for a prefix outside its folder
            found = self._save_path("remote/ComfyUI", root, result.width, result.height)
        full, name, counter, subfolder, _ = found
        name = name.replace("%batch_num%", str(result.entry.get("batch") or 0))
        while (Path(full) / f"{name}_{counter:05}_{result.extension}").exists():
            counter += 1
        filename = f"{name}_{counter:05}_{result.extension}"
        about = {"index": result.index, "sha256": result.digest, "node_id": str(result.entry.get("node_id") or "")}
        if isinstance(result.data, Path):
            about["linked"] = True
        return {"type": kind, "subfolder": subfolder, "filename": filename, **about}

    def _copy(self, job: RemoteJob, file: dict[str, Any], folder: Path) -> None:
        """Link the file into ``remote_results``, which needs no space."""
        source = self._path(file)
        folder.mkdir(parents=True, exist_ok=True)
        for name in free_names(plain_name(source.name, source.suffix)):
            target = folder / name
            if (target.exists() and target.samefile(source)) or link_once(source, target):
                file["copied"] = name
                self._store(job)
                return


def _entries(output: dict[str, Any]) -> Iterator[dict[str, Any]]:
    batches: dict[str, int] = {}
    for group in ("images", "files"):
        items = output.get(group)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                node_id = str(item.get("node_id"))
                batch = batches[node_id] = batches.get(node_id, -1) + 1
                yield {**item, "batch": batch}


def _kind(entry: dict[str, Any], data: bytes | Path) -> tuple[str, int, int]:
    """Return extension, width and height: of a picture from its bytes, of other known kinds the extension only."""
    suffix = Path(str(entry.get("filename") or "")).suffix.lower()
    if suffix not in (*VIDEO, *AUDIO, *OTHER):
        return check_picture(data)
    if re.match(rb"\s*<(!doctype|html|svg|script|\?xml)", _head(data), re.IGNORECASE):
        raise RejectedError(415, "it is a web page.")
    return suffix, 0, 0


def _head(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data[:200]
    with data.open("rb") as file:
        return file.read(200)


def _prefix(job: RemoteJob, entry: dict[str, Any]) -> str:
    """Return the saving node's filename prefix, else the worker's file name without its counter."""
    node = job.request.prompt.get(str(entry.get("node_id")))
    prefix = node["inputs"].get("filename_prefix") if node else None
    if isinstance(prefix, str) and prefix.strip():
        return prefix
    name = plain_name(entry.get("filename") or "ComfyUI", "")
    name = re.sub(r"_\d+_?$", "", name) or "ComfyUI"
    parts = [part for part in re.split(r"[\\/]", str(entry.get("subfolder") or "")) if part not in ("", ".", "..")]
    return "/".join([*(plain_name(part, "") for part in parts), name])

"""Results become files: under the names that the graph asked for, each once, and again in ``./remote_results``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jobs import Job
from ..media_types import AUDIO, VIDEO
from ..remote_sink import (
    Refused,
    check_picture,
    decode_base64,
    free_names,
    place_once,
    place_part,
    plain_name,
    write_once,
)
from .link_download import Link, LinkTrouble, fetch
from .node_outputs import outputs_of

MAX_FILE_BYTES = 192 * 1024 * 1024
OTHER = (
    ".txt", ".md", ".json", ".yaml", ".csv", ".srt", ".vtt", ".latent", ".safetensors", ".zip", ".pdf",
    ".glb", ".gltf", ".obj", ".stl", ".ply", ".exr", ".hdr", ".avif", ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""Kept by their name, since they are only stored; no SVG, which a browser would run under ComfyUI's own address."""
TEXT = "text"
SavePath = Callable[[str, str, int, int], tuple[str, str, int, str, str]]
"""ComfyUI's ``get_save_image_path``: prefix, folder, width, height to folder, name, counter, subfolder, prefix."""


@dataclass(frozen=True)
class Result:
    """One file of an answer, checked."""

    index: int
    entry: dict[str, Any]
    data: bytes | Path
    digest: str
    extension: str
    width: int
    height: int

    @classmethod
    def of(cls, index: int, entry: dict[str, Any]) -> Result:
        """Decode and check one entry of the answer."""
        data = decode_base64(entry.get("b64") or entry.get("data"), MAX_FILE_BYTES)
        return cls(index, entry, data, hashlib.sha256(data).hexdigest(), *_kind(entry, data))

    @classmethod
    def fetched(cls, index: int, entry: dict[str, Any], part: Path, digest: str) -> Result:
        """Check what came by an entry's link."""
        return cls(index, entry, part, digest, *_kind(entry, part))

    @property
    def folder(self) -> str:
        """Where it belongs."""
        return folder_of(self.entry)

    def write(self, path: Path) -> bool:
        """Whole or not at all; False when the name is taken."""
        return write_once(path, self.data) if isinstance(self.data, bytes) else place_part(self.data, path)


def folder_of(entry: dict[str, Any]) -> str:
    """Where an entry belongs: previews are temporary here as there."""
    return "temp" if entry.get("type") == "temp" else "output"


class ResultSaver:
    """Writes a job's answer. ``keep`` stores the job: each file's name and hash are on disk before the file is."""

    def __init__(self, folders: dict[str, Path], save_path: SavePath, copies: Path | None, keep: Callable[[Job], None]):
        self._folders, self._save_path, self._copies, self._keep = folders, save_path, copies, keep

    def save(self, job: Job, output: dict[str, Any]) -> list[str]:
        """Save everything that came and note it in ``job.outputs``; what was left out, in words.

        Raises:
            LinkTrouble: a link cannot be read now; everything else is saved, and a later call goes on.
        """
        trouble: LinkTrouble | None = None
        texts: dict[str, list[str]] = {}
        told = output.get("warnings")
        warnings = [text[:500] for text in told if isinstance(text, str)] if isinstance(told, list) else []
        for index, entry in enumerate(_entries(output)):
            if entry.get("type") == TEXT and isinstance(entry.get("text"), str):
                texts.setdefault(str(entry.get("node_id") or ""), []).append(entry["text"])
                continue  # shown in its node and no file, as ComfyUI's own are
            try:
                if entry.get("url") and not (entry.get("b64") or entry.get("data")):
                    self._save_link(job, index, entry)
                else:
                    self._save_one(job, Result.of(index, entry))
            except Refused as refused:
                warnings.append(f"{str(entry.get('filename'))[:100]!r} was not saved: {refused.message}")
            except LinkTrouble as error:
                trouble = error
        if trouble is not None:
            raise trouble
        job.outputs = outputs_of(job, texts)
        self._keep(job)
        return warnings

    def _save_link(self, job: Job, index: int, entry: dict[str, Any]) -> None:
        """Fetch it beside where it will lie, unless an earlier try has saved it."""
        if any(file["index"] == index and file.get("linked") and self._is_there(file) for file in job.files):
            return
        link = Link.of(entry, job.endpoint)
        folder = self._folders[folder_of(entry)]
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
        os.close(handle)
        part = Path(name)
        try:
            self._save_one(job, Result.fetched(index, entry, part, fetch(link, part)))
        finally:
            part.unlink(missing_ok=True)

    def _save_one(self, job: Job, result: Result) -> None:
        same = (file for file in job.files if (file["index"], file["sha256"]) == (result.index, result.digest))
        file = next(same, None)
        if file is None or not self._is_there(file):
            file = self._write(job, result, file)
        self._write_sidecars(file, result.entry)
        if self._copies is not None and not file.get("copied"):
            self._copy(job, file, self._copies)

    def _write_sidecars(self, file: dict[str, Any], entry: dict[str, Any]) -> None:
        """What the worker tells of a picture, beside it; a file that is there already is left as it is."""
        about, text, path = entry.get("metadata"), entry.get("parameters"), self._path(file)
        if isinstance(about, dict) and about:
            write_once(
                path.with_suffix(".json"), json.dumps(about, indent=2, ensure_ascii=False).encode("utf-8", "replace")
            )
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

    def _write(self, job: Job, result: Result, planned: dict[str, Any] | None) -> dict[str, Any]:
        """Plan, note, write; the next name where another file got there first."""
        while True:
            file = planned or self._plan(job, result)
            job.files = [*(other for other in job.files if other["index"] != result.index), file]
            self._keep(job)
            if result.write(self._path(file)):
                return file
            planned = None

    def _plan(self, job: Job, result: Result) -> dict[str, Any]:
        root = str(self._folders[result.folder])
        try:
            found = self._save_path(_prefix(job, result.entry), root, result.width, result.height)
        except Exception:  # ComfyUI raises a bare Exception for a prefix that leaves its folder
            found = self._save_path("remote/ComfyUI", root, result.width, result.height)
        full, name, counter, subfolder, _ = found
        name = name.replace("%batch_num%", str(result.entry.get("batch") or 0))
        while (Path(full) / f"{name}_{counter:05}_{result.extension}").exists():
            counter += 1
        filename = f"{name}_{counter:05}_{result.extension}"
        about = {"index": result.index, "sha256": result.digest, "node_id": str(result.entry.get("node_id") or "")}
        if isinstance(result.data, Path):
            about["linked"] = True
        return {"type": result.folder, "subfolder": subfolder, "filename": filename, **about}

    def _copy(self, job: Job, file: dict[str, Any], folder: Path) -> None:
        """A second name in ``remote_results``: a link, so that it costs no space."""
        source = self._path(file)
        folder.mkdir(parents=True, exist_ok=True)
        for name in free_names(plain_name(source.name, source.suffix)):
            target = folder / name
            if (target.exists() and target.samefile(source)) or place_once(source, target):
                file["copied"] = name
                self._keep(job)
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
    """Extension and size: of a picture by its bytes, of anything else by its name, if that is one we know."""
    suffix = Path(str(entry.get("filename") or "")).suffix.lower()
    if suffix not in (*VIDEO, *AUDIO, *OTHER):
        return check_picture(data)
    if re.match(rb"\s*<(!doctype|html|svg|script|\?xml)", _head(data), re.IGNORECASE):
        raise Refused(415, "it is a web page.")
    return suffix, 0, 0


def _head(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data[:200]
    with data.open("rb") as file:
        return file.read(200)


def _prefix(job: Job, entry: dict[str, Any]) -> str:
    """The prefix that the saving node asks for; else the name that the worker gave, without its counter."""
    node = job.request.prompt.get(str(entry.get("node_id")))
    asked = node["inputs"].get("filename_prefix") if node else None
    if isinstance(asked, str) and asked.strip():
        return asked
    name = plain_name(entry.get("filename") or "ComfyUI", "")
    name = re.sub(r"_\d+_?$", "", name) or "ComfyUI"
    parts = [part for part in re.split(r"[\\/]", str(entry.get("subfolder") or "")) if part not in ("", ".", "..")]
    return "/".join([*(plain_name(part, "") for part in parts), name])

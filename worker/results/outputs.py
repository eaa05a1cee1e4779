"""The files that a prompt saved: which are returned, in which order, and the limit of an answer's size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from worker.errors import Code, WorkerError
from worker.results.media_types import HEAD_BYTES

TEXT = "text"
"""Type of an output that is no file but a text shown by a node (PreviewAny and its like)."""
PREVIEWS_ONLY = "The prompt saved nothing: these are its previews. Add a SaveImage node for the originals."


@dataclass(frozen=True)
class Output:
    """One file that a node named. ``type`` is ComfyUI's folder: output, temp or input; or :data:`TEXT`."""

    node_id: str
    filename: str
    subfolder: str
    type: str
    text: str | None = None
    """Of a text output, which has no file."""


@dataclass(frozen=True)
class OutputFile:
    """An output that was found: on this disk (``path``) or, with ComfyUI elsewhere, in memory (``data``)."""

    output: Output
    path: Path | None = None
    data: bytes | None = None

    @property
    def size(self) -> int:
        """Size in bytes. Raises OSError if the file is gone."""
        return len(self.data) if self.data is not None else self._path.stat().st_size

    def head(self) -> bytes:
        """Return the first bytes, for its media type. Raises OSError."""
        if self.data is not None:
            return self.data[:HEAD_BYTES]
        with self._path.open("rb") as file:
            return file.read(HEAD_BYTES)

    def read(self) -> bytes:
        """Return the whole content. Raises OSError."""
        return self.data if self.data is not None else self._path.read_bytes()

    @property
    def _path(self) -> Path:
        assert self.path
        return self.path


def outputs_of(history: dict[str, Any]) -> list[Output]:
    """Return every file in a ``/history`` entry, in the order of the node ids, each once."""
    nodes = history.get("outputs")
    nodes = nodes if isinstance(nodes, dict) else {}
    found = [output for node_id in sorted(nodes, key=_natural) for output in _of_node(node_id, nodes[node_id])]
    return list(dict.fromkeys(found))


def _natural(node_id: str) -> list[tuple[int, str]]:
    """Return a sort key: ``2`` before ``10``, and ``12:3`` (a node in a subgraph) after ``12``."""
    parts = re.split(r"([0-9]{1,18})", node_id)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts) if part]


def _of_node(node_id: str, ui: Any) -> Iterator[Output]:
    for key, items in ui.items() if isinstance(ui, dict) else ():
        if key == "text":
            yield from _texts(node_id, items)
            continue
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("filename"), str):
                subfolder, kind = str(item.get("subfolder") or ""), str(item.get("type") or "output")
                yield Output(node_id, item["filename"], subfolder, kind)


def _texts(node_id: str, items: Any) -> Iterator[Output]:
    texts = [item for item in items if isinstance(item, str) and item] if isinstance(items, (list, tuple)) else []
    for number, text in enumerate(texts, start=1):
        name = f"node_{re.sub(r'[^0-9A-Za-z]', '_', node_id)}_{number:05}_.txt"
        yield Output(node_id, name, "", TEXT, text)


def choose(outputs: list[Output]) -> tuple[list[Output], list[str]]:
    """Return the outputs for the answer (saved files, else previews; and every text) and warnings.

    Raises:
        WorkerError: NO_OUTPUT, there is none.
    """
    kind = next((kind for kind in ("output", "temp", TEXT) if any(each.type == kind for each in outputs)), None)
    if kind is None:
        raise WorkerError(Code.NO_OUTPUT, "the prompt ran, but none of its nodes saved a file")
    chosen = [output for output in outputs if output.type in (kind, TEXT)]
    return chosen, [PREVIEWS_ONLY] if kind == "temp" else []


class UniqueNames:
    """Gives each file of an answer a name of its own, also on systems that ignore case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, filename: str) -> str:
        """Return ``filename``, or ``stem (2).ext`` if that is taken."""
        path, name, count = PurePosixPath(filename), filename, 1
        while name.casefold() in self._taken:
            count += 1
            name = f"{path.stem} ({count}){path.suffix}"
        self._taken.add(name.casefold())
        return name


def official_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer in worker-comfyui's shape (5.x: ``images: [{filename, type, data}]``)."""
    images = [{"filename": item["filename"], **_official_data(item)} for item in [*answer["images"], *answer["files"]]]
    return {"images": images, **({"errors": answer["warnings"]} if answer["warnings"] else {})}


def _official_data(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "s3_url", "data": item["url"]} if "url" in item else {"type": "base64", "data": item["b64"]}


def check_answer(answer: dict[str, Any], limit_mb: float) -> None:
    """Check that RunPod will accept an answer; else the SDK only logs a line, and the caller waits for ever.

    Raises:
        WorkerError: RESULT_TOO_LARGE over ``limit_mb`` (10^6 bytes, JSON as sent); INTERNAL, it is not valid JSON.
    """
    payload = [item.get("b64") or item.get("data") or "" for item in _entries(answer)]
    without = {**answer, **{name: _without_payload(answer.get(name)) for name in ("images", "files")}}
    try:
        size = len(json.dumps(without, ensure_ascii=False, allow_nan=False).encode()) + sum(map(len, payload))
    except (TypeError, ValueError) as error:
        raise WorkerError(Code.INTERNAL, f"the answer is not valid JSON: {error}") from error
    if size > round(limit_mb * 1e6):
        raise too_large_error(size, limit_mb, len(payload))


def too_large_error(size: int, limit_mb: float, files: int) -> WorkerError:
    """Return the error for an answer of ``size`` bytes."""
    return WorkerError(
        Code.RESULT_TOO_LARGE,
        f"the answer would be {size / 1e6:.1f} MB ({files} files), and {limit_mb:g} MB can be returned",
        "Ask for fewer images, for smaller ones, or split the prompt into several jobs.",
        details={"bytes": size, "limit_bytes": int(limit_mb * 1e6), "files": files},
    )


def _entries(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(answer.get("images") or ()), *(answer.get("files") or ())]


def _without_payload(items: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return entries without their base64: it is ASCII, as long in JSON as it is, and slow to encode twice."""
    return [{k: ("" if k in ("b64", "data") else v) for k, v in item.items()} for item in items or ()]

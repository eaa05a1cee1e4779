"""What a prompt saved, as it goes into the answer: collected in node order, read, encoded once, measured, returned."""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pybase64

from worker.errors import Code, WorkerError

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True)
class Output:
    """One file that a node says it wrote. ``type`` is ComfyUI's folder: output, temp or input."""

    node_id: str
    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True)
class OutputData:
    """An output and its bytes."""

    output: Output
    data: bytes


def outputs_of(history: dict[str, Any]) -> list[Output]:
    """Every file in a ``/history`` entry, in the order of the node ids, each once."""
    nodes = history.get("outputs") or {}
    found = [output for node_id in sorted(nodes, key=_natural) for output in _of_node(node_id, nodes[node_id])]
    return list(dict.fromkeys(found))


def _natural(node_id: str) -> list[tuple[int, str]]:
    """``2`` before ``10``, and ``12:3`` (a node in a subgraph) after ``12``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", node_id) if part]


def _of_node(node_id: str, ui: Any) -> Iterator[Output]:
    for items in ui.values() if isinstance(ui, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("filename"), str):
                subfolder, kind = str(item.get("subfolder") or ""), str(item.get("type") or "output")
                yield Output(node_id, item["filename"], subfolder, kind)


def choose(outputs: list[Output]) -> tuple[list[Output], list[str]]:
    """What is returned, and warnings: saved files; previews only where nothing was saved.

    Raises:
        WorkerError: NO_OUTPUT when there is neither.
    """
    if saved := [output for output in outputs if output.type == "output"]:
        return saved, []
    if previews := [output for output in outputs if output.type == "temp"]:
        return previews, ["The prompt saved nothing: these are its previews. Add a SaveImage node for the originals."]
    raise WorkerError(Code.NO_OUTPUT, "the prompt ran, but no node of it saved a file")


def media_type(filename: str, data: bytes) -> str:
    """The media type, by the bytes where they tell and by the name else."""
    for magic, kind in MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return mimetypes.guess_type(filename)[0] or "application/octet-stream"


def entry(item: OutputData) -> dict[str, Any]:
    """One element of the answer's ``images`` or ``files``."""
    output = item.output
    return {
        "b64": pybase64.b64encode_as_string(item.data),
        "filename": output.filename,
        "subfolder": output.subfolder,
        "type": output.type,
        "node_id": output.node_id,
        "media_type": media_type(output.filename, item.data),
        "bytes": len(item.data),
    }


def official_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer in worker-comfyui's shape (5.x: ``images: [{filename, type, data}]``)."""
    images = [
        {"filename": item["filename"], "type": "base64", "data": item["b64"]}
        for item in [*answer["images"], *answer["files"]]
    ]
    return {"images": images, **({"errors": answer["warnings"]} if answer["warnings"] else {})}


def check_answer(answer: dict[str, Any], limit_mb: float) -> None:
    """Make sure that an answer can travel; the SDK only logs a line when it cannot, and the caller waits for ever.

    Raises:
        WorkerError: RESULT_TOO_LARGE over ``limit_mb`` (10^6 bytes, JSON as sent); INTERNAL when it is not valid JSON.
    """
    payload = [item.get("b64") or item.get("data") or "" for item in _entries(answer)]
    without = {**answer, "images": _bare(answer.get("images")), "files": _bare(answer.get("files"))}
    try:
        size = len(json.dumps(without, ensure_ascii=False, allow_nan=False).encode()) + sum(map(len, payload))
    except (TypeError, ValueError) as error:
        raise WorkerError(Code.INTERNAL, f"the answer is not valid JSON: {error}") from error
    if size > limit_mb * 1e6:
        raise WorkerError(
            Code.RESULT_TOO_LARGE,
            f"the answer would be {size / 1e6:.1f} MB ({len(payload)} files), and {limit_mb:g} MB can be returned",
            "Ask for fewer images, for smaller ones, or split the prompt into several jobs.",
            details={"bytes": size, "limit_bytes": int(limit_mb * 1e6), "files": len(payload)},
        )


def _entries(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(answer.get("images") or ()), *(answer.get("files") or ())]


def _bare(items: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Entries without their base64, which is ASCII and as long in JSON as it is: encoding it twice is time lost."""
    return [{k: ("" if k in ("b64", "data") else v) for k, v in item.items()} for item in items or ()]

"""Input files travel with the job: what LoadImage and its kin name, from ComfyUI's own folders and nowhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .prompt_prep import Prompt, PromptProblem

UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "mesh_upload", "file_upload")
Folders = dict[str, Path]
InputTypes = Callable[[str], dict[str, Any]]


def attach(
    prompt: Prompt, folders: Folders, input_types: InputTypes, limit: int
) -> tuple[Prompt, list[dict[str, str]]]:
    """The prompt with content-named inputs, and these files in base64.

    A name of its content's hash keeps two people's ``example.png`` apart on one worker, and the worker's cache right.

    Raises:
        PromptProblem: a file is missing, lies elsewhere, or all together are over ``limit`` bytes of base64.
    """
    changed, files, total = dict(prompt), {}, 0
    for node_id, name, kind in _upload_inputs(prompt, input_types):
        node = changed[node_id]
        path = _find(node_id, node, name, kind, folders)
        total += path.stat().st_size * 4 // 3
        if total > limit:
            raise PromptProblem(_too_large(path, total, limit), node_id, node["class_type"], name)
        data = path.read_bytes()
        sent = f"{hashlib.sha256(data).hexdigest()[:16]}_{_plain(path.name)}"
        files[sent] = base64.b64encode(data).decode()
        changed[node_id] = {**node, "inputs": {**node["inputs"], name: sent}}
    return changed, [{"name": name, "b64": text} for name, text in files.items()]


def _too_large(path: Path, total: int, limit: int) -> str:
    return (
        f"The input files are too large to send: with {path.name} they are {total / 1e6:.1f} MB, and RunPod takes "
        f"{limit / 1e6:.0f} MB in one job. Use a smaller picture, or save it as JPEG or WebP."
    )


def _upload_inputs(prompt: Prompt, input_types: InputTypes) -> Iterator[tuple[str, str, str]]:
    """(node, input, folder) of every input that the UI offers an upload for, by the node's own definition."""
    for node_id, node in prompt.items():
        definition = input_types(node["class_type"])
        for name, spec in _specs(definition):
            options = spec[1] if isinstance(spec, (list, tuple)) and len(spec) > 1 else None
            uploads = isinstance(options, dict) and any(options.get(flag) for flag in UPLOADS)
            if uploads and isinstance(node["inputs"].get(name), str) and node["inputs"][name]:
                yield node_id, name, str(options.get("image_folder") or "input")


def _specs(definition: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("required", "optional"):
        fields = definition.get(group)
        yield from fields.items() if isinstance(fields, dict) else ()


def _find(node_id: str, node: dict[str, Any], name: str, kind: str, folders: Folders) -> Path:
    value = node["inputs"][name]

    def problem(text: str) -> PromptProblem:
        return PromptProblem(text, node_id, node["class_type"], name)

    if annotated := re.fullmatch(r"(.+?) \[(input|output|temp)\]", value):
        value, kind = annotated[1], annotated[2]
    folder = folders.get(kind, folders["input"]).resolve()
    try:
        path = (folder / value.replace("\\", "/")).resolve()
        inside, is_file = path.is_relative_to(folder), path.is_file()
    except (OSError, ValueError):
        raise problem(f"{value[:100]!r} is not a file name.") from None
    if not inside:
        raise problem(f"{value[:100]!r} lies outside ComfyUI's {kind} folder and is not sent.")
    if not is_file:
        raise problem(f"There is no file {value[:100]!r} in ComfyUI's {kind} folder.")
    return path


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-80:]

"""The input files of a job: those that LoadImage and similar nodes name, from ComfyUI's own folders only."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..media_types import AUDIO, MODELS_3D, PICTURES, VIDEO
from .prompt import Prompt, PromptError
from .uploads import UploadSource

NAMED = (*PICTURES, ".jpeg", ".bmp", ".tif", ".tiff", *VIDEO, *AUDIO, *MODELS_3D, ".latent")
"""Files of the input folder that a node without an upload button, such as LoadLatent, may choose; no models."""
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "mesh_upload", "file_upload")
ENTRY_BYTES = 200  # of JSON around a file in the job, most of it the file's name
LINK_BYTES = 1500  # of a signed link: access keys of some stores are long
Folders = dict[str, Path]
InputTypes = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class FileInput:
    """A file named by an input of a node."""

    node_id: str
    class_type: str
    name: str
    path: Path
    size: int


def find(prompt: Prompt, folders: Folders, input_types: InputTypes) -> list[FileInput]:
    """Return every input that names a file, by the nodes' definitions. Reads no file.

    Raises:
        PromptError: a file is missing or outside ComfyUI's folders.
    """
    found = []
    for node_id, name, kind in _file_inputs(prompt, folders, input_types):
        path = _find(node_id, prompt[node_id], name, kind, folders)
        found.append(FileInput(node_id, prompt[node_id]["class_type"], name, path, path.stat().st_size))
    return found


def name_by_content(prompt: Prompt, found: list[FileInput]) -> tuple[Prompt, dict[str, UploadSource]]:
    """Return the prompt with inputs named by their content, and the file of each name. Reads every file once.

    Names with a hash keep two users' ``example.png`` apart on one worker, and the worker's cache correct.
    """
    changed, sources, known = dict(prompt), {}, dict[Path, UploadSource]()
    for each in found:
        source = known.get(each.path) or UploadSource.of(each.path)
        known[each.path] = source
        sent = f"{source.sha256[:16]}_{_plain(each.path.name)}"
        sources[sent] = source
        node = changed[each.node_id]
        changed[each.node_id] = {**node, "inputs": {**node["inputs"], each.name: sent}}
    return changed, sources


def choose_linked(sizes: dict[str, int], room: int) -> list[str]:
    """Return the names to send as links so that the other files fit into ``room`` bytes: as few as possible.

    The largest go first. ``sizes`` are those of the encoded files.
    """
    linked: list[str] = []
    left = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if left <= room or sizes[name] <= LINK_BYTES:
            break
        left += LINK_BYTES - sizes[name]
        linked.append(name)
    return linked


def inline(name: str, source: UploadSource) -> dict[str, str]:
    """Return a file as an entry of the job."""
    return {"name": name, "b64": base64.b64encode(source.path.read_bytes()).decode()}


def encoded_size(size: int) -> int:
    """Return the bytes of a file within a job."""
    return (size + 2) // 3 * 4 + ENTRY_BYTES


def too_large(found: list[FileInput], limit: int, problem: str = "") -> PromptError:
    """Return the error for inputs that do not fit into a job when there is no bucket."""
    largest = max(found, key=lambda each: each.size)
    total = sum({each.path: encoded_size(each.size) for each in found}.values())
    text = (
        f"The input files are too large to send: with {largest.path.name} they are {total / 1e6:.1f} MB, and RunPod "
        f"accepts {limit / 1e6:.0f} MB in one job. "
    )
    remedy = problem or "Use a smaller file, or enter a bucket in Remote Config under Bucket for large inputs."
    return PromptError(f"{text}{remedy}", largest.node_id, largest.class_type, largest.name)


def _file_inputs(prompt: Prompt, folders: Folders, input_types: InputTypes) -> Iterator[tuple[str, str, str]]:
    """Yield (node, input, folder) of inputs with an upload button, and of those chosen from the input folder's list."""
    for node_id, node in prompt.items():
        for name, spec in _specs(input_types(node["class_type"])):
            value, options = node["inputs"].get(name), _options(spec)
            if not isinstance(value, str) or not value:
                continue
            if any(options.get(flag) for flag in UPLOADS):
                yield node_id, name, str(options.get("image_folder") or "input")
            elif value in _choices(spec) and value.lower().endswith(NAMED) and (folders["input"] / value).is_file():
                yield node_id, name, "input"


def _options(spec: Any) -> dict[str, Any]:
    options = spec[1] if isinstance(spec, (list, tuple)) and len(spec) > 1 else None
    return options if isinstance(options, dict) else {}


def _choices(spec: Any) -> list[Any]:
    """Return the options of a combo input, in either of the forms of ComfyUI's nodes."""
    first = spec[0] if isinstance(spec, (list, tuple)) and spec else None
    choices = first if isinstance(first, list) else _options(spec).get("options")
    return choices if isinstance(choices, list) else []


def _specs(definition: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("required", "optional"):
        fields = definition.get(group)
        yield from fields.items() if isinstance(fields, dict) else ()


def _find(node_id: str, node: dict[str, Any], name: str, kind: str, folders: Folders) -> Path:
    value = node["inputs"][name]

    def error(text: str) -> PromptError:
        return PromptError(text, node_id, node["class_type"], name)

    if annotated := re.fullmatch(r"(.+?) \[(input|output|temp)\]", value):
        value, kind = annotated[1], annotated[2]
    folder = folders.get(kind, folders["input"]).resolve()
    try:
        path = (folder / value.replace("\\", "/")).resolve()
        inside, is_file = path.is_relative_to(folder), path.is_file()
    except (OSError, ValueError):
        raise error(f"{value[:100]!r} is not a file name.") from None
    if not inside:
        raise error(f"{value[:100]!r} is outside ComfyUI's {kind} folder, so it is not sent.")
    if not is_file:
        raise error(f"There is no file {value[:100]!r} in ComfyUI's {kind} folder.")
    return path


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-80:]

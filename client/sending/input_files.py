"""Input files travel with the job: what LoadImage and its kin name, from ComfyUI's own folders and nowhere else."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..media_types import AUDIO, MODELS_3D, PICTURES, VIDEO
from .prompt import Prompt, PromptProblem
from .uploads import Source

NAMED = (*PICTURES, ".jpeg", ".bmp", ".tif", ".tiff", *VIDEO, *AUDIO, *MODELS_3D, ".latent")
"""What a node without an upload button, such as LoadLatent, may have chosen from the input folder; no models."""
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "mesh_upload", "file_upload")
ENTRY_BYTES = 200  # what stands around a file in the job's JSON: its name above all
LINK_BYTES = 1500  # a link: keys of some stores are long
Folders = dict[str, Path]
InputTypes = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Input:
    """A file that one input of a node names."""

    node_id: str
    class_type: str
    name: str
    path: Path
    size: int

    def problem(self, text: str) -> PromptProblem:
        """A refusal that turns its node red."""
        return PromptProblem(text, self.node_id, self.class_type, self.name)


def find(prompt: Prompt, folders: Folders, input_types: InputTypes) -> list[Input]:
    """Every input that names a file, by the nodes' own definitions; nothing is read yet.

    Raises:
        PromptProblem: a file is missing or lies elsewhere.
    """
    found = []
    for node_id, name, kind in _file_inputs(prompt, folders, input_types):
        path = _find(node_id, prompt[node_id], name, kind, folders)
        found.append(Input(node_id, prompt[node_id]["class_type"], name, path, path.stat().st_size))
    return found


def take(prompt: Prompt, found: list[Input]) -> tuple[Prompt, dict[str, Source]]:
    """The prompt with content-named inputs, and what is behind each name. Reads every file once.

    A name of its content's hash keeps two people's ``example.png`` apart on one worker, and the worker's cache right.
    """
    changed, sources, known = dict(prompt), {}, dict[Path, Source]()
    for each in found:
        source = known.get(each.path) or Source.of(each.path)
        known[each.path] = source
        sent = f"{source.sha256[:16]}_{_plain(each.path.name)}"
        sources[sent] = source
        node = changed[each.node_id]
        changed[each.node_id] = {**node, "inputs": {**node["inputs"], each.name: sent}}
    return changed, sources


def too_many(sizes: dict[str, int], room: int) -> list[str]:
    """The names of the files that must go by link so that the others fit into ``room`` bytes of a job: the largest
    first, so that as few as can be leave the job, and none while all of them fit. ``sizes`` are encoded. Pure.
    """
    linked: list[str] = []
    left = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if left <= room or sizes[name] <= LINK_BYTES:
            break
        left += LINK_BYTES - sizes[name]
        linked.append(name)
    return linked


def inline(name: str, source: Source) -> dict[str, str]:
    """A file as it stands in the job."""
    return {"name": name, "b64": base64.b64encode(source.path.read_bytes()).decode()}


def encoded_size(size: int) -> int:
    """A file's bytes within a job."""
    return (size + 2) // 3 * 4 + ENTRY_BYTES


def too_large(found: list[Input], limit: int, problem: str = "") -> PromptProblem:
    """The refusal of inputs that a job cannot hold, where there is no bucket."""
    largest = max(found, key=lambda each: each.size)
    total = sum({each.path: encoded_size(each.size) for each in found}.values())
    text = (
        f"The input files are too large to send: with {largest.path.name} they are {total / 1e6:.1f} MB, and RunPod "
        f"takes {limit / 1e6:.0f} MB in one job. "
    )
    way = problem or "A bucket lifts the limit: enter yours in Remote Config, under Bucket for large inputs."
    return largest.problem(f"{text}{way} Or use a smaller file.")


def _file_inputs(prompt: Prompt, folders: Folders, input_types: InputTypes) -> Iterator[tuple[str, str, str]]:
    """(node, input, folder): what the UI offers an upload for, and what is chosen from a list of the input folder."""
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
    """Of a list to choose from, in either of the ways that ComfyUI's nodes write it."""
    first = spec[0] if isinstance(spec, (list, tuple)) and spec else None
    choices = first if isinstance(first, list) else _options(spec).get("options")
    return choices if isinstance(choices, list) else []


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

"""What each node shows of a job's results, in the words of ComfyUI's own ``executed`` events. Pure.

The keys are those of ComfyUI 0.3.64: SaveVideo and SaveWEBM say ``images`` with ``animated``, SaveAudio ``audio``,
SaveLatent ``latents``, SaveGLB ``3d``, PreviewAny ``text``; VideoHelperSuite says ``gifs``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..jobs import Job
from ..media_types import AUDIO, MODELS_3D, PICTURES, VIDEO
from ..sending.prompt import is_link

_OTHER_KEYS = {".latent": "latents", **dict.fromkeys(MODELS_3D, "3d")}
_TWINS = {"PreviewImage": "images", "PreviewAudio": "audio"}
"""Nodes that show what another one saves, by the input that both read; a worker returns the saved file alone."""


def outputs_of(job: Job, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Every node's output; a preview beside a saver of the same thing shows the same file."""
    outputs: dict[str, Any] = {}
    for file in sorted(job.files, key=lambda item: item["index"]):
        node_id = file["node_id"] or _only_saver(job)
        key = _key(Path(file["filename"]).suffix.lower(), _class_of(job, node_id))
        if node_id and key:
            shown = {name: file[name] for name in ("filename", "subfolder", "type")}
            output = outputs.setdefault(node_id, {})
            output.setdefault(key, []).append(shown if key != "gifs" else {**shown, "format": _format(shown)})
            if key == "images" and _moves(job, node_id, shown["filename"]):
                output["animated"] = [True]
    for node_id, lines in texts.items():
        outputs.setdefault(node_id, {})["text"] = lines
    return {**_twins(job, outputs), **outputs}


def _key(suffix: str, class_type: str) -> str:
    if suffix in AUDIO:
        return "audio"
    if suffix in (*VIDEO, *PICTURES):
        return "gifs" if class_type == "VHS_VideoCombine" else "images"
    return _OTHER_KEYS.get(suffix, "")


def _moves(job: Job, node_id: str, filename: str) -> bool:
    return filename.lower().endswith(VIDEO) or "Animated" in _class_of(job, node_id)


def _format(shown: dict[str, Any]) -> str:
    suffix = Path(shown["filename"]).suffix.lower()
    return f"{'video' if suffix in VIDEO else 'image'}/{suffix[1:]}"


def _class_of(job: Job, node_id: str) -> str:
    return str(job.request.prompt.get(node_id, {}).get("class_type"))


def _only_saver(job: Job) -> str:
    """The node of a result that names none, as other workers send them: the one SaveImage, if there is one."""
    found = [node_id for node_id, node in job.request.prompt.items() if node["class_type"] == "SaveImage"]
    return found[0] if len(found) == 1 else ""


def _twins(job: Job, outputs: dict[str, Any]) -> dict[str, Any]:
    prompt, found = job.request.prompt, {}
    for kind, key in _TWINS.items():
        sources = {
            tuple(prompt[node_id]["inputs"][key]): output
            for node_id, output in outputs.items()
            if key in output and node_id in prompt and is_link(prompt[node_id]["inputs"].get(key))
        }
        for node_id, node in prompt.items():
            link = node["inputs"].get(key)
            if node["class_type"] == kind and is_link(link) and tuple(link) in sources:
                found[node_id] = sources[tuple(link)]
    return found

"""The output of each node, as in ComfyUI's own ``executed`` events. Pure.

The keys are those of ComfyUI 0.3.64: SaveVideo and SaveWEBM use ``images`` with ``animated``, SaveAudio ``audio``,
SaveLatent ``latents``, SaveGLB ``3d``, PreviewAny ``text``; VideoHelperSuite uses ``gifs``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..jobs import RemoteJob
from ..media_types import AUDIO, MODELS_3D, PICTURES, VIDEO
from ..sending.prompt import is_link

_OTHER_KEYS = {".latent": "latents", **dict.fromkeys(MODELS_3D, "3d")}
_PREVIEW_INPUTS = {"PreviewImage": "images", "PreviewAudio": "audio"}
"""Preview nodes and the input they may share with a saving node, of which the worker returns only the saved file."""


def outputs_of(job: RemoteJob, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Return every node's output; a preview of the same input as a saving node shows the saved file."""
    outputs: dict[str, Any] = {}
    for file in sorted(job.files, key=lambda item: item["index"]):
        node_id = file["node_id"] or _only_saver(job)
        suffix = Path(file["filename"]).suffix.lower()
        class_type = str(job.request.prompt.get(node_id, {}).get("class_type"))
        key = _key(suffix, class_type)
        if node_id and key:
            entry = {name: file[name] for name in ("filename", "subfolder", "type")}
            if key == "gifs":
                entry["format"] = f"{'video' if suffix in VIDEO else 'image'}/{suffix[1:]}"
            output = outputs.setdefault(node_id, {})
            output.setdefault(key, []).append(entry)
            if key == "images" and (suffix in VIDEO or "Animated" in class_type):
                output["animated"] = [True]
    for node_id, lines in texts.items():
        outputs.setdefault(node_id, {})["text"] = lines
    return {**_preview_outputs(job, outputs), **outputs}


def _key(suffix: str, class_type: str) -> str:
    if suffix in AUDIO:
        return "audio"
    if suffix in (*VIDEO, *PICTURES):
        return "gifs" if class_type == "VHS_VideoCombine" else "images"
    return _OTHER_KEYS.get(suffix, "")


def _only_saver(job: RemoteJob) -> str:
    """Return the only SaveImage node, for results of other workers, which name no node; empty if there are more."""
    found = [node_id for node_id, node in job.request.prompt.items() if node["class_type"] == "SaveImage"]
    return found[0] if len(found) == 1 else ""


def _preview_outputs(job: RemoteJob, outputs: dict[str, Any]) -> dict[str, Any]:
    prompt, found = job.request.prompt, {}
    for kind, key in _PREVIEW_INPUTS.items():
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

"""Generation data of an image, from the prompt's graph: as an object, and as the text that Civitai reads. Pure.

Best effort: custom nodes can do anything, so values that are not found are left out, and no graph fails a job.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.models.prompt_names import is_model_name, loose_spelling

MAX_DEPTH = 64  # of a value that comes through other nodes
_SEEDS = ("seed", "noise_seed")
_PRIMITIVES = ("value", "seed", "noise_seed", "int", "float", "number", "string", "text", "Number")
_TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "positive", "prompt", "wildcard_text")
_STRENGTHS = ("strength_model", "strength", "lora_strength", "weight", "model_strength")
_CIVITAI_TYPES = {
    "checkpoints": "model",
    "diffusion_models": "model",
    "loras": "lora",
    "embeddings": "embed",
    "vae": "vae",
    "controlnet": "controlnet",
    "upscale_models": "upscaler",
}
_FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "vae_name": "vae",
    "control_net_name": "controlnet",
    "model_name": "upscale_models",
    "clip_name": "text_encoders",
}
_SAMPLERS = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "dpm_fast": "DPM fast",
    "dpm_adaptive": "DPM adaptive",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_gpu": "DPM++ SDE",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_3m_sde_gpu": "DPM++ 3M SDE",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
    "lcm": "LCM",
}
_SCHEDULES = {"karras": " Karras", "exponential": " Exponential"}

Prompt = Mapping[str, Any]


@dataclass
class GenerationInfo:
    """Generation data of one output node, from the graph upstream of it."""

    positive: str = ""
    negative: str = ""
    samplers: list[dict[str, Any]] = field(default_factory=list)
    """Seed, steps, cfg, sampler, scheduler and denoise where known; the sampler that began the image comes first."""
    size: tuple[int, int] | None = None
    """Width and height of the empty latent."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """``name``, ``folder`` if the input implies it, ``strength`` of a LoRA; nearest to the sampler last."""

    @property
    def main(self) -> dict[str, Any]:
        """The sampler that began the image; empty without one."""
        return self.samplers[0] if self.samplers else {}


@dataclass(frozen=True)
class RunInfo:
    """Metadata that all images of one job share: the models' report, the times and the versions."""

    models: Sequence[Mapping[str, Any]] = ()
    """``name``, ``identity`` and ``sha256`` of each listed model."""
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def generation_info(prompt: Prompt, node_id: str) -> GenerationInfo:
    """Collect generation data from the graph upstream of an output node."""
    graph = _Graph(prompt)
    above = graph.upstream(node_id)
    samplers = [each for each in reversed(above) if graph.is_sampler(each)]
    samplers.sort(key=lambda each: _number(graph.value(each, "denoise"), 1.0) < 1.0)  # stable: whole ones first
    first = samplers[0] if samplers else None
    return GenerationInfo(
        positive=graph.text(first, "positive") if first else "",
        negative=graph.text(first, "negative") if first else "",
        samplers=[graph.sampler(each) for each in samplers],
        size=graph.size(above),
        models=list(graph.models(above)),
    )


def image_metadata(
    info: GenerationInfo, prompt: Prompt, node_id: str, run_info: RunInfo, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Return the ``metadata`` object of an image."""
    main = info.main
    width, height = size or info.size or (None, None)
    found = {
        "positive": info.positive,
        "negative": info.negative,
        "seed": main.get("seed"),
        "seeds": [each["seed"] for each in info.samplers if "seed" in each],
        "steps": main.get("steps"),
        "cfg": main.get("cfg"),
        "sampler": main.get("sampler"),
        "scheduler": main.get("scheduler"),
        "samplers": info.samplers,
        "width": width,
        "height": height,
        "models": [{**each, **_facts(each["name"], run_info.models)} for each in info.models],
        "node_id": node_id,
        "prompt": dict(prompt),
        "timings": dict(run_info.timings),
        "versions": dict(run_info.versions),
    }
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


def parameters_text(info: GenerationInfo, run_info: RunInfo, size: tuple[int, int] | None) -> str:
    """Return the text that A1111 writes and Civitai reads."""
    main, size = info.main, size or info.size
    listed = [(each, _facts(each["name"], run_info.models)) for each in info.models]
    checkpoint = next((pair for pair in listed if _kind(*pair) == "model"), None)
    fields: dict[str, Any] = {
        "Steps": main.get("steps"),
        "Sampler": _a1111_sampler(main),
        "CFG scale": main.get("cfg"),
        "Seed": main.get("seed"),
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model hash": checkpoint[1].get("sha256", "")[:10] if checkpoint else None,
        "Model": _stem(checkpoint[0]["name"]) if checkpoint else None,
        "Denoising strength": main.get("denoise") if _number(main.get("denoise"), 1.0) < 1 else None,
        "Hashes": _hashes(listed),
        "Civitai resources": _resources(listed),
        "Version": "ComfyUI",
    }
    line = ", ".join(f"{name}: {value}" for name, value in fields.items() if value not in (None, ""))
    negative = f"\nNegative prompt: {info.negative}" if info.negative else ""
    return f"{info.positive}{negative}\n{line}".strip()


def png_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG from its first bytes; None for other files."""
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


class _Graph:
    """A prompt's nodes and their links. Tolerates anything in place of a node or an input."""

    def __init__(self, prompt: Prompt) -> None:
        self._nodes = {str(key): node for key, node in prompt.items() if isinstance(node, Mapping)}

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        inputs = self._nodes.get(node_id, {}).get("inputs")
        return inputs if isinstance(inputs, Mapping) else {}

    def _class(self, node_id: str) -> str:
        return str(self._nodes.get(node_id, {}).get("class_type", ""))

    def link(self, node_id: str, name: str) -> tuple[str, Any] | None:
        """Return the node and the slot that an input is linked to; None if it is not linked."""
        value = self.inputs(node_id).get(name)
        if isinstance(value, (list, tuple)) and len(value) == 2 and str(value[0]) in self._nodes:
            return str(value[0]), value[1]
        return None

    def upstream(self, node_id: str) -> list[str]:
        """Return the node and all it depends on, nearest first."""
        found, waiting = {node_id: None}, deque([node_id])
        while waiting:
            here = waiting.popleft()
            for name in self.inputs(here):
                link = self.link(here, name)
                if link and link[0] not in found:
                    found[link[0]] = None
                    waiting.append(link[0])
        return list(found)

    def value(self, node_id: str, name: str) -> Any:
        """Return an input's plain value, also through a link to a node that only holds one."""
        for _ in range(MAX_DEPTH):
            link = self.link(node_id, name)
            if link is None:
                value = self.inputs(node_id).get(name)
                return None if isinstance(value, (list, dict)) else value
            node_id = link[0]
            name = next((each for each in (name, *_PRIMITIVES) if each in self.inputs(node_id)), "")
        return None

    def is_sampler(self, node_id: str) -> bool:
        inputs = self.inputs(node_id)
        by_itself = any(seed in inputs for seed in _SEEDS) and "steps" in inputs
        return by_itself or {"guider", "sigmas"} <= set(inputs) or {"sampler", "sigmas"} <= set(inputs)

    def sampler(self, node_id: str) -> dict[str, Any]:
        """Return the settings of one sampler, including those of its helpers (noise, guider, sigmas)."""
        nodes = [node_id]
        for name in ("noise", "guider", "sampler", "sigmas"):
            if link := self.link(node_id, name):
                nodes.append(link[0])
        inputs = {
            "seed": _SEEDS,
            "steps": ("steps",),
            "cfg": ("cfg", "guidance"),
            "sampler": ("sampler_name",),
            "scheduler": ("scheduler",),
            "denoise": ("denoise",),
        }
        values = {
            field: next((v for node in nodes for n in names if (v := self.value(node, n)) is not None), None)
            for field, names in inputs.items()
        }
        return {"node_id": node_id, **{field: value for field, value in values.items() if value is not None}}

    def text(self, sampler: str, side: str) -> str:
        """Return the prompt text of a sampler's ``positive`` or ``negative``."""
        starts = [sampler, *(link[0] for name in ("guider",) if (link := self.link(sampler, name)))]
        names = (side, "conditioning") if side == "positive" else (side,)
        links = (self.link(start, name) for start in starts for name in names)
        start = next((link for link in links if link), None)
        return ", ".join(dict.fromkeys(self._words(*start))) if start else ""

    def _words(self, node_id: str, slot: Any) -> Iterator[str]:
        """Yield the encoders' texts upstream of a conditioning, nearest first; a node with both sides by its slot."""
        seen, waiting = set(), deque([(node_id, slot)])
        while waiting:
            here, slot = waiting.popleft()
            if (here, slot) in seen or "ZeroOut" in self._class(here):
                continue
            seen.add((here, slot))
            inputs = self.inputs(here)
            if "positive" in inputs and "negative" in inputs and self.link(here, "positive"):
                links = [self.link(here, "negative" if slot == 1 else "positive")]
            else:
                texts = [self.value(here, name) for name in _TEXTS if name in inputs]
                yield from (text.strip() for text in texts if isinstance(text, str) and text.strip())
                links = [] if texts else [self.link(here, name) for name in inputs if name not in ("clip", "vae")]
            waiting.extend(link for link in links if link)

    def size(self, above: Iterable[str]) -> tuple[int, int] | None:
        for each in above:
            if "latent" in self._class(each).lower():
                width, height = self.value(each, "width"), self.value(each, "height")
                if type(width) is int and type(height) is int:
                    return width, height
        return None

    def models(self, above: Iterable[str]) -> Iterator[dict[str, Any]]:
        for each in above:
            inputs = self.inputs(each)
            for name, value in inputs.items():
                if isinstance(value, str) and "\n" not in value and is_model_name(value):
                    folder = _FOLDERS.get(name.rstrip("0123456789"))
                    strength = next((inputs[key] for key in _STRENGTHS if key in inputs), None)
                    found = {"name": value, "folder": folder, "strength": strength if folder == "loras" else None}
                    yield {key: fact for key, fact in found.items() if fact is not None}


def _facts(name: str, models: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return hash, identity and link of a model from the job's model report."""
    found = next((each for each in models if loose_spelling(str(each.get("name", ""))) == loose_spelling(name)), {})
    facts = {key: found[key] for key in ("sha256", "identity", "folder", "bytes") if found.get(key)}
    if link := _link(str(found.get("identity", ""))):
        facts["link"] = link
    return facts


def _link(identity: str) -> str | None:
    site, _, rest = identity.partition(":")
    if site == "civitai":
        return f"https://civitai.com/api/download/models/{rest.partition(':')[0]}"
    if site == "hf" and "@" in rest:
        repo, _, place = rest.partition("@")
        revision, _, path = place.partition(":")
        return f"https://huggingface.co/{repo}/resolve/{revision}/{path}"
    return rest if site == "http" else None


def _kind(model: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    return _CIVITAI_TYPES.get(str(facts.get("folder") or model.get("folder")))


def _hashes(listed: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str | None:
    hashes = {}
    for model, facts in listed:
        kind, sha256 = _kind(model, facts), facts.get("sha256")
        if kind and sha256:
            hashes[kind if kind == "model" else f"{kind}:{_stem(model['name'])}"] = sha256[:10]
    return json.dumps(hashes) if hashes else None


def _resources(listed: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str | None:
    """Return Civitai's own field, which links model versions by id instead of by hash."""
    found = []
    for model, facts in listed:
        site, _, rest = str(facts.get("identity", "")).partition(":")
        version = rest.partition(":")[0]
        if site == "civitai" and version.isdigit():
            weight = {"weight": model["strength"]} if isinstance(model.get("strength"), (int, float)) else {}
            kind = {"model": "checkpoint"}.get(_kind(model, facts) or "", _kind(model, facts))
            found.append({"type": kind, **weight, "modelVersionId": int(version)})
    return json.dumps(found) if found else None


def _a1111_sampler(main: Mapping[str, Any]) -> str | None:
    name = main.get("sampler")
    if not isinstance(name, str):
        return None
    return _SAMPLERS.get(name, name) + _SCHEDULES.get(str(main.get("scheduler")), "")


def _stem(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[0] or base


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

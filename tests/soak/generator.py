"""The work of a soak, all of it decided by one seed: models, and jobs whose right ending is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.safetensors_files import safetensors_bytes

FOLDERS = {"ckpt": "checkpoints", "lora": "loras", "vae": "vae"}
KINDS = ("ckpt", "lora", "vae", "lora", "ckpt")
MODELS = 14
SIZES = (100_000, 5_000_000)
RATES = (2e6, 6e6)  # bytes a second and connection: a download takes up to two seconds, so kills and others hit it
NAMESAKES = (1, 3)  # two LoRAs that their site publishes under one name
LISTED_AT_MOST = 5
COLOURS = (0x102030, 0xFF8000, 0x00C0FF, 0x7F7F7F, 0xFFFFFF, 0x010203)
STEPS = (5, 40, 120)  # of 20 ms each: long enough for another worker to prune under it
SIDE = 48
CANCELLED_SHARE, BAD_SHARE, ENSURE_SHARE = 0.12, 0.15, 0.05
ABSENT_VERSION = 999_999


@dataclass(frozen=True)
class Model:
    """One model that its site has; ``name`` as published."""

    number: int
    kind: str
    name: str
    size: int
    bytes_per_s: float
    corrupt: bool = False

    @property
    def folder(self) -> str:
        return FOLDERS[self.kind]

    def data(self) -> bytes:
        return safetensors_bytes(self.size, seed=f"soak {self.number}")


@dataclass(frozen=True)
class Picture:
    """What a node must have saved: its size and, when the whole picture is of one colour, that colour."""

    size: tuple[int, int]
    colour: tuple[int, int, int] | None = None
    recipe: str | None = None
    """Of a sampled picture: equal recipes, equal pictures, whichever worker drew them."""


@dataclass(frozen=True)
class Plan:
    """One job, and how it must end when nobody kills anything."""

    number: int
    fields: dict[str, Any]
    lists: tuple[int, ...] = ()
    """Numbers of the models in its ``repo_list``."""
    error: str | None = None
    """The code it must fail with; None when it must succeed."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    """By node id."""
    cancel_after_s: float | None = None


def make_models(seed: int) -> list[Model]:
    """The site's models; the last one's bytes are never what is published."""
    rng = random.Random(f"models {seed}")
    models = []
    for number in range(MODELS):
        kind = KINDS[number % len(KINDS)]
        name = "namesake" if number in NAMESAKES else f"{kind}{number}"
        size, rate = round(rng.triangular(*SIZES, SIZES[0])), rng.uniform(*RATES)
        models.append(Model(number, kind, f"{name}.safetensors", size, rate))
    return [*models, Model(MODELS, "lora", "broken.safetensors", SIZES[0], RATES[1], corrupt=True)]


class Generator:
    """An endless row of jobs.

    Args:
        seed: equal seeds give equal jobs.
        models: of :func:`make_models`.
        links: a ``repo_list`` line's link for each model number.
    """

    def __init__(self, seed: int, models: list[Model], links: dict[int, str]) -> None:
        self._rng = random.Random(f"jobs {seed}")
        self._models, self._links = models, links
        self._broken = models[-1]

    def __iter__(self) -> Iterator[Plan]:
        number = 0
        while True:
            yield self._job(number)
            number += 1

    def _job(self, number: int) -> Plan:
        rng = self._rng
        cancel_after_s = rng.uniform(0, 3) if rng.random() < CANCELLED_SHARE else None
        kind = rng.random()
        if kind < BAD_SHARE:
            fields, error, lists = rng.choice(BAD)(self)
            return Plan(number, fields, lists, error, cancel_after_s=cancel_after_s)
        chosen = self._choice()
        fields = {"repo_list": self.repo_list(chosen)}
        if kind < BAD_SHARE + ENSURE_SHARE:
            fields["action"] = "ensure"
            return Plan(number, fields, tuple(m.number for m in chosen), cancel_after_s=cancel_after_s)
        fields["prompt"], pictures = self._prompt(chosen)
        if rng.random() < 0.1:
            fields["prune"] = False
        return Plan(number, fields, tuple(m.number for m in chosen), None, pictures, cancel_after_s)

    def _choice(self) -> list[Model]:
        """Models to list; never both namesakes, for the prompt could not say which of them it means."""
        chosen = self._rng.sample(self._models[:-1], self._rng.randint(0, LISTED_AT_MOST))
        left_out = NAMESAKES[1] if NAMESAKES[0] in {model.number for model in chosen} else None
        return sorted((m for m in chosen if m.number != left_out), key=lambda model: model.number)

    def repo_list(self, models: list[Model]) -> str:
        return "\n".join(f"{model.kind} {self._links[model.number]}" for model in models)

    def _prompt(self, models: list[Model]) -> tuple[dict[str, Any], dict[str, Picture]]:
        """A plain picture, sometimes inverted; with a checkpoint, a sampled one through every listed LoRA and VAE."""
        rng = self._rng
        prompt, pictures = colour_prompt(rng.choice(COLOURS), inverted=rng.random() < 0.5)
        named = {kind: [m for m in models if m.kind == kind] for kind in FOLDERS}
        if not named["ckpt"]:
            return prompt, pictures
        steps = rng.choice(STEPS)
        sampled = sampler_nodes(named["ckpt"][0], named["lora"], (named["vae"] or [None])[0], steps)
        used = [*named["ckpt"][:1], *named["lora"], *named["vae"][:1]]
        # A namesake goes by the name that was free, which the simulator's picture depends on.
        is_told = not any(model.number in NAMESAKES for model in used)
        recipe = f"{steps} steps of {[model.number for model in used]}" if is_told else None
        return prompt | sampled, pictures | {"39": Picture((SIDE, SIDE), recipe=recipe)}

    # Jobs that must fail; each with its code and the models that it lists

    def _missing(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        prompt = sampler_nodes(Model(0, "ckpt", "never-published.safetensors", 0, 0), [], None, 1)
        return {"prompt": prompt}, "MODEL_MISSING", ()

    def _unreadable(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        return {"prompt": colour_prompt(1)[0], "repo_list": "ckpt ftp://x"}, "INVALID_REPO_LIST", ()

    def _not_there(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        line = f"lora https://civitai.com/api/download/models/{ABSENT_VERSION}"
        return {"prompt": colour_prompt(1)[0], "repo_list": line}, "MODEL_NOT_FOUND", ()

    def _corrupt(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        fields = {"prompt": colour_prompt(1)[0], "repo_list": self.repo_list([self._models[0], self._broken])}
        return fields, "MODEL_CORRUPT", ()

    def _unknown_node(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        return {"prompt": {"1": node("NoSuchNode", x=1), "2": node("SaveImage", images=["1", 0])}}, "NODE_MISSING", ()

    def _unknown_field(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        return {"prompt": colour_prompt(1)[0], "colour": "red"}, "INVALID_INPUT", ()

    def _out_of_bounds(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        prompt = colour_prompt(1)[0]
        prompt["1"]["inputs"]["width"] = -5
        return {"prompt": prompt}, "PROMPT_INVALID", ()

    def _nothing_saved(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        return {"prompt": {"1": colour_prompt(1)[0]["1"]}}, "NO_OUTPUT", ()

    def _endless(self) -> tuple[dict[str, Any], str, tuple[int, ...]]:
        model = self._models[0]
        prompt = sampler_nodes(model, [], None, 9_000)
        return {"prompt": prompt, "repo_list": self.repo_list([model]), "timeout_s": 2.0}, "TIMEOUT", (model.number,)


BAD = (
    Generator._missing,
    Generator._unreadable,
    Generator._not_there,
    Generator._corrupt,
    Generator._unknown_node,
    Generator._unknown_field,
    Generator._out_of_bounds,
    Generator._nothing_saved,
    Generator._endless,
)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def colour_prompt(colour: int, inverted: bool = False) -> tuple[dict[str, Any], dict[str, Picture]]:
    """A picture of one colour under node 9, and what it must look like."""
    prompt = {"1": node("EmptyImage", width=SIDE, height=SIDE, batch_size=1, color=colour)}
    source = "1"
    if inverted:
        prompt["2"], source = node("ImageInvert", image=["1", 0]), "2"
    prompt["9"] = node("SaveImage", images=[source, 0], filename_prefix="plain")
    red, green, blue = (colour >> shift & 0xFF for shift in (16, 8, 0))
    shown = (255 - red, 255 - green, 255 - blue) if inverted else (red, green, blue)
    return prompt, {"9": Picture((SIDE, SIDE), shown)}


def sampler_nodes(ckpt: Model, loras: list[Model], vae: Model | None, steps: int) -> dict[str, Any]:
    """Text to image, saved under node 39; each model is opened by the node that loads it."""
    prompt = {
        "30": node("CheckpointLoaderSimple", ckpt_name=ckpt.name),
        "32": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
    }
    model = ["30", 0]
    for place, lora in enumerate(loras):
        inputs = {"lora_name": lora.name, "strength_model": 1.0}
        prompt[f"4{place}"] = node("LoraLoaderModelOnly", model=model, **inputs)
        model = [f"4{place}", 0]
    if vae:
        prompt["31"] = node("VAELoader", vae_name=vae.name)
    prompt["33"] = node("CLIPTextEncode", text="a cat", clip=["30", 1])
    prompt["34"] = node(
        "KSampler", seed=1, steps=steps, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        model=model, positive=["33", 0], negative=["33", 0], latent_image=["32", 0],
    )  # fmt: skip
    prompt["38"] = node("VAEDecode", samples=["34", 0], vae=["31", 0] if vae else ["30", 2])
    prompt["39"] = node("SaveImage", images=["38", 0], filename_prefix="sampled")
    return prompt

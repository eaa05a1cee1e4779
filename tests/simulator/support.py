"""Prompts for the simulator, and the pictures that they make."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from tests.support.prompts import node
from tests.support.simulator_process import CHECKPOINT, Engine, Run


def empty(width: int = 64, height: int = 64, color: int = 0, batch_size: int = 1) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=batch_size, color=color)


def save(source: str, slot: int = 0, prefix: str = "test") -> dict[str, Any]:
    return node("SaveImage", images=[source, slot], filename_prefix=prefix)


def pictures(engine: Engine, prompt: dict[str, Any], **more: Any) -> list[Image.Image]:
    run = engine.run(prompt, **more)
    assert run.history["status"]["status_str"] == "success", run.history["status"]
    return [Image.open(io.BytesIO(engine.get("/view", params=image).content)) for image in run.images]


def picture(engine: Engine, last: dict[str, Any], **nodes: dict[str, Any]) -> Image.Image:
    return pictures(engine, {**nodes, "last": last, "save": save("last")})[0]


def upload(engine: Engine, name: str, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    assert engine.upload(name, buffer.getvalue(), overwrite="true").ok


def executed_nodes(run: Run) -> list[str]:
    return [one["node"] for one in run.of("executing")][:-1]


def sampling(**changes: Any) -> dict[str, Any]:
    wanted = {"seed": 1, "steps": 2, "cfg": 7.0, "text": "a cat", "ckpt": CHECKPOINT, "denoise": 1.0, **changes}
    sampler = {name: wanted[name] for name in ("seed", "steps", "cfg", "denoise")}
    links = {
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": wanted.get("latent", ["5", 0]),
    }
    return {
        "3": node("KSampler", **sampler, sampler_name="euler", scheduler="normal", **links),
        "4": node("CheckpointLoaderSimple", ckpt_name=wanted["ckpt"]),
        "5": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text=wanted["text"], clip=["4", 1]),
        "7": node("CLIPTextEncode", text="bad", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": save("8", prefix="sampled"),
    }

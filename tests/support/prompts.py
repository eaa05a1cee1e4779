"""API prompts that any ComfyUI runs, the simulator too."""

from __future__ import annotations

from typing import Any


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API prompt."""
    return {"class_type": class_type, "inputs": inputs}


def image_prompt(color: int = 255, prefix: str = "test") -> dict[str, Any]:
    """A prompt that every ComfyUI runs in no time; another ``color`` is another prompt to its cache."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=color),
        "2": node("SaveImage", images=["1", 0], filename_prefix=prefix),
    }


def sampler_prompt(ckpt_name: str, steps: int = 20, seed: int = 1) -> dict[str, Any]:
    """Text to image with a checkpoint."""
    return {
        "3": node(
            "KSampler", seed=seed, steps=steps, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
            model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name=ckpt_name),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="bad", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="sampler"),
    }  # fmt: skip

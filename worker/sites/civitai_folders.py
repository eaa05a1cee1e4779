"""The folder of a Civitai model, from its metadata. Pure.

Civitai's type is what the uploader chose, not which loader reads the file: a diffusion model alone (Flux, Wan, Qwen)
is a "Checkpoint" there. The base models below follow ComfyUI-Lora-Manager's table (py/utils/constants.py); where
ComfyUI's own examples load a family either way, none is listed and the caller must give the type.
"""

from __future__ import annotations

MODEL_TYPES = {
    "lora": "loras",
    "locon": "loras",
    "dora": "loras",
    "textualinversion": "embeddings",
    "controlnet": "controlnet",
    "upscaler": "upscale_models",
    "vae": "vae",
    "clipvision": "clip_vision",
    "textencoder": "text_encoders",
    "clip": "text_encoders",
    "unet": "diffusion_models",
    "diffusionmodel": "diffusion_models",
}

FILE_TYPES = {
    "vae": "vae",
    "textencoder": "text_encoders",
    "clip": "text_encoders",
    "clipvision": "clip_vision",
    "visionencoder": "clip_vision",
    "unet": "diffusion_models",
    "diffusionmodel": "diffusion_models",
    "controlnet": "controlnet",
    "negative": "embeddings",
}
"""A component beside the model itself; it wins over the model's type."""

MODEL_FILE_TYPES = ("", "model", "prunedmodel")

COMPONENT_FILE_TYPES = {
    "vae": ("VAE",),
    "text_encoders": ("Text Encoder", "CLIP"),
    "clip_vision": ("CLIPVision", "Vision Encoder"),
    "controlnet": ("ControlNet",),
}
"""The file types that a type word of these folders prefers in a version that has several files."""

DIFFUSION_BASES = (
    "Flux.1",
    "Flux.2",
    "Wan Video",
    "Wan Image",
    "Qwen",
    "Hunyuan Video",
    "LTXV",
    "ZImage",
    "Z-Image",
    "Chroma",
    "Krea",
    "HiDream",
    "CogVideoX",
    "Anima",
    "Ernie",
    "Nucleus",
)
CHECKPOINT_BASES = (
    "SD 1",
    "SD 2",
    "SD 3",
    "SDXL",
    "Pony",
    "Illustrious",
    "NoobAI",
    "Playground",
    "SVD",
    "Stable Cascade",
)
NOT_CHECKPOINT_BASES = ("Pony V7",)
"""AuraFlow under a checkpoint's family name."""


def folder_of(model_type: str, file_type: str, base_model: str) -> str | None:
    """Return the folder under ``models/``, or None when the metadata cannot decide."""
    file_word = _word(file_type)
    if file_word in FILE_TYPES:
        return FILE_TYPES[file_word]
    if file_word not in MODEL_FILE_TYPES:
        return None
    model_word = _word(model_type)
    if model_word != "checkpoint":
        return MODEL_TYPES.get(model_word)
    if _starts(base_model, DIFFUSION_BASES):
        return "diffusion_models"
    if _starts(base_model, CHECKPOINT_BASES) and not _starts(base_model, NOT_CHECKPOINT_BASES):
        return "checkpoints"
    return None


def _word(text: str) -> str:
    return "".join(text.lower().split())


def _starts(base_model: str, families: tuple[str, ...]) -> bool:
    return base_model.lower().startswith(tuple(family.lower() for family in families))

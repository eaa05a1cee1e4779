"""ComfyUI's configuration for models outside its own ``models/`` (MODELS_DIR, a network volume)."""

from __future__ import annotations

from pathlib import Path

from worker.sites.types import MANAGED_FOLDERS

OTHER_FOLDERS = (
    "audio_encoders",
    "configs",
    "diffusers",
    "gligen",
    "hypernetworks",
    "latent_upscale_models",
    "model_patches",
    "photomaker",
    "style_models",
    "vae_approx",
)
"""ComfyUI's further folders: this worker never writes to them, but ComfyUI must find the models in them."""

OLD_NAMES = {"text_encoders": "clip", "diffusion_models": "unet"}
"""ComfyUI reads both names of these folders; volumes filled by older versions have the old ones."""


def extra_model_paths(models_dir: Path) -> str:
    """Return the text of an ``extra_model_paths.yaml`` that puts every folder of ``models_dir`` first in the search."""
    lines = ["worker:", f"  base_path: {_quoted(models_dir)}", "  is_default: true"]
    for folder in sorted((*MANAGED_FOLDERS, *OTHER_FOLDERS)):
        if folder in OLD_NAMES:
            lines += [
                f"  {folder}: |",
                f"    {OLD_NAMES[folder]}/",
                f"    {folder}/",
            ]  # ComfyUI searches the last first
        else:
            lines.append(f"  {folder}: {folder}/")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"

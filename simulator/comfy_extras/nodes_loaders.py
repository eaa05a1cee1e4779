"""Loaders: they open the named file, fail as ComfyUI does on a broken one, and pass on its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import folder_paths
from comfy_extras.safetensors_header import read_header

_CLIP_TYPES = [
    "stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan",
    "hidream", "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image",
]  # fmt: skip
_DUAL_CLIP_TYPES = ["sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"]
_LORA_HELP = (
    "LoRAs are used to modify diffusion and CLIP models, altering the way in which latents are denoised such as"
    " applying styles. Multiple LoRA nodes can be linked together."
)
_LORA_OUTPUTS = ("The modified diffusion model.", "The modified CLIP model.")
_STRENGTH = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
_DEVICE = (["default", "cpu"], {"advanced": True})


@dataclass(frozen=True)
class Weights:
    """Stands for a MODEL, CLIP, VAE, ...: no weights, only the names of the files it was made from."""

    recipe: str

    def plus(self, more: str) -> Weights:
        return Weights(f"{self.recipe} + {more}")


def load(folder: str, name: str) -> Weights:
    path = folder_paths.get_full_path_or_raise(folder, name)
    if path.lower().endswith((".safetensors", ".sft")):
        read_header(path)
    return Weights(name)


def _files(folder: str) -> list[str]:
    return folder_paths.get_filename_list(folder)


class CheckpointLoaderSimple:
    DISPLAY_NAME = "Load Checkpoint"
    DESCRIPTION = "Loads a diffusion model checkpoint, diffusion models are used to denoise latents."
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = (
        "The model used for denoising latents.",
        "The CLIP model used for encoding text prompts.",
        "The VAE model used for encoding and decoding images to and from latent space.",
    )
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = {"tooltip": "The name of the checkpoint (model) to load."}
        return {"required": {"ckpt_name": (_files("checkpoints"), tooltip)}}

    def load_checkpoint(self, ckpt_name: str) -> tuple[Weights, Weights, Weights]:
        weights = load("checkpoints", ckpt_name)
        return weights, weights, weights


class LoraLoader:
    DISPLAY_NAME = "Load LoRA"
    DESCRIPTION = _LORA_HELP
    RETURN_TYPES = ("MODEL", "CLIP")
    OUTPUT_TOOLTIPS = _LORA_OUTPUTS
    FUNCTION = "load_lora"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def strength(what: str) -> tuple[str, dict[str, Any]]:
            tooltip = f"How strongly to modify the {what} model. This value can be negative."
            return "FLOAT", {**_STRENGTH, "tooltip": tooltip}

        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model the LoRA will be applied to."}),
                "clip": ("CLIP", {"tooltip": "The CLIP model the LoRA will be applied to."}),
                "lora_name": (_files("loras"), {"tooltip": "The name of the LoRA."}),
                "strength_model": strength("diffusion"),
                "strength_clip": strength("CLIP"),
            }
        }

    def load_lora(
        self, model: Weights, clip: Weights, lora_name: str, strength_model: float, strength_clip: float
    ) -> tuple[Weights, Weights]:
        if strength_model == 0 and strength_clip == 0:
            return model, clip
        lora = load("loras", lora_name).recipe
        return model.plus(f"{lora}*{strength_model}"), clip.plus(f"{lora}*{strength_clip}")


class LoraLoaderModelOnly:
    DESCRIPTION = _LORA_HELP
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = _LORA_OUTPUTS
    FUNCTION = "load_lora_model_only"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = ("FLOAT", _STRENGTH)
        return {"required": {"model": ("MODEL",), "lora_name": (_files("loras"),), "strength_model": strength}}

    def load_lora_model_only(self, model: Weights, lora_name: str, strength_model: float) -> tuple[Weights]:
        return (model if strength_model == 0 else model.plus(f"{load('loras', lora_name).recipe}*{strength_model}"),)


class VAELoader:
    DISPLAY_NAME = "Load VAE"
    RETURN_TYPES = ("VAE",)
    FUNCTION = "load_vae"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae_name": ([*_files("vae"), "pixel_space"],)}}

    def load_vae(self, vae_name: str) -> tuple[Weights]:
        return (Weights(vae_name) if vae_name == "pixel_space" else load("vae", vae_name),)


class UNETLoader:
    DISPLAY_NAME = "Load Diffusion Model"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "advanced/loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        dtypes = ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]
        return {"required": {"unet_name": (_files("diffusion_models"),), "weight_dtype": (dtypes,)}}

    def load_unet(self, unet_name: str, weight_dtype: str) -> tuple[Weights]:
        return (load("diffusion_models", unet_name).plus(weight_dtype),)


class CLIPLoader:
    DISPLAY_NAME = "Load CLIP"
    DESCRIPTION = (
        "[Recipes]\n\nstable_diffusion: clip-l\nstable_cascade: clip-g\nsd3: t5 xxl/ clip-g / clip-l\nstable_audio: t5"
        " base\nmochi: t5 xxl\ncosmos: old t5 xxl\nlumina2: gemma 2 2B\nwan: umt5 xxl\n hidream: llama-3.1 (Recommend)"
        " or t5\nomnigen2: qwen vl 2.5 3B"
    )
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"
    CATEGORY = "advanced/loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        required = {"clip_name": (_files("text_encoders"),), "type": (_CLIP_TYPES,)}
        return {"required": required, "optional": {"device": _DEVICE}}

    def load_clip(self, clip_name: str, type: str, device: str = "default") -> tuple[Weights]:  # noqa: A002
        return (load("text_encoders", clip_name).plus(type),)


class DualCLIPLoader:
    DESCRIPTION = (
        "[Recipes]\n\nsdxl: clip-l, clip-g\nsd3: clip-l, clip-g / clip-l, t5 / clip-g, t5\nflux: clip-l, t5\nhidream:"
        " at least one of t5 or llama, recommended t5 and llama\nhunyuan_image: qwen2.5vl 7b and byt5 small"
    )
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"
    CATEGORY = "advanced/loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = (_files("text_encoders"),)
        required = {"clip_name1": files, "clip_name2": files, "type": (_DUAL_CLIP_TYPES,)}
        return {"required": required, "optional": {"device": _DEVICE}}

    def load_clip(self, clip_name1: str, clip_name2: str, type: str, device: str = "default") -> tuple[Weights]:  # noqa: A002
        second = load("text_encoders", clip_name2)
        return (load("text_encoders", clip_name1).plus(second.recipe).plus(type),)


class ControlNetLoader:
    DISPLAY_NAME = "Load ControlNet Model"
    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "load_controlnet"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"control_net_name": (_files("controlnet"),)}}

    def load_controlnet(self, control_net_name: str) -> tuple[Weights]:
        return (load("controlnet", control_net_name),)


class UpscaleModelLoader:
    DISPLAY_NAME = "Load Upscale Model"
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_upscale_model"
    NEW_STYLE = True
    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "execute"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        # A new-style combo: 0.3.64 does not check its value before the node runs.
        return {"required": {"model_name": ("COMBO", {"multiselect": False, "options": _files("upscale_models")})}}

    def execute(self, model_name: str) -> tuple[Weights]:
        return (load("upscale_models", model_name),)

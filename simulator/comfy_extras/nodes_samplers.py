"""Samplers: real inputs, real steps, real progress; the picture is drawn, not denoised."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from comfy import model_management
from comfy.cli_args import args
from comfy_execution.progress import ProgressBar
from comfy_extras.nodes_images import scaled
from comfy_extras.nodes_loaders import Weights
from comfy_extras.painting import noisy, paint

_SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2", "dpm_2_ancestral",
    "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu",
    "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep",
    "res_multistep_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation",
    "gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc",
    "uni_pc_bh2",
]  # fmt: skip
_SCHEDULERS = [
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
]  # fmt: skip
_SEED = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
_STEPS = {"default": 20, "min": 1, "max": 10000}
_CFG = {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}
_CFG_TIP = (
    "The Classifier-Free Guidance scale balances creativity and adherence to the prompt. Higher values result in"
    " images more closely matching the prompt however too high values will negatively impact quality."
)
_SAMPLER_TIP = (
    "The algorithm used when sampling, this can affect the quality, speed, and style of the generated output."
)
_DENOISE_TIP = (
    "The amount of denoising applied, lower values will maintain the structure of the initial image allowing for"
    " image to image sampling."
)
_STEP_S = float(os.environ.get("SIMULATOR_STEP_MS", "20")) / 1000


@dataclass(frozen=True)
class Samples:
    """A latent: its size in pixels, the recipe that made it, and the pictures it was encoded from."""

    width: int
    height: int
    batch: int
    recipe: str = "empty"
    palette: str = ""
    kept: float = 1.0
    sources: tuple[Image.Image, ...] = ()

    def decode(self, number: int, scale: int = 1) -> Image.Image:
        size = (max(1, self.width // scale), max(1, self.height // scale))
        source = scaled(self.sources[number % len(self.sources)], *size, "bilinear") if self.sources else None
        if self.kept >= 1.0:
            return source or Image.new("RGB", size, (128, 124, 120))
        drawn = paint(f"{self.recipe}#{number}", self.palette, size)
        return Image.blend(drawn, source, self.kept) if source else drawn


def sample(
    latent: dict[str, Any], steps: int, first: int = 0, *, denoise: float, recipe: str, palette: str
) -> dict[str, Any]:
    """Take the steps, with progress and previews; an interrupt stops it between two of them."""
    before: Samples = latent["samples"]
    kept = 1.0 - denoise if before.sources else 0.0
    after = replace(before, recipe=f"{before.recipe} > {recipe}", palette=palette, kept=kept)
    preview = after.decode(0, scale=8) if args.preview_method != "none" else None
    bar = ProgressBar(steps - first)
    for step in range(first, steps):
        model_management.wait(_STEP_S)
        shown = ("JPEG", noisy(preview, (step + 1) / steps), args.preview_size) if preview else None
        bar.update_absolute(step + 1 - first, steps - first, shown)
    return {**latent, "samples": after}


class KSampler:
    DESCRIPTION = "Uses the provided model, positive and negative conditioning to denoise the latent image."
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The denoised latent.",)
    FUNCTION = "sample"
    CATEGORY = "sampling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        positive = "The conditioning describing the attributes you want to include in the image."
        negative = "The conditioning describing the attributes you want to exclude from the image."
        scheduler = "The scheduler controls how noise is gradually removed to form the image."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model used for denoising the input latent."}),
                "seed": ("INT", {**_SEED, "tooltip": "The random seed used for creating the noise."}),
                "steps": ("INT", {**_STEPS, "tooltip": "The number of steps used in the denoising process."}),
                "cfg": ("FLOAT", {**_CFG, "tooltip": _CFG_TIP}),
                "sampler_name": (_SAMPLERS, {"tooltip": _SAMPLER_TIP}),
                "scheduler": (_SCHEDULERS, {"tooltip": scheduler}),
                "positive": ("CONDITIONING", {"tooltip": positive}),
                "negative": ("CONDITIONING", {"tooltip": negative}),
                "latent_image": ("LATENT", {"tooltip": "The latent image to denoise."}),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": _DENOISE_TIP}),
            }
        }

    def sample(
        self,
        *,
        model: Weights,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Weights,
        negative: Weights,
        latent_image: dict[str, Any],
        denoise: float = 1.0,
    ) -> tuple[dict[str, Any]]:
        words = (model.recipe, seed, steps, cfg, sampler_name, scheduler, positive.recipe, negative.recipe, denoise)
        palette = f"{model.recipe}|{positive.recipe}|{negative.recipe}"
        return (sample(latent_image, steps, denoise=denoise, recipe=repr(words), palette=palette),)


class KSamplerAdvanced:
    DISPLAY_NAME = "KSampler (Advanced)"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "sampling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "add_noise": (["enable", "disable"],),
                "noise_seed": ("INT", _SEED),
                "steps": ("INT", _STEPS),
                "cfg": ("FLOAT", _CFG),
                "sampler_name": (_SAMPLERS,),
                "scheduler": (_SCHEDULERS,),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "start_at_step": ("INT", {"default": 0, "min": 0, "max": 10000}),
                "end_at_step": ("INT", {"default": 10000, "min": 0, "max": 10000}),
                "return_with_leftover_noise": (["disable", "enable"],),
            }
        }

    def sample(
        self,
        *,
        model: Weights,
        positive: Weights,
        negative: Weights,
        latent_image: dict[str, Any],
        steps: int,
        start_at_step: int,
        end_at_step: int,
        **rest: Any,
    ) -> tuple[dict[str, Any]]:
        last = min(end_at_step, steps)
        if start_at_step >= last:
            return (latent_image,)
        words = (model.recipe, positive.recipe, negative.recipe, steps, start_at_step, last, sorted(rest.items()))
        palette = f"{model.recipe}|{positive.recipe}|{negative.recipe}"
        left = 1.0 - start_at_step / steps
        return (sample(latent_image, last, start_at_step, denoise=left, recipe=repr(words), palette=palette),)

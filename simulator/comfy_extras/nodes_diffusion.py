"""The nodes around a sampler: conditioning, empty latents, encoding and decoding, upscaling."""

from __future__ import annotations

import re
from typing import Any

from comfy_extras.nodes_images import MAX_RESOLUTION, Images, scaled
from comfy_extras.nodes_loaders import Weights
from comfy_extras.nodes_samplers import Samples


class CLIPTextEncode:
    DISPLAY_NAME = "CLIP Text Encode (Prompt)"
    DESCRIPTION = (
        "Encodes a text prompt using a CLIP model into an embedding that can be used to guide the diffusion model"
        " towards generating specific images."
    )
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("A conditioning containing the embedded text used to guide the diffusion model.",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        text = {"multiline": True, "dynamicPrompts": True, "tooltip": "The text to be encoded."}
        clip = {"tooltip": "The CLIP model used for encoding the text."}
        return {"required": {"text": ("STRING", text), "clip": ("CLIP", clip)}}

    def encode(self, clip: Weights, text: str) -> tuple[Weights]:
        return (Weights(f"{text} [{clip.recipe}]"),)


class CLIPSetLastLayer:
    DISPLAY_NAME = "CLIP Set Last Layer"
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "set_last_layer"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        layer = ("INT", {"default": -1, "min": -24, "max": -1, "step": 1})
        return {"required": {"clip": ("CLIP",), "stop_at_clip_layer": layer}}

    def set_last_layer(self, clip: Weights, stop_at_clip_layer: int) -> tuple[Weights]:
        return (clip.plus(f"layer {stop_at_clip_layer}"),)


class ControlNetApplyAdvanced:
    DISPLAY_NAME = "Apply ControlNet"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "apply_controlnet"
    CATEGORY = "conditioning/controlnet"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def percent(default: float) -> tuple[str, dict[str, Any]]:
            return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.001}

        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "control_net": ("CONTROL_NET",),
                "image": ("IMAGE",),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}),
                "start_percent": percent(0.0),
                "end_percent": percent(1.0),
            },
            "optional": {"vae": ("VAE",)},
        }

    def apply_controlnet(
        self, positive: Weights, negative: Weights, control_net: Weights, strength: float, **rest: Any
    ) -> tuple[Weights, Weights]:
        if strength == 0:
            return positive, negative
        hint = f"{control_net.recipe}*{strength} {rest['start_percent']}..{rest['end_percent']}"
        return positive.plus(hint), negative.plus(hint)


class EmptyLatentImage:
    DISPLAY_NAME = "Empty Latent Image"
    DESCRIPTION = "Create a new batch of empty latent images to be denoised via sampling."
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The empty latent image batch.",)
    FUNCTION = "generate"
    CATEGORY = "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def side(name: str) -> tuple[str, dict[str, Any]]:
            tooltip = f"The {name} of the latent images in pixels."
            return "INT", {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8, "tooltip": tooltip}

        batch = {"default": 1, "min": 1, "max": 4096, "tooltip": "The number of latent images in the batch."}
        return {"required": {"width": side("width"), "height": side("height"), "batch_size": ("INT", batch)}}

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[dict[str, Any]]:
        return ({"samples": Samples(width // 8 * 8, height // 8 * 8, batch_size)},)


class VAEDecode:
    DISPLAY_NAME = "VAE Decode"
    DESCRIPTION = "Decodes latent images back into pixel space images."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The decoded image.",)
    FUNCTION = "decode"
    CATEGORY = "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        samples = {"tooltip": "The latent to be decoded."}
        vae = {"tooltip": "The VAE model used for decoding the latent."}
        return {"required": {"samples": ("LATENT", samples), "vae": ("VAE", vae)}}

    def decode(self, vae: Weights, samples: dict[str, Any]) -> tuple[Images]:
        latent: Samples = samples["samples"]
        return ([latent.decode(number) for number in range(latent.batch)],)


class VAEEncode:
    DISPLAY_NAME = "VAE Encode"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, vae: Weights, pixels: Images) -> tuple[dict[str, Any]]:
        width, height = (side // 8 * 8 for side in pixels[0].size)
        sources = tuple(one.convert("RGB").crop((0, 0, width, height)) for one in pixels)
        return ({"samples": Samples(width, height, len(pixels), recipe="picture", sources=sources)},)


class ImageUpscaleWithModel:
    DISPLAY_NAME = "Upscale Image (using Model)"
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_upscale_model"
    NEW_STYLE = True
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "execute"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"upscale_model": ("UPSCALE_MODEL", {}), "image": ("IMAGE", {})}}

    def execute(self, upscale_model: Weights, image: Images) -> tuple[Images]:
        # The factor is in the model's name: 2x_..., RealESRGAN_x4, 4x-UltraSharp.
        match = re.search(r"(?<!\d)([1248])x|x([1248])(?!\d)", upscale_model.recipe, re.IGNORECASE)
        factor = int(match[1] or match[2]) if match else 4
        return ([scaled(one, one.width * factor, one.height * factor, "lanczos") for one in image],)

"""Nodes that save moving pictures: animated WebP and PNG, with the prompt and the workflow where ComfyUI puts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy.cli_args import args
from comfy_extras.nodes_files import output_file
from comfy_extras.nodes_images import Images

_PROMPT_TAG, _FIRST_EXTRA_TAG = 0x0110, 0x010F  # EXIF's Model, then Make and downwards


class _SaveAnimated:
    """The declaration of a node that saves pictures as one animation; a format adds its own inputs."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_images"
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    CATEGORY = "image/animation"
    OUTPUT_NODE = True
    format_inputs: ClassVar[dict[str, Any]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
                "fps": ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}),
                **cls.format_inputs,
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }


class SaveAnimatedWEBP(_SaveAnimated):
    methods: ClassVar[dict[str, int]] = {"default": 4, "fastest": 0, "slowest": 6}
    format_inputs: ClassVar[dict[str, Any]] = {
        "lossless": ("BOOLEAN", {"default": True}),
        "quality": ("INT", {"default": 80, "min": 0, "max": 100}),
        "method": (list(methods),),
    }

    def save_images(
        self,
        *,
        images: Images,
        fps: float,
        filename_prefix: str,
        lossless: bool,
        quality: int,
        method: str,
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        path, entry = output_file(filename_prefix, "webp", *images[0].size)
        exif = Image.Exif()  # a new one: the picture's own would stay on it in the cache
        if not args.disable_metadata:
            if prompt is not None:
                exif[_PROMPT_TAG] = f"prompt:{json.dumps(prompt)}"
            for offset, (key, value) in enumerate((extra_pnginfo or {}).items()):
                exif[_FIRST_EXTRA_TAG - offset] = f"{key}:{json.dumps(value)}"
        options = {"lossless": lossless, "quality": quality, "method": self.methods[method]}
        _save(images, path, fps, exif=exif, **options)
        return {"ui": {"images": [entry], "animated": (len(images) != 1,)}}


class SaveAnimatedPNG(_SaveAnimated):
    format_inputs: ClassVar[dict[str, Any]] = {"compress_level": ("INT", {"default": 4, "min": 0, "max": 9})}

    def save_images(
        self,
        *,
        images: Images,
        fps: float,
        compress_level: int,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        path, entry = output_file(filename_prefix, "png", *images[0].size)
        info = None if args.disable_metadata else _comf_chunks(prompt, extra_pnginfo)
        _save(images, path, fps, pnginfo=info, compress_level=compress_level)
        return {"ui": {"images": [entry], "animated": (True,)}}


def _save(images: Images, path: Path, fps: float, **options: Any) -> None:
    duration_ms = int(1000.0 / fps)
    images[0].save(path, save_all=True, duration=duration_ms, append_images=images[1:], **options)


def _comf_chunks(prompt: Any, extra_pnginfo: Any) -> PngInfo:
    info = PngInfo()
    texts = {**({"prompt": prompt} if prompt is not None else {}), **(extra_pnginfo or {})}
    for key, value in texts.items():
        info.add(b"comf", key.encode("latin-1") + b"\0" + json.dumps(value).encode("latin-1"), after_idat=True)
    return info

"""Nodes that read pictures from the input folder and write them to the output and temp folders."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

import folder_paths
from comfy.cli_args import args
from comfy_extras.nodes_images import Images

_NO_MASK = (64, 64)


def _pillow(fn: Callable[[Any], Any], arg: Any) -> Any:
    """Call Pillow, and on an error once more with truncated files allowed, as ComfyUI's `node_helpers.pillow`."""
    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return fn(arg)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _input_files() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def content_hash(image: str) -> str:
    return hashlib.sha256(Path(folder_paths.get_annotated_filepath(image)).read_bytes()).hexdigest()


def _eight_bit(frame: Image.Image) -> Image.Image:
    return frame.point(lambda value: value * (1 / 255)) if frame.mode == "I" else frame


def _mask_of(frame: Image.Image) -> Image.Image:
    if "A" in frame.getbands():
        return ImageChops.invert(frame.getchannel("A"))
    if frame.mode == "P" and "transparency" in frame.info:
        return ImageChops.invert(frame.convert("RGBA").getchannel("A"))
    return Image.new("L", _NO_MASK, 0)


class _InputFileNode:
    """Refuses an image whose file is missing, and runs again once the file has other bytes."""

    @classmethod
    def IS_CHANGED(cls, image: str, **_: Any) -> str:
        return content_hash(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        return True if folder_paths.exists_annotated_filepath(image) else f"Invalid image file: {image}"


class LoadImage(_InputFileNode):
    DISPLAY_NAME = "Load Image"
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = folder_paths.filter_files_content_types(_input_files(), ["image"])
        return {"required": {"image": (files, {"image_upload": True})}}

    def load_image(self, image: str) -> tuple[Images, Images]:
        images: Images = []
        masks: Images = []
        with _pillow(Image.open, folder_paths.get_annotated_filepath(image)) as opened:
            for raw in ImageSequence.Iterator(opened):
                frame = _eight_bit(_pillow(ImageOps.exif_transpose, raw))
                picture = frame.convert("RGB")
                if not images or picture.size == images[0].size:
                    images.append(picture)
                    masks.append(_mask_of(frame))
            only_first = opened.format == "MPO"
        return (images[:1], masks[:1]) if only_first else (images, masks)


class LoadImageMask(_InputFileNode):
    DISPLAY_NAME = "Load Image (as Mask)"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "load_image"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        channels = (["alpha", "red", "green", "blue"],)
        return {"required": {"image": (_input_files(), {"image_upload": True}), "channel": channels}}

    def load_image(self, image: str, channel: str) -> tuple[Images]:
        with _pillow(Image.open, folder_paths.get_annotated_filepath(image)) as opened:
            frame = _eight_bit(_pillow(ImageOps.exif_transpose, opened)).convert("RGBA")
        band = frame.getchannel(channel[0].upper())
        return ([ImageChops.invert(band) if channel == "alpha" else band],)


class LoadImageOutput(LoadImage):
    DISPLAY_NAME = "Load Image (from Outputs)"
    DESCRIPTION = (
        "Load an image from the output folder. When the refresh button is clicked, the node will update the image list"
        " and automatically select the first image, allowing for easy iteration."
    )
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        remote = {"route": "/internal/files/output", "refresh_button": True, "control_after_refresh": "first"}
        return {"required": {"image": ("COMBO", {"image_upload": True, "image_folder": "output", "remote": remote})}}


class SaveImage:
    DISPLAY_NAME = "Save Image"
    DESCRIPTION = "Saves the input images to your ComfyUI output directory."
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    CATEGORY = "image"
    OUTPUT_NODE = True

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""
        self.compress_level = 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = (
            "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or"
            " %Empty Latent Image.width% to include values from nodes."
        )
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The images to save."}),
                "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": tooltip}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save_images(
        self, images: Images, filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        prefix = filename_prefix + self.prefix_append
        size = images[0].size
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix, self.output_dir, *size)
        info = None if args.disable_metadata else _png_text(prompt, extra_pnginfo)
        results = []
        for position, image in enumerate(images):
            file = f"{name.replace('%batch_num%', str(position))}_{number + position:05}_.png"
            image.save(Path(folder, file), pnginfo=info, compress_level=self.compress_level)
            results.append({"filename": file, "subfolder": subfolder, "type": self.type})
        return {"ui": {"images": results}}


def output_file(filename_prefix: str, extension: str, width: int = 0, height: int = 0) -> tuple[Path, dict[str, str]]:
    """Return the path to write to, and its entry in the node's UI result."""
    output = folder_paths.get_output_directory()
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, output, width, height)
    file = f"{name}_{number:05}_.{extension}"
    return Path(folder, file), {"filename": file, "subfolder": subfolder, "type": "output"}


def _png_text(prompt: Any, extra_pnginfo: Any) -> PngInfo:
    info = PngInfo()
    if prompt is not None:
        info.add_text("prompt", json.dumps(prompt))
    for key, value in (extra_pnginfo or {}).items():
        info.add_text(key, json.dumps(value))
    return info


class PreviewImage(SaveImage):
    DISPLAY_NAME = "Preview Image"

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_temp_directory()
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

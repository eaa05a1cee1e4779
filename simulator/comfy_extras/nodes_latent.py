"""Nodes that save and load latents: safetensors files of ComfyUI's shape that hold a picture's colours."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from PIL import Image

import folder_paths
from comfy.cli_args import args
from comfy_extras.nodes_files import content_hash, output_file
from comfy_extras.nodes_samplers import Samples
from comfy_extras.safetensors_header import read_header

_CHANNELS = 4  # of SD's latents; the simulator fills three


class SaveLatent:
    RETURN_TYPES = ()
    FUNCTION = "save"
    CATEGORY = "_for_testing"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        prefix = ("STRING", {"default": "latents/ComfyUI"})
        return {
            "required": {"samples": ("LATENT",), "filename_prefix": prefix},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(
        self, samples: dict[str, Any], filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        path, entry = output_file(filename_prefix, "latent")
        metadata = None
        if not args.disable_metadata:
            texts = {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}
            metadata = {"prompt": "" if prompt is None else json.dumps(prompt), **texts}
        path.write_bytes(_safetensors(samples["samples"], metadata))
        return {"ui": {"latents": [entry]}}


def _safetensors(latent: Samples, metadata: dict[str, str] | None) -> bytes:
    width, height = latent.width // 8, latent.height // 8
    values: list[float] = []
    for number in range(latent.batch):
        bands = latent.decode(number, scale=8).resize((width, height)).split()
        planes = [[value / 255 for value in band.tobytes()] for band in bands]
        values += [value for plane in planes for value in plane] + [0.0] * (width * height)
    data = struct.pack(f"<{len(values)}f", *values)
    header = {
        **({"__metadata__": metadata} if metadata else {}),
        "latent_format_version_0": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "latent_tensor": {
            "dtype": "F32",
            "shape": [latent.batch, _CHANNELS, height, width],
            "data_offsets": [0, len(data)],
        },
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


class LoadLatent:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "load"
    CATEGORY = "_for_testing"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        folder = Path(folder_paths.get_input_directory())
        files = [path.name for path in folder.iterdir() if path.is_file() and path.suffix == ".latent"]
        return {"required": {"latent": [sorted(files)]}}

    def load(self, latent: str) -> tuple[dict[str, Any]]:
        path = folder_paths.get_annotated_filepath(latent)
        tensor = read_header(path)["latent_tensor"]
        batch, _, height, width = tensor["shape"]
        with Path(path).open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            file.seek(8 + length + tensor["data_offsets"][0])
            values = struct.unpack(f"<{batch * _CHANNELS * height * width}f", file.read(tensor["data_offsets"][1]))
        sources = tuple(_picture(values, number, (width, height)) for number in range(batch))
        return ({"samples": Samples(width * 8, height * 8, batch, recipe="latent", sources=sources)},)

    @classmethod
    def IS_CHANGED(cls, latent: str) -> str:
        return content_hash(latent)

    @classmethod
    def VALIDATE_INPUTS(cls, latent: str) -> bool | str:
        return True if folder_paths.exists_annotated_filepath(latent) else f"Invalid latent file: {latent}"


def _picture(values: tuple[float, ...], number: int, size: tuple[int, int]) -> Image.Image:
    pixels = size[0] * size[1]
    start = number * _CHANNELS * pixels
    planes = [values[start + band * pixels : start + (band + 1) * pixels] for band in range(3)]
    bands = [Image.frombytes("L", size, bytes(min(255, max(0, round(v * 255))) for v in plane)) for plane in planes]
    return Image.merge("RGB", bands)

"""Conversions between masks and pictures, and the primitive nodes, which hold one value each."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageChops

from comfy_extras.nodes_images import MAX_RESOLUTION, Images

_CHANNELS = ["red", "green", "blue", "alpha"]


class MaskToImage:
    DISPLAY_NAME = "Convert Mask to Image"
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "mask_to_image"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    def mask_to_image(self, mask: Images) -> tuple[Images]:
        return ([one.convert("RGB") for one in mask],)


class ImageToMask:
    DISPLAY_NAME = "Convert Image to Mask"
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "channel": (_CHANNELS,)}}

    def image_to_mask(self, image: Images, channel: str) -> tuple[Images]:
        return ([one.getchannel(_CHANNELS.index(channel)) for one in image],)


class InvertMask:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "invert"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    def invert(self, mask: Images) -> tuple[Images]:
        return ([ImageChops.invert(one) for one in mask],)


class SolidMask:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 1, "max": MAX_RESOLUTION, "step": 1})
        value = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"value": value, "width": side, "height": side}}

    def solid(self, value: float, width: int, height: int) -> tuple[Images]:
        return ([Image.new("L", (width, height), round(value * 255))],)


_LIMIT = 2**63 - 1


def _primitive(name: str, kind: str, options: dict[str, Any]) -> type:
    class Primitive:
        DISPLAY_NAME = name
        RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_primitive"
        NEW_STYLE = True
        RETURN_TYPES = (kind,)
        FUNCTION = "execute"
        CATEGORY = "utils/primitive"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"value": (kind, options)}}

        def execute(self, value: Any) -> tuple[Any]:
            return (value,)

    return Primitive


PrimitiveInt = _primitive("Int", "INT", {"min": -_LIMIT, "max": _LIMIT, "control_after_generate": True})
PrimitiveFloat = _primitive("Float", "FLOAT", {"min": -_LIMIT, "max": _LIMIT})
PrimitiveString = _primitive("String", "STRING", {"multiline": False})
PrimitiveStringMultiline = _primitive("String (Multiline)", "STRING", {"multiline": True})
PrimitiveBoolean = _primitive("Boolean", "BOOLEAN", {})

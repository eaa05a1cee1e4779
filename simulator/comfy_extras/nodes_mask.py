"""Conversions between masks and pictures, and the primitive nodes, which hold one value each."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageChops

from comfy_extras.nodes_images import MAX_RESOLUTION, Images

_CHANNELS = ["red", "green", "blue", "alpha"]


class MaskToImage:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "mask_to_image"
    CATEGORY = "mask"

    def mask_to_image(self, mask: Images) -> tuple[Images]:
        return ([one.convert("RGB") for one in mask],)


class ImageToMask:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "channel": (_CHANNELS,)}}

    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"
    CATEGORY = "mask"

    def image_to_mask(self, image: Images, channel: str) -> tuple[Images]:
        return ([one.getchannel(_CHANNELS.index(channel)) for one in image],)


class InvertMask:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    RETURN_TYPES = ("MASK",)
    FUNCTION = "invert"
    CATEGORY = "mask"

    def invert(self, mask: Images) -> tuple[Images]:
        return ([ImageChops.invert(one) for one in mask],)


class SolidMask:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 1, "max": MAX_RESOLUTION, "step": 1})
        value = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"value": value, "width": side, "height": side}}

    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"
    CATEGORY = "mask"

    def solid(self, value: float, width: int, height: int) -> tuple[Images]:
        return ([Image.new("L", (width, height), round(value * 255))],)


_LIMIT = 2**63 - 1


def _primitive(kind: str, options: dict[str, Any], name: str) -> type:
    class Primitive:
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

    Primitive.__name__ = Primitive.__qualname__ = name
    return Primitive


_PRIMITIVES: dict[str, tuple[str, dict[str, Any], str]] = {
    "PrimitiveInt": ("INT", {"min": -_LIMIT, "max": _LIMIT, "control_after_generate": True}, "Int"),
    "PrimitiveFloat": ("FLOAT", {"min": -_LIMIT, "max": _LIMIT}, "Float"),
    "PrimitiveString": ("STRING", {"multiline": False}, "String"),
    "PrimitiveStringMultiline": ("STRING", {"multiline": True}, "String (Multiline)"),
    "PrimitiveBoolean": ("BOOLEAN", {}, "Boolean"),
}

NODE_CLASS_MAPPINGS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (MaskToImage, ImageToMask, InvertMask, SolidMask)},
    **{name: _primitive(kind, options, name) for name, (kind, options, _) in _PRIMITIVES.items()},
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MaskToImage": "Convert Mask to Image",
    "ImageToMask": "Convert Image to Mask",
    **{name: shown for name, (_, _, shown) in _PRIMITIVES.items()},
}

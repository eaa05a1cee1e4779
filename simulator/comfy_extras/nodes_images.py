"""Nodes that make and change pictures. An IMAGE is a list of Pillow pictures, a MASK a list of grey ones."""

from __future__ import annotations

from typing import Any, TypeAlias

from PIL import Image, ImageChops, ImageDraw

Images: TypeAlias = list[Image.Image]

MAX_RESOLUTION = 16384
_SIDE = {"default": 512, "min": 1, "max": MAX_RESOLUTION, "step": 1}
_SIDE_OR_NONE = {**_SIDE, "min": 0}
_OFFSET = {"default": 0, "min": 0, "max": MAX_RESOLUTION, "step": 1}
_PADDING = {**_OFFSET, "step": 8}

_METHODS = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def scaled(image: Image.Image, width: int, height: int, method: str, crop: str = "disabled") -> Image.Image:
    box = _centered(image, width / height) if crop == "center" else (0, 0, *image.size)
    if (width, height) == image.size and box == (0, 0, *image.size):
        return image
    return image.resize((width, height), _METHODS[method], box=box)


def _centered(image: Image.Image, aspect: float) -> tuple[int, int, int, int]:
    own = image.width / image.height
    x = round((image.width - image.width * aspect / own) / 2) if own > aspect else 0
    y = round((image.height - image.height * own / aspect) / 2) if own < aspect else 0
    return x, y, image.width - x, image.height - y


def repeated(images: Images, count: int) -> Images:
    return [images[i % len(images)] for i in range(count)]


class EmptyImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "width": ("INT", _SIDE),
                "height": ("INT", _SIDE),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Images]:
        one = Image.new("RGB", (width, height), (color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF))
        return ([one] * batch_size,)


class ImageScale:
    DISPLAY_NAME = "Upscale Image"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (list(_METHODS),),
                "width": ("INT", _SIDE_OR_NONE),
                "height": ("INT", _SIDE_OR_NONE),
                "crop": (["disabled", "center"],),
            }
        }

    def upscale(self, image: Images, upscale_method: str, width: int, height: int, crop: str) -> tuple[Images]:
        if not width and not height:
            return (image,)
        own_width, own_height = image[0].size
        width = width or max(1, round(own_width * height / own_height))
        height = height or max(1, round(own_height * width / own_width))
        return ([scaled(one, width, height, upscale_method, crop) for one in image],)


class ImageScaleBy:
    DISPLAY_NAME = "Upscale Image By"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (list(_METHODS),),
                "scale_by": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}),
            }
        }

    def upscale(self, image: Images, upscale_method: str, scale_by: float) -> tuple[Images]:
        width, height = (round(side * scale_by) for side in image[0].size)
        return ([scaled(one, width, height, upscale_method) for one in image],)


class ImageInvert:
    DISPLAY_NAME = "Invert Image"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def invert(self, image: Images) -> tuple[Images]:
        return ([ImageChops.invert(one) for one in image],)


class ImageBatch:
    DISPLAY_NAME = "Batch Images"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "batch"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1: Images, image2: Images) -> tuple[Images]:
        width, height = image1[0].size
        return (image1 + [scaled(one, width, height, "bilinear", "center") for one in image2],)


class ImageCrop:
    DISPLAY_NAME = "Image Crop"
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_images"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "crop"
    CATEGORY = "image/transform"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = {"width": ("INT", _SIDE), "height": ("INT", _SIDE)}
        return {"required": {"image": ("IMAGE",), **sides, "x": ("INT", _OFFSET), "y": ("INT", _OFFSET)}}

    def crop(self, image: Images, width: int, height: int, x: int, y: int) -> tuple[Images]:
        own_width, own_height = image[0].size
        left, top = min(x, own_width - 1), min(y, own_height - 1)
        box = (left, top, min(left + width, own_width), min(top + height, own_height))
        return ([one.crop(box) for one in image],)


class ImageCompositeMasked:
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "composite"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "destination": ("IMAGE",),
                "source": ("IMAGE",),
                "x": ("INT", _OFFSET),
                "y": ("INT", _OFFSET),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    def composite(
        self, *, destination: Images, source: Images, x: int, y: int, resize_source: bool, mask: Images | None = None
    ) -> tuple[Images]:
        if resize_source:
            source = [scaled(one, *destination[0].size, "bilinear") for one in source]
        count = len(destination)
        masks: list[Image.Image | None] = [None] * count
        if mask is not None:
            masks = [*repeated([scaled(one, *source[0].size, "bilinear") for one in mask], count)]
        results = []
        for below, above, where in zip(destination, repeated(source, count), masks, strict=True):
            result = below.copy()
            result.paste(above, (x, y), where)
            results.append(result)
        return (results,)


class ImagePadForOutpaint:
    DISPLAY_NAME = "Pad Image for Outpainting"
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "expand_image"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        paddings = dict.fromkeys(("left", "top", "right", "bottom"), ("INT", _PADDING))
        return {"required": {"image": ("IMAGE",), **paddings, "feathering": ("INT", {**_OFFSET, "default": 40})}}

    def expand_image(
        self, *, image: Images, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> tuple[Images, Images]:
        width, height = image[0].size
        size = (width + left + right, height + top + bottom)
        padded = []
        for one in image:
            canvas = Image.new(one.mode, size, tuple([128] * len(one.getbands())))
            canvas.paste(one, (left, top))
            padded.append(canvas)
        mask = Image.new("L", size, 255)
        mask.paste(_feathered((width, height), (left, top, right, bottom), feathering), (left, top))
        return padded, [mask]


def _feathered(size: tuple[int, int], padding: tuple[int, int, int, int], feathering: int) -> Image.Image:
    """Fade from white at the edges that were extended to black inside."""
    width, height = size
    mask = Image.new("L", size, 0)
    if not feathering or feathering * 2 >= min(size):
        return mask
    draw = ImageDraw.Draw(mask)
    for distance in range(feathering + 1):
        left, top, right, bottom = (distance if side else 0 for side in padding)
        value = round(255 * ((feathering - distance) / feathering) ** 2)
        draw.rectangle((left, top, width - right, height - bottom), fill=value)
    return mask

"""Conversion of still images to WebP or JPEG, with their workflow if it fits. For threads, one at a time.

ComfyUI's own WebP has ``prompt:<json>`` in the EXIF tag Model and ``workflow:<json>`` in Make and the tags below it;
its frontend reads only these. It reads nothing from a JPEG: there the same tags are for other tools, and hold only as
much as fits into a segment.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from worker.results.png_text import NotPngError, read_texts

if TYPE_CHECKING:
    from PIL import Image

SOURCES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_SIDE = {"webp": 16383, "jpeg": 65535}  # limits of the formats
MAX_JPEG_EXIF_BYTES = 65_000  # one segment, less its head
WEBP_EFFORT = 2  # of 6: from 3 on the encoder keeps 15 bytes a pixel more, takes a third longer, saves a twentieth
PROMPT_TAG, FIRST_EXTRA_TAG, EXIF_IFD, USER_COMMENT = 0x0110, 0x010F, 0x8769, 0x9286

_one_at_a_time = threading.Lock()  # a decoded image is many times its file's size


class Converted(NamedTuple):
    """An image in its new format; ``lost`` names the texts that did not fit."""

    data: bytes
    media_type: str
    lost: str | None = None


class NotConvertedError(Exception):
    """The image stays as it is, with the reason as text; empty if it is no still image at all."""


def convert(source: bytes | Callable[[], bytes], to: str, quality: int, parameters: str | None = None) -> Converted:
    """Convert one image. Takes 11 bytes of memory a pixel, besides the file's bytes if the caller keeps them.

    Args:
        source: the file's bytes, or a function that reads them, so that they are freed before the pixels are encoded.
        to: ``webp`` or ``jpeg``.
        quality: 1 to 100.
        parameters: text for the EXIF user comment, which Civitai and others read.

    Raises:
        NotConvertedError: it is animated, no image, too large, or would lose much.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - only for jobs that ask: else every start takes 50 ms longer

    with _one_at_a_time:
        try:
            with io.BytesIO(source() if callable(source) else source) as stream, Image.open(stream) as image:
                _check(image, to, Image.MAX_IMAGE_PIXELS or 0)
                image.load()
                texts = carried_texts(image, stream.getvalue())
                stream.close()
                return _encode(image, texts, to, quality, parameters)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
            raise NotConvertedError("it has too many pixels to be converted") from None
        except UnidentifiedImageError:
            raise NotConvertedError from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise NotConvertedError(f"it could not be read ({type(error).__name__})") from None


def _check(image: Image.Image, to: str, most_pixels: int) -> None:
    if image.format not in SOURCES or getattr(image, "n_frames", 1) > 1:
        raise NotConvertedError
    if image.width * image.height > most_pixels:
        raise NotConvertedError("it has too many pixels to be converted")
    if max(image.size) > MAX_SIDE[to]:
        raise NotConvertedError(f"{to} images can have at most {MAX_SIDE[to]} pixels a side")
    if image.mode.startswith(("I", "F")):
        raise NotConvertedError("it has more than 8 bits a channel")


def _encode(image: Image.Image, texts: Mapping[str, str], to: str, quality: int, parameters: str | None) -> Converted:
    exif, lost = _exif(texts, parameters, MAX_JPEG_EXIF_BYTES if to == "jpeg" else None)
    profile = image.info.get("icc_profile")
    pixels = opaque(image) if to == "jpeg" else _for_webp(image)
    out = io.BytesIO()
    if to == "jpeg":
        pixels.save(out, "JPEG", quality=quality, exif=exif, icc_profile=profile)
        return Converted(out.getvalue(), "image/jpeg", lost)
    pixels.save(out, "WEBP", quality=quality, method=WEBP_EFFORT, exif=exif, icc_profile=profile or b"")
    return Converted(even_chunks(out.getvalue()), "image/webp", lost)


def carried_texts(image: Image.Image, data: bytes) -> dict[str, str]:
    """Return the prompt, the workflow and any other text that ComfyUI wrote into the image, by name."""
    if image.format == "PNG":
        try:
            return read_texts(data)
        except NotPngError:
            return {}
    tags = image.getexif()
    found = (tags.get(tag) for tag in (PROMPT_TAG, *range(FIRST_EXTRA_TAG, FIRST_EXTRA_TAG - 12, -1)))
    pairs = (text.partition(":") for text in found if isinstance(text, str))
    return {name: value for name, colon, value in pairs if colon}


def _exif(texts: Mapping[str, str], parameters: str | None, limit: int | None) -> tuple[bytes, str | None]:
    """Return the texts as ComfyUI's EXIF tags, and a note on the largest ones if ``limit`` excludes them."""
    kept = {name: text for name, text in texts.items() if name != "parameters"}
    parameters = parameters or texts.get("parameters")
    dropped: list[str] = []
    while True:
        exif = _exif_bytes(kept, parameters)
        if limit is None or len(exif) <= limit or not kept:
            return exif, f"{' and '.join(dropped)} did not fit into the JPEG" if dropped else None
        largest = max(kept, key=lambda name: len(kept[name]))
        dropped.append(largest)
        del kept[largest]


def _exif_bytes(texts: Mapping[str, str], parameters: str | None) -> bytes:
    from PIL import Image  # noqa: PLC0415

    tags = Image.Exif()
    if "prompt" in texts:
        tags[PROMPT_TAG] = f"prompt:{texts['prompt']}"
    extras = [f"{name}:{text}" for name, text in texts.items() if name != "prompt"]
    for offset, text in enumerate(extras[:12]):
        tags[FIRST_EXTRA_TAG - offset] = text
    if parameters:
        tags.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    return tags.tobytes() if texts or parameters else b""


def opaque(image: Image.Image) -> Image.Image:
    """Return the image over white, as a browser shows it: JPEG has no transparency."""
    from PIL import Image  # noqa: PLC0415

    if image.mode in ("RGB", "L", "CMYK"):
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _for_webp(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "RGBA"):
        return image
    return image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")


def even_chunks(webp: bytes) -> bytes:
    """Return the WebP without chunks of odd length: ComfyUI's frontend ignores padding and misses EXIF after it."""
    odd, at = [], 12  # ComfyUI's own SaveAnimatedWEBP writes odd ones too
    while at + 8 <= len(webp):
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        if webp[at : at + 4] != b"EXIF" and size & 1:  # the frontend stops at EXIF
            odd.append((at + 4, size + 1))
        at += 8 + size + (size & 1)
    if not odd:
        return webp
    out = bytearray(webp)
    for where, size in odd:
        out[where : where + 4] = size.to_bytes(4, "little")
    return bytes(out)

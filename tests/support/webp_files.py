"""WebP files as ComfyUI's nodes write them, and the way its frontend reads them."""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image


def odd_webp(prompt: dict[str, Any]) -> bytes:
    """Return a WebP with the prompt in its EXIF, behind a chunk of odd length: the frontend does not find it."""
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0110] = f"prompt:{json.dumps(prompt)}"
    image = Image.new("RGBA", (2, 3))
    image.putdata([(37 * n % 256, 11 * n, n * n, 99 * n % 256) for n in range(6)])
    for width in range(2, 12):
        image.resize((width, 3)).save(out, "WEBP", lossless=True, exif=exif)
        if odd_chunks(out.getvalue()):
            return out.getvalue()
        out = io.BytesIO()
    raise AssertionError("no picture has a chunk of odd length")


def odd_chunks(webp: bytes) -> list[bytes]:
    """Return the kinds of the chunks of odd length before the EXIF chunk."""
    found, at = [], 12
    while at + 8 <= len(webp) and webp[at : at + 4] != b"EXIF":
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        found += [webp[at : at + 4]] * (size % 2)
        at += 8 + size + size % 2
    return found


def as_the_frontend_reads(webp: bytes) -> dict[str, str]:
    """ComfyUI's getWebpMetadata and parseExifData (frontend 1.27), line by line: no padding, tags of type 2 only."""
    texts, at = {}, 12
    while at < len(webp):
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        if webp[at : at + 4] == b"EXIF":
            if webp[at + 8 : at + 14] == b"Exif\0\0":
                at += 6
            exif = webp[at + 8 : at + 8 + size]
            order = "little" if exif[:2] == b"II" else "big"
            start = int.from_bytes(exif[4:8], order)
            for number in range(int.from_bytes(exif[start : start + 2], order)):
                entry = exif[start + 2 + number * 12 :][:12]
                kind, count, offset = (int.from_bytes(entry[a:b], order) for a, b in ((2, 4), (4, 8), (8, 12)))
                if kind == 2:
                    name, _, text = exif[offset : offset + count - 1].decode().partition(":")
                    texts[name] = text
            break
        at += 8 + size
    return texts

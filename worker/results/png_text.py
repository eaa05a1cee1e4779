"""The texts inside a PNG (prompt, workflow): read, and replaced without touching a pixel. Pure.

ComfyUI writes ``tEXt`` chunks, and ``comf`` ones into animated PNGs; its frontend reads these two and ``iTXt``.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"comf")
PICTURE_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP pHYs sBIT bKGD hIST tIME sPLT acTL fcTL fdAT".split()
)
MAX_TEXT_BYTES = 64 << 20  # of a decompressed chunk: a compressed one may be a bomb


class NotPngError(ValueError):
    """The bytes are not a whole PNG."""


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    """Of the data; length and kind are the 8 bytes before it, the checksum the 4 after it."""
    length: int


def read_texts(png: bytes) -> dict[str, str]:
    """Return every text by its keyword. Raises :class:`NotPngError`."""
    found = (_text(png, chunk) for chunk in _chunks(png) if chunk.kind in TEXT_CHUNKS)
    return dict(text for text in found if text)


def replace_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Return the same image with these texts in place of all JSON ones; plain ones (``parameters``) stay.

    Raises:
        NotPngError: it is no whole PNG.
        ValueError: a keyword that PNG cannot have.
    """
    animated = any(chunk.kind == b"comf" for chunk in _chunks(png))
    pieces = [SIGNATURE]
    new = b"".join(_chunk(keyword, text, b"comf" if animated else b"tEXt") for keyword, text in texts.items())
    for chunk in _chunks(png):
        if chunk.kind in TEXT_CHUNKS and ((text := _text(png, chunk)) is None or _is_json(text[1])):
            continue
        if chunk.kind == (b"IEND" if animated else b"IDAT"):  # where ComfyUI puts them
            pieces.append(new)
            new = b""
        pieces.append(png[chunk.start - 8 : chunk.start + chunk.length + 4])
    return b"".join(pieces)


def replaces_everything(png: bytes) -> bool:
    """Return True if :func:`replace_texts` leaves no trace of the old prompt: no other text, no EXIF, no rest."""
    try:
        chunks = list(_chunks(png))
    except NotPngError:
        return False
    rest = [chunk for chunk in chunks if chunk.kind not in PICTURE_CHUNKS]
    texts = [_text(png, chunk) if chunk.kind in TEXT_CHUNKS else None for chunk in rest]
    return all(text is not None and _is_json(text[1]) for text in texts)


def texts_to_write(png: bytes, wanted: Mapping[str, Any]) -> dict[str, str] | None:
    """Return this job's texts if the PNG carries another job's (it came from ComfyUI's cache), else None.

    A PNG without a prompt (``--disable-metadata``) needs none.

    Args:
        png: as ComfyUI wrote it.
        wanted: this job's ``prompt`` and the contents of its ``extra_pnginfo``.
    """
    carried = {keyword: json.loads(text) for keyword, text in read_texts(png).items() if _is_json(text)}
    if "prompt" not in carried or {**carried, "prompt": _as_sent(carried["prompt"])} == dict(wanted):
        return None
    return {keyword: json.dumps(value) for keyword, value in wanted.items()}


def _as_sent(prompt: Any) -> Any:
    """Return the prompt without ComfyUI's additions at run time."""
    if not isinstance(prompt, dict):
        return prompt
    nodes = {key: node if isinstance(node, dict) else {} for key, node in prompt.items()}
    return {key: {name: value for name, value in node.items() if name != "is_changed"} for key, node in nodes.items()}


def _chunks(png: bytes) -> Iterator[_Chunk]:
    if not png.startswith(SIGNATURE):
        raise NotPngError("no PNG signature")
    at = len(SIGNATURE)
    while at + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if at + 12 + length > len(png):
            break
        yield _Chunk(kind, at + 8, length)
        if kind == b"IEND":
            return
        at += 12 + length
    raise NotPngError("it is cut short")


def _text(png: bytes, chunk: _Chunk) -> tuple[str, str] | None:
    """Return keyword and text of a text chunk; None if it cannot be read."""
    keyword, zero, rest = png[chunk.start : chunk.start + chunk.length].partition(b"\0")
    if not zero:
        return None
    try:
        if chunk.kind == b"zTXt":
            return keyword.decode("latin-1"), _inflate(rest[1:]).decode("latin-1")
        if chunk.kind == b"iTXt":
            _, _, text = rest[2:].split(b"\0", 2)
            return keyword.decode("latin-1"), (_inflate(text) if rest[0] else text).decode()
        return keyword.decode("latin-1"), rest.decode("latin-1")
    except (zlib.error, ValueError, IndexError):
        return None


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, MAX_TEXT_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError("decompresses to more than a text has")
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _chunk(keyword: str, text: str, kind: bytes) -> bytes:
    name = keyword.encode("latin-1")
    if not 1 <= len(name) <= 79 or b"\0" in name:
        raise ValueError(f"{keyword[:80]!r} cannot be a PNG keyword")
    data = name + b"\0" + text.encode("ascii")  # json.dumps escapes everything else
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""The check of a safetensors file by its header alone (under 1 ms for a model of any size).

The format: 8 bytes little-endian N, N bytes of JSON, then the tensors; the JSON has each tensor's first and last byte
(github.com/huggingface/safetensors, README "Format"). Only a hash finds wrong bytes inside the tensors.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (safetensors/src/tensor.rs, ``MAX_HEADER_SIZE``)."""
MAX_TENSORS = 1_000_000

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"I64": 64, "U64": 64, "F64": 64, "C64": 64}
"""Bits of one element. Other types are newer than this table, and are not checked against their shapes."""

_OTHERS = (
    (b"PK\x03\x04", "a zip archive or a PyTorch pickle"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
    (b"<", "a web page or XML"),
    (b"{", "JSON text"),
    (b"\x1f\x8b", "a gzip archive"),
)
UNSAFE = (_OTHERS[0][1], _OTHERS[1][1])
"""Answers of :func:`looks_like` for contents that can run code when loaded."""


class SafetensorsError(ValueError):
    """The file is not a whole safetensors file; the message is the reason, a predicate of the file."""


def looks_like(head: bytes) -> str | None:
    """Return what kind of file begins like this; None when it may be safetensors.

    Args:
        head: the first 9 bytes or more.
    """
    length = int.from_bytes(head[:8], "little") if len(head) >= 9 else 0
    if 2 <= length <= MAX_HEADER_BYTES and head[8:9] == b"{":
        return None
    text = head.lstrip()
    for magic, name in _OTHERS:
        if text.startswith(magic):
            return name
    return "something other than safetensors"


def check_safetensors(path: Path, size: int | None = None) -> None:
    """Check that the file is safetensors of exactly the length that its header gives.

    Raises:
        SafetensorsError: it is not.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if size is None else size
        start = file.read(8)
        if len(start) < 8:
            raise SafetensorsError(f"has only {size} bytes")
        (length,) = struct.unpack("<Q", start)
        kind = looks_like(start + file.read(504))
        if kind:
            raise SafetensorsError(f"is {kind}")
        if 8 + length > size:
            raise SafetensorsError(f"ends inside its header, at byte {size}")
        file.seek(8)
        header = _parse(file.read(length))
    end = _end(header, size - 8 - length)
    if 8 + length + end != size:
        raise SafetensorsError(f"has {size} bytes where its header gives {8 + length + end}")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise SafetensorsError("has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise SafetensorsError("has a header that is not a JSON object")
    if len(header) > MAX_TENSORS:
        raise SafetensorsError(f"lists more than {MAX_TENSORS} tensors")
    return header


def _end(header: dict[str, Any], room: int) -> int:
    """Return the bytes of tensors that the header describes. Check each entry against its own shape."""
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, stop = tensor["data_offsets"]
            shape, dtype = tensor["shape"], tensor["dtype"]
            valid = all(isinstance(n, int) and n >= 0 for n in (begin, stop, *shape))
        except (TypeError, KeyError, ValueError):
            valid = False
        if not valid or begin > stop:
            raise SafetensorsError("has a header that describes a tensor wrongly")
        bits = _BITS.get(dtype) if isinstance(dtype, str) else None
        if bits is not None and _elements(shape, (stop - begin) * 8) * bits != (stop - begin) * 8:
            raise SafetensorsError("has a tensor whose shape does not fit its bytes")
        end = max(end, stop)
        if end > room:
            raise SafetensorsError(f"is cut short: {end - room} bytes are missing")
    return end


def _elements(shape: list[int], most: int) -> int:
    """Return the product of a shape, or some number over ``most`` when it is larger.

    A hostile header's whole product would take hours.
    """
    if 0 in shape:
        return 0
    count = 1
    for length in shape:
        count *= length
        if count > most:
            break
    return count

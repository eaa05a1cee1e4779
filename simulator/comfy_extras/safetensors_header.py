"""The header of a safetensors file, with the errors of the `safetensors` library (0.8) for a broken one."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

_MAX_HEADER = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class SafetensorError(Exception):
    """The library's error."""


SafetensorError.__module__ = "safetensors._safetensors_rust"


def read_header(path: str) -> dict[str, Any]:
    """Return the header of a valid file: only it is read, and compared with the file's size."""
    with Path(path).open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _broken("header too small")
        length = struct.unpack("<Q", prefix)[0]
        if length > _MAX_HEADER:
            raise _broken("header too large")
        size = Path(path).stat().st_size
        if 8 + length > size:
            raise _broken("invalid header length")
        header = _parse(file.read(length))
    _check_tensors(header, size - 8 - length)
    return header


def _broken(what: str) -> SafetensorError:
    return SafetensorError(f"Error while deserializing header: {what}")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"invalid UTF-8 in header: invalid utf-8 sequence of 1 bytes from index {error.start}"
        raise _broken(message) from None
    except json.JSONDecodeError as error:
        raise _broken(f"invalid JSON in header: {error.msg} at line {error.lineno} column {error.colno}") from None
    if not isinstance(header, dict):
        raise _broken("invalid JSON in header: invalid type, expected struct HashMetadata at line 1 column 0")
    return header


def _check_tensors(header: dict[str, Any], available: int) -> None:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        ordered = sorted(tensors.items(), key=lambda item: item[1]["data_offsets"])
        end = 0
        for name, entry in ordered:
            start, stop = entry["data_offsets"]
            if start != end or stop < start:
                raise _broken(f"invalid offset for tensor `{name}`")
            if math.prod(entry["shape"]) * _BITS[entry["dtype"]] != (stop - start) * 8:
                raise _broken("invalid shape, data type, or offset for tensor")
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(f"invalid JSON in header: {error}") from None
    if end != available:
        raise _broken("incomplete metadata, file not fully covered")

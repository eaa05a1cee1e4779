"""Small valid safetensors contents, of any size and different for each seed."""

from __future__ import annotations

import hashlib
import json
import struct


def safetensors_bytes(size: int = 4096, seed: str = "model") -> bytes:
    """A safetensors file of exactly ``size`` bytes (128 or more): one U8 tensor, its bytes decided by ``seed``."""
    header_bytes = 120
    body = size - 8 - header_bytes
    header = {"weight": {"dtype": "U8", "shape": [body], "data_offsets": [0, body]}}
    text = json.dumps(header, separators=(",", ":")).encode().ljust(header_bytes)
    if body < 0 or len(text) != header_bytes:
        raise ValueError(f"{size} bytes can not be made into a safetensors file")
    return struct.pack("<Q", header_bytes) + text + noise(body, seed)


def noise(size: int, seed: str) -> bytes:
    """Bytes that look random, the same each time for one seed."""
    return hashlib.shake_128(seed.encode()).digest(size)


def header_only(header: object, body: bytes = b"") -> bytes:
    """A safetensors file with this JSON as its header, valid or not."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body

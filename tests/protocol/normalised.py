"""Takes out of an exchange what differs from run to run, so that the rest can be compared as it is."""

from __future__ import annotations

import base64
import re
from typing import Any

# Values of which only the kind is fixed.
_KIND_ONLY = {"timestamp", "number", "traceback"}
_UNORDERED = {"current_outputs", "executed"}


def normalised(value: Any, names: dict[str, str], key: str = "") -> Any:
    """The same value with ids under stable names, and volatile parts by their kind. `names` maps id to name."""
    if key in _KIND_ONLY:
        return type(value).__name__
    if isinstance(value, dict):
        return {names.get(k, k): normalised(v, names, k) for k, v in value.items()}
    if isinstance(value, list):
        items = [normalised(one, names) for one in value]
        if key == "prompt" and len(items) == 5:
            items[0] = "number"
        return sorted(items) if key in _UNORDERED else _without_candidates(items, key)
    if isinstance(value, str):
        return _text(value, names)
    return value


def _without_candidates(items: list[Any], key: str) -> list[Any]:
    """An input's config with the names of this machine's models left out."""
    is_choice = key == "input_config" and items and isinstance(items[0], list)
    return ["names of files", *items[1:]] if is_choice else items


def _text(text: str, names: dict[str, str]) -> str:
    if text in names:
        return names[text]
    text = re.sub(r"_\d{5}_\.png", "_NUMBER_.png", text)
    text = re.sub(r"_temp_[a-z]{5}_", "_temp_RANDOM_", text)
    text = re.sub(r"'[^']*/broken\.png'", "'broken.png'", text)
    text = re.sub(r" not in \[.*\]$", " not in NAMES", text)
    return re.sub(r"^<[1-9]\d* bytes>$", "<bytes>", text)


def recorded_frame(frame: dict[str, Any], names: dict[str, str]) -> Any:
    if "binary" in frame:
        return _binary(base64.b64decode(frame["binary"]["first_64_b64"]))
    return normalised(frame["text"], names)


def received_frame(frame: Any, names: dict[str, str]) -> Any:
    return _binary(frame) if isinstance(frame, bytes) else normalised(frame, names)


def _binary(frame: bytes) -> str:
    return f"binary {frame[:8].hex()} {'JPEG' if frame[8:11] == bytes.fromhex('ffd8ff') else frame[8:11].hex()}"


def steps_folded(frames: list[Any]) -> list[Any]:
    """Any number of a sampler's steps as one: how many it takes before an interrupt is chance."""
    folded: list[Any] = []
    for frame in frames:
        kind = "binary" if isinstance(frame, str) else frame["type"]
        is_step = kind in {"binary", "progress"} or (kind == "progress_state" and _mid_step(frame))
        entry = "steps" if is_step else frame
        if not folded or entry != "steps" or folded[-1] != "steps":
            folded.append(entry)
    return folded


def _mid_step(frame: dict[str, Any]) -> bool:
    return any(one["state"] == "running" and one["max"] > 1 for one in frame["data"]["nodes"].values())

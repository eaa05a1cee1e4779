"""A pack for the local simulator: ComfyUI's output nodes for films, sounds and texts, as its page must know them.

They have the inputs of ComfyUI 0.3.64 and run nowhere: a remote worker's answer is shown in them.
"""

from __future__ import annotations

from typing import Any

_PREFIX = ("STRING", {"default": "ComfyUI"})
_INPUTS: dict[str, dict[str, Any]] = {
    "SaveVideo": {
        "video": ("VIDEO",), "filename_prefix": _PREFIX, "format": (["auto", "mp4"],), "codec": (["auto", "h264"],),
    },
    "SaveWEBM": {
        "images": ("IMAGE",), "filename_prefix": _PREFIX, "codec": (["vp9", "av1"],),
        "fps": ("FLOAT", {"default": 24.0}), "crf": ("FLOAT", {"default": 32.0}),
    },
    "SaveAnimatedWEBP": {
        "images": ("IMAGE",), "filename_prefix": _PREFIX, "fps": ("FLOAT", {"default": 6.0}),
        "lossless": ("BOOLEAN", {"default": True}), "quality": ("INT", {"default": 80}), "method": (["default"],),
    },
    "SaveAudio": {"audio": ("AUDIO",), "filename_prefix": _PREFIX},
    "PreviewAudio": {"audio": ("AUDIO",)},
    "PreviewAny": {"source": ("*", {})},
}  # fmt: skip


class _Shown:
    """The base of them all."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "output", "give", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": _INPUTS[cls.__name__]}

    def give(self, **_: Any) -> tuple[()]:
        return ()


NODE_CLASS_MAPPINGS = {name: type(name, (_Shown,), {}) for name in _INPUTS}

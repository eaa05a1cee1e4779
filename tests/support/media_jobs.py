"""Jobs that save every kind of file there is, and what tests ask of their answers."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import struct
import wave
from typing import Any

import pytest

from tests.support.live_worker import LiveWorker
from tests.support.runner_bench import node
from tests.support.saved_texts import carried


def moving(**save: Any) -> dict[str, Any]:
    """Three frames of two colours, and a node that saves them."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=2, color=0xFF0000),
        "2": node("EmptyImage", width=64, height=64, batch_size=1, color=0x0000FF),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "9": node(**save),
    }


def tone(seconds: float = 0.5, rate: int = 24000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        samples = (int(9000 * math.sin(i * 0.2)) for i in range(int(seconds * rate)))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()


def sent(name: str, data: bytes) -> dict[str, str]:
    return {"name": name, "b64": base64.b64encode(data).decode()}


SOUND = {"1": node("LoadAudio", audio="tone.wav")}
VIDEO = {"4": node("CreateVideo", images=["3", 0], fps=8.0)}
STILLS = {
    "webp": moving(
        class_type="SaveAnimatedWEBP", images=["3", 0], filename_prefix="moving/a", fps=6.0, lossless=True, quality=80,
        method="default",
    ),
    "png": moving(
        class_type="SaveAnimatedPNG", images=["3", 0], filename_prefix="moving/a", fps=6.0, compress_level=4
    ),
    "latent": {
        "1": node("EmptyLatentImage", width=64, height=32, batch_size=1),
        "9": node("SaveLatent", samples=["1", 0], filename_prefix="latents/a"),
    },
    "note": {"1": node("Costly", text="a"), "9": node("SaveNote", text=["1", 0])},
}  # fmt: skip
STREAMS = {
    "mp4": {
        **moving(class_type="SaveVideo", video=["4", 0], filename_prefix="video/a", format="auto", codec="auto"),
        **VIDEO,
    },
    "webm": moving(class_type="SaveWEBM", images=["3", 0], filename_prefix="a", codec="vp9", fps=8.0, crf=32.0),
    "flac": {**SOUND, "9": node("SaveAudio", audio=["1", 0], filename_prefix="audio/a")},
    "mp3": {**SOUND, "9": node("SaveAudioMP3", audio=["1", 0], filename_prefix="audio/a", quality="128k")},
    "opus": {**SOUND, "9": node("SaveAudioOpus", audio=["1", 0], filename_prefix="audio/a", quality="64k")},
}
KINDS = {
    "webp": "image/webp", "png": "image/png", "latent": "application/octet-stream", "note": "application/octet-stream",
    "mp4": "video/mp4", "webm": "video/webm", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg",
}  # fmt: skip
REAL = [pytest.param("comfyui", marks=pytest.mark.real_comfyui)] if "COMFYUI_PATH" in os.environ else []
"""The real ComfyUI, where there is one, as a parameter for the fixture ``live``: it alone has video and sound."""
EVERY = [
    *(("simulator", kind) for kind in STILLS),
    *(pytest.param(*real.values, kind, marks=real.marks) for real in REAL for kind in KINDS),
]
"""Every engine with every kind of file that it saves."""


def job(kind: str, workflow: Any = None) -> dict[str, Any]:
    extra = {} if workflow is None else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    files = {"files": [sent("tone.wav", tone())]} if "tone.wav" in json.dumps(STREAMS.get(kind)) else {}
    return {"prompt": {**STILLS, **STREAMS}[kind], **files, **extra}


def only(answer: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    (entry,) = [*answer["images"], *answer["files"]]
    data = base64.b64decode(entry["b64"])
    assert len(data) == entry["bytes"]
    return entry, data


def texts(live: LiveWorker, entry: dict[str, Any], data: bytes) -> dict[str, Any]:
    return json.loads(data) if entry["filename"].endswith(".note") else carried(data, entry["filename"], live.python)

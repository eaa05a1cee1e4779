"""What a saved file carries, read by somebody else's code where there is some: PIL, and av from ComfyUI's venv."""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from worker.results.convert import carried_texts

_WITH_AV = """
import av, json, sys
with av.open(sys.argv[1]) as file:
    texts = dict(file.metadata)
    for stream in file.streams:
        texts.update(stream.metadata)
    decoded = {stream.type: 0 for stream in file.streams}
    for packet in file.demux():
        for frame in packet.decode():
            decoded[packet.stream.type] += frame.samples / frame.sample_rate if packet.stream.type == "audio" else 1
print(json.dumps({"texts": texts, "decoded": decoded}))
"""


def carried(data: bytes, filename: str, python: str) -> dict[str, Any]:
    """Every text of ComfyUI's in a file that opens, as JSON says it, by its name in small letters.

    Args:
        data: the file's bytes.
        filename: its name, whose ending says how to open it.
        python: an interpreter that has av.
    """
    if filename.endswith((".png", ".webp")):
        with Image.open(io.BytesIO(data)) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                image.load()
            texts = carried_texts(image, data)
    elif filename.endswith(".latent"):
        texts = latent_header(data)["__metadata__"]
    else:
        texts = _with_av(data, filename, python)["texts"]
    return {name.lower(): json.loads(text) for name, text in texts.items() if text.startswith(("{", "["))}


def latent_header(data: bytes) -> dict[str, Any]:
    """The header of a safetensors file whose length is right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    assert len(data) == 8 + length + max(ends)
    return dict(header)


def decoded(data: bytes, filename: str, python: str) -> dict[str, float]:
    """What a video or a sound decodes to: how many frames of video, how many seconds of audio."""
    return dict(_with_av(data, filename, python)["decoded"])


def _with_av(data: bytes, filename: str, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, filename)
        path.write_bytes(data)
        done = subprocess.run([python, "-c", _WITH_AV, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))

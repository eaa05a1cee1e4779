"""Loaders: broken files fail as in ComfyUI, LoRAs change the picture."""

from __future__ import annotations

import json
import struct

import pytest

from tests.simulator.support import pictures, sampling
from tests.support.prompts import node
from tests.support.simulator_process import Engine

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty", b"", "header too small"),
        ("html", b"<!DOCTYPE html><html></html>", "header too large"),
        ("cut", struct.pack("<Q", len(HEADER)) + HEADER + b"1234", "incomplete metadata, file not fully covered"),
        ("short", struct.pack("<Q", 1000) + b"{}", "invalid header length"),
    ],
)
def test_a_loader_fails_on_a_broken_file_in_the_librarys_words(
    engine: Engine, name: str, data: bytes, message: str
) -> None:
    engine.add_model("checkpoints", f"{name}.safetensors", data)
    error = engine.run(sampling(ckpt=f"{name}.safetensors")).of("execution_error")[0]
    assert error["exception_message"] == f"Error while deserializing header: {message}\n"
    assert error["exception_type"] == "safetensors._safetensors_rust.SafetensorError"
    assert error["node_type"] == "CheckpointLoaderSimple"


def test_a_lora_changes_the_picture_unless_its_strength_is_nothing(engine: Engine) -> None:
    engine.add_model("loras", "style.safetensors")

    def drawn(strength: float) -> bytes:
        lora = node(
            "LoraLoader",
            model=["4", 0],
            clip=["4", 1],
            lora_name="style.safetensors",
            strength_model=strength,
            strength_clip=strength,
        )
        prompt = sampling()
        prompt["3"]["inputs"]["model"] = ["1", 0]
        return pictures(engine, {**prompt, "1": lora})[0].tobytes()

    assert drawn(0) == pictures(engine, sampling())[0].tobytes()
    assert drawn(1) != drawn(0)

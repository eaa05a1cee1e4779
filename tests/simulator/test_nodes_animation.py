"""Moving pictures: every frame, the time of each, and the prompt where ComfyUI puts it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.simulator.support import empty
from tests.support.prompts import node
from tests.support.simulator_process import Engine

COMMON = {"images": ["3", 0], "filename_prefix": "a", "fps": 10.0}
WEBP = node("SaveAnimatedWEBP", **COMMON, lossless=True, quality=80, method="default")
PNG = node("SaveAnimatedPNG", **COMMON, compress_level=4)


@pytest.mark.parametrize("save", [WEBP, PNG])
def test_an_animation_has_all_frames_their_time_and_the_prompt(engine: Engine, save: dict) -> None:
    nodes = {"1": empty(color=0xFF0000), "2": empty(color=0x0000FF)}
    prompt = {**nodes, "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]), "4": save}
    output = engine.run(prompt).history["outputs"]["4"]
    assert output["animated"] == [True]
    path = engine.output / output["images"][0]["filename"]
    colours = []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            colours.append(image.convert("RGB").getpixel((5, 5)))
            assert image.info["duration"] == 100
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert json.dumps(prompt).encode() in path.read_bytes()

"""Latents on disk: one that was saved has the size and the colours of its picture when it is loaded."""

from __future__ import annotations

import json

from tests.simulator.support import empty, picture
from tests.support.prompts import node
from tests.support.simulator_process import CHECKPOINT, Engine


def test_a_saved_latent_is_loaded_with_its_colours_and_carries_its_prompt(engine: Engine) -> None:
    models = {"4": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    encoded = {"1": empty(64, 32, 0xFF8000), "2": node("VAEEncode", pixels=["1", 0], vae=["4", 2])}
    prompt = {**models, **encoded, "3": node("SaveLatent", samples=["2", 0], filename_prefix="kept")}
    entry = engine.run(prompt).history["outputs"]["3"]["latents"][0]
    data = (engine.output / entry["filename"]).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["prompt"]) == prompt
    (engine.input / entry["filename"]).write_bytes(data)

    loaded = {**models, "1": node("LoadLatent", latent=entry["filename"])}
    image = picture(engine, node("VAEDecode", samples=["1", 0], vae=["4", 2]), **loaded)
    assert (image.size, image.getpixel((30, 15))) == ((64, 32), (0xFF, 0x80, 0))

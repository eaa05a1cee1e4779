"""Nodes that load and save pictures: channels, transparency, metadata, folders."""

from __future__ import annotations

import json

from PIL import Image

from tests.simulator.support import empty, picture, pictures, save, upload
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_loading_a_picture_splits_off_its_transparency(engine: Engine) -> None:
    upload(engine, "half.png", Image.new("RGBA", (20, 10), (10, 20, 30, 64)))
    nodes = {"1": node("LoadImage", image="half.png"), "2": node("MaskToImage", mask=["1", 1])}
    image, mask = pictures(engine, {**nodes, "3": save("1"), "4": save("2", prefix="mask")})
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (10, 20, 30))
    assert mask.getpixel((0, 0)) == (191, 191, 191)


def test_loading_a_mask_takes_the_channel_it_names(engine: Engine) -> None:
    upload(engine, "channels.png", Image.new("RGBA", (8, 8), (10, 20, 30, 40)))
    values = []
    for channel in ("red", "green", "blue", "alpha"):
        load = node("LoadImageMask", image="channels.png", channel=channel)
        values.append(picture(engine, node("MaskToImage", mask=["1", 0]), **{"1": load}).getpixel((0, 0))[0])
    assert values == [10, 20, 30, 215]


def test_an_output_can_be_loaded_again(engine: Engine) -> None:
    name = engine.run({"1": empty(12, 12), "2": save("1", prefix="again")}).images[0]["filename"]
    assert picture(engine, node("LoadImageOutput", image=f"{name} [output]")).size == (12, 12)


def test_a_saved_picture_carries_its_prompt_and_workflow(engine: Engine) -> None:
    prompt = {"1": empty(color=77), "2": save("1")}
    extra = {"extra_pnginfo": {"workflow": {"nodes": ["ü"]}, "more": 1}}
    image = pictures(engine, prompt, extra_data=extra)[0]
    assert json.loads(image.text["prompt"]) == prompt
    assert (json.loads(image.text["workflow"]), image.text["more"]) == ({"nodes": ["ü"]}, "1")


def test_a_preview_goes_to_the_temp_folder_under_a_random_name(engine: Engine) -> None:
    image = engine.run({"1": empty(), "2": node("PreviewImage", images=["1", 0])}).images[0]
    assert image["type"] == "temp"
    assert (engine.temp_parent / "temp" / image["filename"]).exists()

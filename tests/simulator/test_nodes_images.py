"""Nodes that make and change pictures."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.simulator.support import empty, picture, pictures, save, upload
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_an_empty_image_has_its_colour_and_size(engine: Engine) -> None:
    image = picture(engine, empty(40, 24, 0x112233))
    assert (image.size, image.getpixel((0, 0))) == ((40, 24), (0x11, 0x22, 0x33))


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_scaling_keeps_the_aspect_when_one_side_is_open(engine: Engine, method: str) -> None:
    scale = node("ImageScale", image=["1", 0], upscale_method=method, width=32, height=0, crop="disabled")
    assert picture(engine, scale, **{"1": empty(64, 48)}).size == (32, 24)


def test_scaling_by_a_factor(engine: Engine) -> None:
    scale = node("ImageScaleBy", image=["1", 0], upscale_method="bilinear", scale_by=0.5)
    assert picture(engine, scale, **{"1": empty(64, 48)}).size == (32, 24)


def test_scaling_with_a_centred_crop_does_not_squeeze(engine: Engine) -> None:
    striped = Image.new("RGB", (90, 30), "red")
    striped.paste("blue", (30, 0, 60, 30))
    upload(engine, "stripes.png", striped)
    scale = node("ImageScale", image=["1", 0], upscale_method="nearest-exact", width=30, height=30, crop="center")
    image = picture(engine, scale, **{"1": node("LoadImage", image="stripes.png")})
    assert image.getcolors() == [(900, (0, 0, 255))]


def test_inverting(engine: Engine) -> None:
    image = picture(engine, node("ImageInvert", image=["1", 0]), **{"1": empty(color=0xFF0010)})
    assert image.getpixel((5, 5)) == (0, 255, 239)


def test_a_batch_takes_the_size_of_its_first(engine: Engine) -> None:
    nodes = {
        "1": empty(64, 32),
        "2": empty(16, 16, 0xFFFFFF),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
    }
    assert [one.size for one in pictures(engine, {**nodes, "4": save("3")})] == [(64, 32), (64, 32)]


def test_cropping_stays_inside(engine: Engine) -> None:
    crop = node("ImageCrop", image=["1", 0], width=50, height=10, x=40, y=60)
    assert picture(engine, crop, **{"1": empty(64, 64)}).size == (24, 4)


def test_compositing_with_and_without_a_mask(engine: Engine) -> None:
    base = {
        "1": empty(64, 64, 0x000000),
        "2": empty(16, 16, 0xFFFFFF),
        "3": node("SolidMask", value=0.5, width=8, height=8),
    }
    inputs = {"destination": ["1", 0], "source": ["2", 0], "x": 8, "y": 8, "resize_source": False}
    plain = picture(engine, node("ImageCompositeMasked", **inputs), **base)
    masked = picture(engine, node("ImageCompositeMasked", **inputs, mask=["3", 0]), **base)
    assert [plain.getpixel(at) for at in ((7, 7), (8, 8), (23, 23), (24, 24))] == [
        (0,) * 3,
        (255,) * 3,
        (255,) * 3,
        (0,) * 3,
    ]
    assert masked.getpixel((10, 10)) == (128, 128, 128)


def test_padding_for_outpainting_masks_what_is_new(engine: Engine) -> None:
    pad = node("ImagePadForOutpaint", image=["1", 0], left=16, top=0, right=0, bottom=8, feathering=0)
    nodes = {"1": empty(32, 32, 0xFF0000), "2": pad, "3": node("MaskToImage", mask=["2", 1])}
    image, mask = pictures(engine, {**nodes, "4": save("2"), "5": save("3", prefix="mask")})
    assert (image.size, image.getpixel((0, 0)), image.getpixel((20, 5))) == ((48, 40), (128,) * 3, (255, 0, 0))
    assert [mask.getpixel(at) for at in ((0, 0), (20, 5), (20, 35))] == [(255,) * 3, (0,) * 3, (255,) * 3]

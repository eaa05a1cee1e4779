"""Conversions between masks and pictures, and the primitives."""

from __future__ import annotations

import pytest

from tests.simulator.support import empty, picture
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_a_mask_takes_one_channel_of_a_picture_and_can_be_inverted(engine: Engine) -> None:
    nodes = {"1": empty(color=0x102030), "2": node("ImageToMask", image=["1", 0], channel="green")}
    assert picture(engine, node("MaskToImage", mask=["2", 0]), **nodes).getpixel((0, 0)) == (0x20,) * 3
    nodes["3"] = node("InvertMask", mask=["2", 0])
    assert picture(engine, node("MaskToImage", mask=["3", 0]), **nodes).getpixel((0, 0)) == (0xFF - 0x20,) * 3


@pytest.mark.parametrize(("value", "grey"), [(0.0, 0), (0.5, 128), (1.0, 255)])
def test_a_solid_mask_has_its_value_and_size(engine: Engine, value: float, grey: int) -> None:
    mask = {"1": node("SolidMask", value=value, width=24, height=8)}
    image = picture(engine, node("MaskToImage", mask=["1", 0]), **mask)
    assert (image.size, image.getpixel((23, 7))) == ((24, 8), (grey,) * 3)


def test_a_primitive_passes_its_value_on(engine: Engine) -> None:
    size = {"1": node("PrimitiveInt", value=48)}
    image = node("EmptyImage", width=["1", 0], height=16, batch_size=1, color=0)
    assert picture(engine, image, **size).size == (48, 16)

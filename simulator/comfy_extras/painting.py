"""Drawn pictures in place of a diffusion model's: fast, and the same for the same recipe."""

from __future__ import annotations

import colorsys
import hashlib
import random

from PIL import Image, ImageDraw

_CORNERS = 3


def paint(recipe: str, palette: str, size: tuple[int, int]) -> Image.Image:
    """Draw a soft gradient with translucent shapes: colours from the palette's text, the rest from the recipe."""
    colours = _colours(palette)
    dice = random.Random(hashlib.sha256(recipe.encode()).digest())
    ground = Image.new("RGB", (_CORNERS, _CORNERS))
    ground.putdata([_nudged(dice.choice(colours), dice) for _ in range(_CORNERS**2)])
    picture = ground.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(dice.randint(5, 9)):
        _draw_shape(draw, dice, colours, size)
    return picture


def _colours(palette: str) -> list[tuple[int, int, int]]:
    dice = random.Random(hashlib.sha256(palette.encode()).digest())
    hue = dice.random()
    tones = [
        (hue + dice.choice((0.0, 0.04, 0.08, 0.45, 0.5)), dice.uniform(0.35, 0.8), dice.uniform(0.5, 1.0))
        for _ in range(5)
    ]
    return [_rgb(*tone) for tone in tones]


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _nudged(colour: tuple[int, int, int], dice: random.Random) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, part + dice.randint(-24, 24))) for part in colour)
    return red, green, blue


def _draw_shape(
    draw: ImageDraw.ImageDraw, dice: random.Random, colours: list[tuple[int, int, int]], size: tuple[int, int]
) -> None:
    width, height = size
    x, y, reach = dice.uniform(0, width), dice.uniform(0, height), dice.uniform(0.06, 0.3) * min(size)
    fill = (*dice.choice(colours), dice.randint(60, 150))
    if dice.random() < 0.6:
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
    else:
        draw.regular_polygon((x, y, max(1.0, reach)), dice.randint(3, 6), rotation=dice.randint(0, 90), fill=fill)


def noisy(picture: Image.Image, done: float) -> Image.Image:
    """Return the picture part of the way through sampling: noise at 0, itself at 1."""
    grain = Image.merge("RGB", [Image.effect_noise(picture.size, 90) for _ in range(3)])
    return Image.blend(grain, picture, max(0.0, min(1.0, done)))

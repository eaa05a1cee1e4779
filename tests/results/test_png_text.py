"""A PNG's texts are read and replaced without touching a pixel."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.results.png_text import NotPngError, read_texts, replace_texts, texts_to_write

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}}


def png(texts: dict[str, str], packed: dict[str, str] | None = None) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    for name, text in (packed or {}).items():
        info.add_text(name, text, zip=True)
    info.add_itxt("Ünlesbar"[1:], '{"a": "ü"}', zip=True)
    out = io.BytesIO()
    Image.effect_noise((20, 10), 50).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_every_kind_of_text_is_read():
    found = read_texts(png({"prompt": "{}", "parameters": "a cat"}, {"workflow": '{"x": 1}'}))
    assert found == {"prompt": "{}", "parameters": "a cat", "workflow": '{"x": 1}', "nlesbar": '{"a": "ü"}'}


def test_texts_are_replaced_and_the_pixels_and_plain_texts_stay():
    before = png({"prompt": json.dumps(PROMPT), "workflow": '{"theirs": 1}', "parameters": "a cat"})
    after = replace_texts(before, {"prompt": '{"9": "\\u00fc"}', "workflow": '{"mine": 1}'})
    assert read_texts(after) == {"prompt": '{"9": "\\u00fc"}', "workflow": '{"mine": 1}', "parameters": "a cat"}
    opened = Image.open(io.BytesIO(after))
    assert opened.tobytes() == Image.open(io.BytesIO(before)).tobytes()  # and every checksum holds
    assert opened.text["workflow"] == '{"mine": 1}'
    assert b"theirs" not in after


def test_an_animated_png_keeps_comfyuis_own_chunks():
    info = PngInfo()
    info.add(b"comf", b'prompt\0{"theirs": 1}', after_idat=True)
    out = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(out, "PNG", pnginfo=info, save_all=True, append_images=frames[1:])
    after = replace_texts(out.getvalue(), {"prompt": '{"mine": 1}'})
    assert read_texts(after) == {"prompt": '{"mine": 1}'}
    assert b"comf" in after
    assert Image.open(io.BytesIO(after)).n_frames == 2


def test_only_another_jobs_texts_are_stale():
    carried = {"1": {**PROMPT["1"], "is_changed": ["x"]}}
    own = png({"prompt": json.dumps(carried), "workflow": '{"a": 1}'})
    own = replace_texts(own, {"prompt": json.dumps(carried), "workflow": '{"a": 1}'})
    assert texts_to_write(own, {"prompt": PROMPT, "workflow": {"a": 1}}) is None
    assert texts_to_write(own, {"prompt": PROMPT}) == {"prompt": json.dumps(PROMPT)}
    assert texts_to_write(own, {"prompt": PROMPT, "workflow": {"b": 2}}) is not None
    assert texts_to_write(replace_texts(own, {}), {"prompt": PROMPT}) is None  # --disable-metadata


@pytest.mark.parametrize("data", [b"", b"GIF89a", png({})[:-20], png({})[:30]])
def test_what_is_no_whole_png_is_said_to_be_none(data):
    with pytest.raises(NotPngError):
        read_texts(data)


def test_a_keyword_that_png_cannot_have_is_refused():
    with pytest.raises(ValueError):
        replace_texts(png({}), {"x" * 80: "1"})

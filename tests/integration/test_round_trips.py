"""Everything in and out of the assembled worker by the nodes people use, on every engine that has them."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.support.media_jobs import EVERY, KINDS, REAL, STREAMS, job, moving, only, sent, texts, tone
from tests.support.runner_bench import node
from tests.support.saved_texts import decoded, latent_header


@pytest.mark.parametrize(("live", "kind"), EVERY, indirect=["live"])
def test_what_a_node_saves_comes_back_opens_and_carries_the_jobs_workflow(live, kind):
    entry, data = only(live.run(**job(kind, {"first": kind})))
    assert entry["filename"].endswith(f".{kind}")
    assert (entry["media_type"], entry["node_id"], entry["type"]) == (KINDS[kind], "9", "output")
    assert texts(live, entry, data)["workflow"] == {"first": kind}
    assert texts(live, entry, data)["prompt"]["9"]["class_type"] == job(kind)["prompt"]["9"]["class_type"]
    if kind in ("mp4", "webm"):
        assert decoded(data, entry["filename"], live.python) == {"video": 3}
    elif kind in STREAMS:
        assert decoded(data, entry["filename"], live.python)["audio"] == pytest.approx(0.5, abs=0.06)


def picture(alpha: bool = False) -> bytes:
    """Red; the left half transparent, as the mask editor leaves what was painted."""
    image, out = Image.new("RGBA" if alpha else "RGB", (64, 32), "red"), io.BytesIO()
    if alpha:
        image.paste((255, 0, 0, 0), (0, 0, 32, 32))
    image.save(out, "PNG")
    return out.getvalue()


def pixels(entry: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The colours in the middle of the left and of the right half."""
    with Image.open(io.BytesIO(base64.b64decode(entry["b64"]))) as image:
        found = image.convert("RGB")
    return [found.getpixel((found.width // 4, found.height // 2)), found.getpixel((found.width * 3 // 4, 4))]


@pytest.mark.parametrize("name", ["masked.png", "clipspace/clipspace-painted-masked-1732473612345.png"])
@pytest.mark.parametrize("annotation", ["", " [input]"])
def test_a_picture_and_the_mask_painted_on_it_arrive_whatever_the_loader_calls_them(live, name, annotation):
    prompt = {
        "1": node("LoadImage", image=name + annotation),
        "2": node("LoadImageMask", image=name + annotation, channel="alpha"),
        "3": node("MaskToImage", mask=["1", 1]),
        "4": node("MaskToImage", mask=["2", 0]),
        **{str(n): node("SaveImage", images=[source, 0], filename_prefix="in") for n, source in enumerate("134", 10)},
    }
    answer = live.run(prompt=prompt, files=[sent(name, picture(alpha=True))])
    shown, mask, same_mask = answer["images"]
    assert pixels(shown) == [(255, 0, 0)] * 2
    assert pixels(mask) == pixels(same_mask) == [(255, 255, 255), (0, 0, 0)]


def test_a_saved_latent_is_loaded_again(live):
    _, latent = only(live.run(**job("latent")))
    again = {
        "1": node("LoadLatent", latent="mine.latent"),
        "9": node("SaveLatent", samples=["1", 0], filename_prefix="latents/again"),
    }
    _, data = only(live.run(prompt=again, files=[sent("mine.latent", latent)]))
    tensors = [{k: v for k, v in latent_header(each).items() if k != "__metadata__"} for each in (latent, data)]
    assert tensors[0] == tensors[1]
    assert tensors[0]["latent_tensor"]["shape"] == [1, 4, 4, 8]


@pytest.mark.parametrize("live", REAL, indirect=True)
@pytest.mark.parametrize("name", ["clip.mp4", "clips/of a holiday/clip.mp4"])
def test_a_video_arrives_and_comes_back_with_its_frames_and_this_jobs_workflow(live, name):
    _, video = only(live.run(**job("mp4", "where it was made")))
    prompt = {
        "1": node("LoadVideo", file=name),
        "2": node("SaveVideo", video=["1", 0], filename_prefix="again", format="auto", codec="auto"),
    }
    extra = {"extra_pnginfo": {"workflow": {"here": 1}}}
    entry, data = only(live.run(prompt=prompt, files=[sent(name, video)], extra_data=extra))
    assert decoded(data, entry["filename"], live.python) == {"video": 3}
    found = texts(live, entry, data)
    del found["prompt"]["1"]["is_changed"]  # ComfyUI's own note
    assert found == {"prompt": prompt, "workflow": {"here": 1}}


@pytest.mark.parametrize("live", REAL, indirect=True)
def test_a_sound_arrives_and_can_become_a_videos(live):
    prompt = {
        **moving(class_type="SaveVideo", video=["4", 0], filename_prefix="heard", format="auto", codec="auto"),
        "4": node("CreateVideo", images=["3", 0], fps=8.0, audio=["5", 0]),
        "5": node("LoadAudio", audio="sounds/tone.wav [input]"),
    }
    entry, data = only(live.run(prompt=prompt, files=[sent("sounds/tone.wav", tone())]))
    found = decoded(data, entry["filename"], live.python)
    assert found["video"] == 3
    assert found["audio"] == pytest.approx(3 / 8, abs=0.1)

"""Thumbnails of saved images: of images only, within their limits, and never waited for."""

from __future__ import annotations

import asyncio
import io
import os

import pytest
from PIL import Image

from worker.comfyui import thumbnails
from worker.comfyui.api import NoAnswerError
from worker.comfyui.progress import PREVIEW_LIMIT_BYTES, JobProgress
from worker.comfyui.thumbnails import MOST_OF_A_PROMPT, SIDE, Thumbnails, thumbnail
from worker.results.outputs import Output, OutputFile


def image_file(image: Image.Image, kind: str = "PNG") -> OutputFile:
    out = io.BytesIO()
    image.save(out, kind)
    return OutputFile(Output("9", f"a.{kind.lower()}", "", "output"), data=out.getvalue())


def opened(jpeg: bytes | None) -> Image.Image:
    assert jpeg is not None
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_large_image_keeps_its_shape(kind):
    assert opened(thumbnail(image_file(Image.new("RGB", (2048, 1024), "red"), kind))).size == (SIDE, SIDE // 2)


def test_a_small_image_stays_as_large_as_it_is():
    assert opened(thumbnail(image_file(Image.new("RGB", (20, 10))))).size == (20, 10)


def test_what_is_transparent_is_shown_over_white():
    assert opened(thumbnail(image_file(Image.new("RGBA", (8, 8), (9, 9, 9, 0))))).getpixel((4, 4)) == (255, 255, 255)


def test_pure_noise_fits_as_well():
    noise = Image.frombytes("RGB", (SIDE, SIDE), os.urandom(SIDE * SIDE * 3))
    jpeg = thumbnail(image_file(noise))
    assert jpeg is not None and len(jpeg) <= PREVIEW_LIMIT_BYTES


def test_what_cannot_be_shown_is_left_out(monkeypatch, tmp_path):
    output = Output("9", "a.png", "", "output")
    assert thumbnail(OutputFile(output, data=b"no picture")) is None
    assert thumbnail(OutputFile(output, path=tmp_path / "gone.png")) is None
    assert thumbnail(image_file(Image.new("I;16", (8, 8)))) is None
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 63)
    assert thumbnail(image_file(Image.new("RGB", (8, 8)))) is None


def made(outputs: list[dict], find, *, with_previews: bool = True, wanted: int = 1) -> list[dict]:
    """Return the thumbnails of one ``executed`` event; waits until as many as wanted are there."""

    async def run() -> list[dict]:
        enough, found = asyncio.Event(), list[dict]()
        progress = JobProgress({}, with_previews=with_previews, changed=lambda: None)

        def give(node_id: str, index: int, jpeg: bytes) -> None:
            found.append({"node": node_id, "index": index})
            if len(found) >= wanted:
                enough.set()

        progress.add_thumbnail = give
        async with Thumbnails(progress, find) as under_test:
            under_test.on_executed({"node": "9.0.0", "display_node": "9", "output": {"images": outputs}})
            if wanted:
                await asyncio.wait_for(enough.wait(), 20)
        return found

    return asyncio.run(run())


def images(*names: str, kind: str = "output") -> list[dict]:
    return [{"filename": name, "subfolder": "", "type": kind} for name in names]


async def find_red(output):
    return image_file(Image.new("RGB", (8, 8), "red"))


def test_each_image_of_a_node_under_the_name_of_the_node_that_is_seen(monkeypatch):
    monkeypatch.setattr(thumbnails, "HEAD_START_S", 0)
    listed = [*images("a.png"), *images("b.webp", kind="temp"), *images("film.mp4"), *images("in.png", kind="input")]
    assert made(listed, find_red, wanted=2) == [{"node": "9", "index": 0}, {"node": "9", "index": 1}]


def test_one_that_cannot_be_read_does_not_keep_the_next_one_back(monkeypatch):
    monkeypatch.setattr(thumbnails, "HEAD_START_S", 0)
    answers = [NoAnswerError("gone"), None, "file"]

    async def find(output):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return await find_red(output) if answer else None

    assert made(images("a.png", "b.png", "c.png"), find) == [{"node": "9", "index": 2}]


def test_a_prompt_has_only_so_many(monkeypatch):
    monkeypatch.setattr(thumbnails, "HEAD_START_S", 0)
    names = [f"{number}.png" for number in range(MOST_OF_A_PROMPT + 5)]
    assert len(made(images(*names), find_red, wanted=MOST_OF_A_PROMPT)) == MOST_OF_A_PROMPT


def test_a_job_that_did_not_ask_gets_none_and_one_that_ends_waits_for_none(monkeypatch):
    async def must_not_be_called(output):
        raise AssertionError(output)

    assert made(images("a.png"), must_not_be_called, with_previews=False, wanted=0) == []
    monkeypatch.setattr(thumbnails, "HEAD_START_S", 3600)
    assert made(images("a.png"), must_not_be_called, wanted=0) == []

"""Results are shown in the real page as if they were local, and open their workflow when dropped there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.browser.workflows import SAMPLER, text_to_image
from tests.client.endpoint import KEY, Endpoint, b64, completed, picture
from tests.support.runpod_platform import CLIENT_KEY

MEDIA = Path(__file__).with_name("media")
HEADER = {"X-Remote-Serverless": "1"}
FILM, WEBM, MOVING, SOUND, HEARD, TEXT, PICTURE = range(1, 8)
KINDS = {
    FILM: "SaveVideo", WEBM: "SaveWEBM", MOVING: "SaveAnimatedWEBP", SOUND: "SaveAudio", HEARD: "PreviewAudio",
    TEXT: "PreviewAny", PICTURE: "SaveImage",
}  # fmt: skip


def graph() -> dict[str, Any]:
    """One of each output node, with nothing before them: the endpoint of these tests looks at no prompt."""
    nodes = [
        {
            "id": number, "type": kind, "pos": [30 + 330 * (number % 4), 40 + 330 * (number // 4)], "size": [300, 300],
            "flags": {}, "order": number, "mode": 0, "inputs": [], "outputs": [], "properties": {},
        }
        for number, kind in KINDS.items()
    ]  # fmt: skip
    about = {"version": 0.4, "extra": {}, "config": {}, "groups": [], "links": [], "revision": 0}
    return {**about, "id": "22222222-2222-4222-8222-222222222222", "last_node_id": 7, "last_link_id": 0, "nodes": nodes}


def entry(node_id: int, data: bytes, filename: str, media_type: str, **more: Any) -> dict[str, Any]:
    names = {"filename": filename, "subfolder": "", "type": "output", "node_id": str(node_id)}
    return {"b64": b64(data), "media_type": media_type, "bytes": len(data), **names, **more}


def moving_webp() -> bytes:
    out, frames = io.BytesIO(), [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def everything() -> dict[str, Any]:
    """A worker's answer with a result for every node."""
    text = entry(TEXT, b"a poem", "node_6_00001_.txt", "text/plain", type="text", text="a poem <b>of two</b>\nlines")
    return completed(
        entry(MOVING, moving_webp(), "moving_00001_.webp", "image/webp"),
        picture(str(PICTURE)),
        files=[
            entry(FILM, (MEDIA / "film.mp4").read_bytes(), "film_00001_.mp4", "video/mp4"),
            entry(WEBM, (MEDIA / "film.webm").read_bytes(), "film_00001_.webm", "video/webm"),
            entry(SOUND, (MEDIA / "sound.flac").read_bytes(), "sound_00001_.flac", "audio/flac"),
            entry(HEARD, (MEDIA / "sound.flac").read_bytes(), "heard_00001_.flac", "audio/flac", type="temp"),
            text,
        ],
    )


@pytest.fixture
def remote(comfy_page) -> Iterator[Endpoint]:
    """The page with Remote ON, at an endpoint that says what a test tells it to."""
    with Endpoint() as endpoint:
        endpoint.statuses = [everything()]
        configure(comfy_page, endpoint=endpoint.base, api_key=KEY)
        comfy_page.open()
        comfy_page.toggle(on=True)
        yield endpoint


def configure(comfy_page, **changes: Any) -> None:
    answer = requests.post(comfy_page.local.url + "/remote/config", json=changes, headers=HEADER, timeout=10)
    assert answer.ok, answer.text


PLAYERS = """
return [...document.querySelectorAll(arguments[0])].map((element) => ({
  source: element.currentSrc, ready: element.readyState, seen: element.checkVisibility(), width: element.videoWidth,
  length: element.duration, controls: element.controls}));
"""


def player(comfy_page, tag: str, *words: str) -> dict[str, Any]:
    """A player in the page whose file has loaded, so that it can be played."""

    def found() -> dict[str, Any] | None:
        players = comfy_page.js(PLAYERS, tag)
        return next((each for each in players if each["ready"] and all(word in each["source"] for word in words)), None)

    return dict(comfy_page.wait_for(found))


def test_films_sounds_and_texts_are_shown_in_their_nodes(comfy_page, remote):
    comfy_page.put(graph())
    comfy_page.queue()
    for suffix in (".mp4", ".webm"):
        film = player(comfy_page, "video", suffix, "type=output")
        assert (film["width"], film["controls"], film["seen"]) == (32, True, True)
        assert film["length"] == pytest.approx(0.5, abs=0.1)
    for kind in ("output", "temp"):
        sound = player(comfy_page, "audio", ".flac", f"type={kind}")
        assert (sound["controls"], sound["seen"]) == (True, True)
        assert sound["length"] == pytest.approx(0.1, abs=0.05)
    comfy_page.wait_picture(PICTURE)
    comfy_page.wait_picture(MOVING)
    texts = "return app.graph.getNodeById(arguments[0]).widgets.some((widget) => widget.value === arguments[1])"
    comfy_page.wait(texts, TEXT, "a poem <b>of two</b>\nlines")
    comfy_page.wait_idle()


@pytest.mark.parametrize("result_format", ["original", "webp"])
def test_a_dropped_picture_opens_its_workflow(comfy_page, platform, result_format):
    configure(comfy_page, endpoint=platform.base, api_key=CLIENT_KEY, result_format=result_format)
    comfy_page.open(steps=3)
    comfy_page.toggle(on=True)
    before, files = len(comfy_page.jobs()), comfy_page.local.files("output")
    comfy_page.queue()
    assert comfy_page.wait_jobs(before, 1)[0]["status"] == "COMPLETED"
    (name,) = comfy_page.wait_for(
        lambda: {name for name in comfy_page.local.files("output") if ".part-" not in name} - set(files)
    )
    assert name.endswith(".webp" if result_format == "webp" else ".png")
    comfy_page.wait_idle()
    comfy_page.put(graph())
    drop(comfy_page, name)
    wanted = {str(node["id"]): node["type"] for node in text_to_image("tiny.safetensors")["nodes"]}
    comfy_page.wait_for(lambda: comfy_page.kinds() == wanted)
    steps = "return app.graph.getNodeById(arguments[0]).widgets.find((widget) => widget.name === 'steps').value"
    assert comfy_page.js(steps, SAMPLER) == 3
    configure(comfy_page, result_format="original")


def drop(comfy_page, name: str) -> None:
    """Hand the page a file of the output folder, as dropping it there does."""
    subfolder, _, filename = name.rpartition("/")
    comfy_page.js(
        "const [subfolder, filename] = arguments;"
        "return api.fetchApi('/view?' + new URLSearchParams({subfolder, filename, type: 'output'}))"
        ".then((answer) => answer.blob())"
        ".then((blob) => app.handleFile(new File([blob], filename, {type: blob.type}))).then(() => null)",
        subfolder,
        filename,
    )

"""A prompt's end read from its history, and what goes into the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.comfyui.history import cached_nodes, failure
from worker.errors import Code, WorkerError
from worker.results.media_types import media_type
from worker.results.outputs import Output, UniqueNames, check_answer, choose, official_answer, outputs_of

RECORDINGS = Path(__file__).parents[1] / "protocol" / "recordings"
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
IMAGE = {"filename": "a.png", "subfolder": "", "type": "output"}


def history(name: str) -> dict:
    for exchange in json.loads((RECORDINGS / f"{name}.json").read_text())["http"]:
        if exchange["request"]["path"].startswith("/history/"):
            return next(iter(exchange["response"]["body"].values()))
    raise AssertionError(name)


def failed(message: str, kind: str) -> dict:
    data = {"node_id": "3", "node_type": "KSampler", "exception_message": message, "exception_type": kind}
    return {"status": {"status_str": "error", "messages": [["execution_error", data]]}}


def test_success_is_no_failure():
    assert failure(history("success_two_images")) is None


def test_a_node_that_raised_is_named_with_its_message():
    error = failure(history("execution_error"))
    assert error is not None
    assert error.code is Code.NODE_FAILED
    assert "node 7 (LoadImageMask) failed: PIL.UnidentifiedImageError: cannot identify image file" in str(error)
    assert len(error.details["traceback"]) == 3


def test_an_interrupted_prompt_is_not_a_success():
    error = failure(history("interrupted"))
    assert error is not None
    assert error.code is Code.INTERRUPTED
    assert error.details["class_type"] == "KSampler"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Allocation on device", "torch.OutOfMemoryError"),
        ("CUDA out of memory. Tried to allocate 20 GiB", "RuntimeError"),
        ("x", "torch.cuda.OutOfMemoryError"),
    ],
)
def test_out_of_memory_is_told_apart(message, kind):
    error = failure(failed(message, kind))
    assert error is not None
    assert error.code is Code.OUT_OF_MEMORY


def test_outputs_come_in_node_order_each_once():
    nodes = {"10": {"images": [IMAGE]}, "9": {"images": [IMAGE, IMAGE], "animated": [True]}, "9:2": {"gifs": [IMAGE]}}
    assert [output.node_id for output in outputs_of({"outputs": nodes})] == ["9", "9:2", "10"]


def test_previews_come_back_only_when_nothing_was_saved():
    saved, preview = Output("1", "a.png", "", "output"), Output("2", "b.png", "", "temp")
    assert choose([preview, saved]) == ([saved], [])
    chosen, warnings = choose([preview])
    assert chosen == [preview]
    assert "SaveImage" in warnings[0]
    with pytest.raises(WorkerError, match="NO_OUTPUT"):
        choose([])


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("lies.txt", PNG, "image/png"),
        ("a.bin", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("a.mp4", b"....", "video/mp4"),
        ("a.mp4", b"\0\0\0 ftypisom", "video/mp4"),
        ("a.bin", b"\0\0\0 ftypavif", "image/avif"),
        ("a.mkv", b"\x1a\x45\xdf\xa3", "video/x-matroska"),
        ("a.opus", b"OggS", "audio/ogg"),
        ("a.flac", b"fLaC", "audio/flac"),
        ("a.glb", b"glTF", "model/gltf-binary"),
        ("a.latent", b"....", "application/octet-stream"),
        ("a.unknown", b"....", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_bytes(name, data, kind):
    assert media_type(name, data) == kind


def test_names_are_unique_in_an_answer_whatever_the_system():
    names = UniqueNames()
    given = ["a_00001_.png", "A_00001_.PNG", "a_00001_.png", "b", "b"]
    assert [names.unique(name) for name in given] == [
        "a_00001_.png",
        "A_00001_ (2).PNG",
        "a_00001_ (3).png",
        "b",
        "b (2)",
    ]


def test_a_text_that_a_node_shows_is_an_output():
    nodes = {"7:1": {"text": ["hello", "", 5]}, "2": {"text": "no list"}, "9": {"images": [IMAGE]}}
    found = outputs_of({"outputs": nodes})
    assert [(output.filename, output.type, output.text) for output in found] == [
        ("node_7_1_00001_.txt", "text", "hello"),
        ("a.png", "output", None),
    ]
    assert choose(found) == (found, [])
    assert choose(found[:1]) == (found[:1], [])


def test_a_text_does_not_hide_that_there_are_only_previews():
    text, preview = Output("1", "t.txt", "", "text", "x"), Output("2", "b.png", "", "temp")
    chosen, warnings = choose([text, preview])
    assert chosen == [text, preview]
    assert "SaveImage" in warnings[0]


@pytest.mark.parametrize("kind", ["images", "gifs", "videos", "audio", "latents", "3d", "files", "a_custom_nodes_own"])
def test_whatever_the_node_calls_it_a_file_is_an_output(kind):
    nodes = {"1": {kind: [{**IMAGE, "format": "x", "fullpath": "y"}], "animated": [True]}}
    assert outputs_of({"outputs": nodes}) == [Output("1", "a.png", "", "output")]


def test_the_nodes_that_came_from_the_cache_are_told():
    assert cached_nodes(history("fully_cached")) >= {"2"}
    assert cached_nodes({}) is None


def test_the_answer_is_measured_to_the_byte():
    answer = {
        "images": [{"b64": "eA==" * 1000, "filename": "ü.png"}],
        "files": [],
        "warnings": [],
    }
    size = len(json.dumps(answer, ensure_ascii=False).encode())
    check_answer(answer, size / 1e6)
    with pytest.raises(WorkerError, match="RESULT_TOO_LARGE") as caught:
        check_answer(answer, (size - 1) / 1e6)
    assert caught.value.details["bytes"] == size


@pytest.mark.parametrize("bad", [float("nan"), b"bytes", "\ud800"])
def test_an_answer_that_cannot_travel_is_an_error_not_silence(bad):
    with pytest.raises(WorkerError, match="INTERNAL"):
        check_answer({"images": [], "x": bad}, 9.5)


def test_the_official_shape():
    answer = {"images": [{"filename": "a.png", "b64": "eA=="}], "files": [], "warnings": []}
    assert official_answer(answer) == {"images": [{"filename": "a.png", "type": "base64", "data": "eA=="}]}
    linked = {"images": [], "files": [{"filename": "a.mp4", "url": "https://x"}], "warnings": ["w"]}
    assert official_answer(linked) == {
        "images": [{"filename": "a.mp4", "type": "s3_url", "data": "https://x"}],
        "errors": ["w"],
    }


@pytest.mark.parametrize("odd", [5, "x", [], {"messages": 5}, {"messages": ["x", [1, 2, 3], [["a"], {}]]}])
def test_an_odd_history_breaks_nothing(odd):
    broken = {"status": odd, "outputs": odd}
    assert failure(broken) is None
    assert (outputs_of(broken), cached_nodes(broken)) == ([], None)
    failing = {"status": {"status_str": "error", "messages": [["execution_error", {"traceback": odd}]]}}
    assert failure(failing).code is Code.NODE_FAILED


@pytest.mark.parametrize("node_id", ["\u00b2", "3\u00b2", "9" * 5000, ""])
def test_a_node_may_have_any_id(node_id):
    (output,) = outputs_of({"outputs": {node_id: {"images": [IMAGE]}}})
    assert output.node_id == node_id

"""A prompt's end read from its history, and what goes into the answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from worker.endings import failure
from worker.errors import Code, WorkerError
from worker.outputs import Output, OutputData, check_answer, choose, entry, media_type, official_answer, outputs_of

RECORDINGS = Path(__file__).parents[1] / "protocol" / "recordings"
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


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
    image = {"filename": "a.png", "subfolder": "", "type": "output"}
    nodes = {"10": {"images": [image]}, "9": {"images": [image, image], "animated": [True]}, "9:2": {"gifs": [image]}}
    assert [output.node_id for output in outputs_of({"outputs": nodes})] == ["9", "9:2", "10"]


def test_previews_come_back_only_when_nothing_was_saved():
    saved, preview = Output("1", "a.png", "", "output"), Output("2", "b.png", "", "temp")
    assert choose([preview, saved]) == ([saved], [])
    chosen, warnings = choose([preview])
    assert chosen == [preview]
    assert "SaveImage" in warnings[0]
    with pytest.raises(WorkerError, match="NO_OUTPUT"):
        choose([])


def test_an_entry_has_every_field_of_the_contract():
    item = entry(OutputData(Output("9", "a.png", "sub", "output"), PNG))
    assert base64.b64decode(item.pop("b64")) == PNG
    assert item == {
        "filename": "a.png",
        "subfolder": "sub",
        "type": "output",
        "node_id": "9",
        "media_type": "image/png",
        "bytes": len(PNG),
    }


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("lies.txt", PNG, "image/png"),
        ("a.bin", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("a.mp4", b"....", "video/mp4"),
        ("a.unknown", b"....", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_bytes(name, data, kind):
    assert media_type(name, data) == kind


def test_the_answer_is_measured_to_the_byte():
    answer = {
        "images": [entry(OutputData(Output("9", "ü.png", "", "output"), PNG * 1000))],
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

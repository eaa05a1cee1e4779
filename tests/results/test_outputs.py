"""The files that go into an answer: which, in which order, under which names, and how large it may be."""

from __future__ import annotations

import json

import pytest

from worker.errors import WorkerError
from worker.results.outputs import Output, UniqueNames, check_answer, choose, official_answer, outputs_of

IMAGE = {"filename": "a.png", "subfolder": "", "type": "output"}


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


@pytest.mark.parametrize("node_id", ["\u00b2", "3\u00b2", "9" * 5000, ""])
def test_a_node_may_have_any_id(node_id):
    (output,) = outputs_of({"outputs": {node_id: {"images": [IMAGE]}}})
    assert output.node_id == node_id


@pytest.mark.parametrize("odd", [5, "x", [], {"1": 5}, {"1": {"images": 5, "text": {}}}, {"1": {"images": [5, {}]}}])
def test_odd_outputs_are_none(odd):
    assert outputs_of({"outputs": odd}) == []

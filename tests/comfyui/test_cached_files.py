"""The job that each cached file belongs to, by the prompts that the worker has run."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.comfyui import cached_files as module
from worker.comfyui.cached_files import CachedFiles, content_key, nodes_from_cache, with_rerun_input
from worker.results.outputs import TEXT, Output, OutputFile

SAVE = {"class_type": "SaveVideo", "inputs": {"x": ["1", 0]}}
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}, "7": SAVE, "8": SAVE, "9": SAVE}
FTYP = b"\0\0\0\x20ftypisom"


def video(node_id: str = "9", name: str = "a.mp4", kind: str = "output", data: bytes = FTYP) -> OutputFile:
    return OutputFile(Output(node_id, name, "", kind), data=data)


def test_jobs_with_the_same_texts_have_one_key_and_any_difference_makes_two():
    assert content_key(PROMPT, {"workflow": {"a": 1}}) == content_key(dict(PROMPT), {"workflow": {"a": 1}})
    assert content_key(PROMPT, {}) != content_key(PROMPT, {"workflow": None})
    assert content_key(PROMPT, {}) != content_key({**PROMPT, "2": PROMPT["1"]}, {})


def test_a_node_with_the_rerun_input_is_another_to_the_cache_and_the_prompt_stays_as_it_was():
    changed = with_rerun_input(PROMPT, {"9"}, "me")
    assert changed["9"]["inputs"] == {"x": ["1", 0], module.RERUN_INPUT: "me"}
    assert changed["1"] is PROMPT["1"]
    assert PROMPT["9"]["inputs"] == {"x": ["1", 0]}


def test_a_file_that_the_prompt_itself_wrote_is_its_own():
    assert CachedFiles().foreign_nodes("me", [video()], PROMPT, set()) == set()


@pytest.mark.parametrize("writer", ["me", "another"])
def test_a_cached_file_is_the_writers(writer):
    known = CachedFiles()
    known.record(writer, PROMPT, [video().output], set())
    assert known.foreign_nodes("me", [video()], PROMPT, {"9"}) == (set() if writer == "me" else {"9"})


def test_a_cached_file_without_a_recorded_writer_is_foreign():
    assert CachedFiles().foreign_nodes("me", [video()], PROMPT, {"9"}) == {"9"}


def test_a_name_that_another_node_took_meanwhile_is_not_the_nodes_own_any_more():
    known = CachedFiles()
    known.record("me", PROMPT, [video().output], set())
    known.record("me", PROMPT, [video("8").output], set())
    assert known.foreign_nodes("me", [video()], PROMPT, {"9"}) == {"9"}


def png(**save: Any) -> OutputFile:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG", **save)
    return video(name="a.png", data=out.getvalue())


def texts(**pairs: str) -> PngInfo:
    info = PngInfo()
    for name, text in pairs.items():
        info.add_text(name, text)
    return info


def test_a_png_whose_texts_can_all_be_replaced_and_a_text_are_not_saved_again():
    text = OutputFile(Output("9", "node_9.txt", "", TEXT, "hello"), data=b"hello")
    with_texts = png(pnginfo=texts(prompt="{}", workflow='{"a": 1}'), icc_profile=b"x")
    assert CachedFiles().foreign_nodes("me", [png(), with_texts, text], PROMPT, {"9"}) == set()


@pytest.mark.parametrize("more", ["a plain text", "EXIF", "cut short"])
def test_a_png_with_more_in_it_than_comfyui_writes_is_saved_again(more):
    exif = Image.Exif()
    exif[0x010E] = "workflow of somebody"
    found = {"a plain text": png(pnginfo=texts(parameters="a cat")), "EXIF": png(exif=exif)}.get(more, png())
    data = found.data if more != "cut short" else found.data[:-12]
    assert CachedFiles().foreign_nodes("me", [video(name="a.png", data=data)], PROMPT, {"9"}) == {"9"}


def test_a_file_that_is_gone_before_it_is_looked_at_counts_as_foreign(tmp_path):
    gone = OutputFile(Output("9", "a.mp4", "", "output"), tmp_path / "a.mp4")
    assert CachedFiles().foreign_nodes("me", [gone], PROMPT, {"9"}) == {"9"}


def test_what_a_failed_prompt_wrote_is_its_own_and_what_it_found_is_not():
    known = CachedFiles()
    known.record("earlier", PROMPT, [video().output], set())
    fresh = video("8", "b.mp4")
    known.record_unfinished("failed", PROMPT, [video().output, fresh.output], ["9"])
    assert known.foreign_nodes("failed", [video(), fresh], PROMPT, {"8", "9"}) == {"9"}
    known.record_unfinished("unheard", PROMPT, [video("7", "c.mp4").output], None)
    assert known.foreign_nodes("unheard", [video("7", "c.mp4")], PROMPT, {"7"}) == {"7"}


def test_files_of_nodes_that_others_expanded_into_are_told_apart_by_what_is_recorded():
    inner, prompt = video("9.0.0.1"), PROMPT
    earlier = nodes_from_cache([inner.output], prompt, set())
    assert earlier == {"9.0.0.1"}
    known = CachedFiles()
    assert known.foreign_nodes("me", [inner], prompt, earlier) == set()
    assert CachedFiles(shared=True).foreign_nodes("me", [inner], prompt, earlier) == {"9.0.0.1"}
    known.record("me", prompt, [inner.output], earlier)
    assert known.foreign_nodes("another", [inner], prompt, earlier) == {"9.0.0.1"}
    assert known.unlisted(prompt, [inner.output], {"9"}) == set()
    assert known.unlisted(prompt, [], {"9"}) == {"9"}
    assert known.unlisted(prompt, [], {"1"}) == set()


def test_only_so_many_files_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "MOST_FILES", 2)
    known = CachedFiles()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        known.record("me", PROMPT, [video(name=name).output], set())
    assert known.foreign_nodes("me", [video(name="a.mp4")], PROMPT, {"9"}) == {"9"}
    assert known.foreign_nodes("me", [video(name="b.mp4"), video(name="c.mp4")], PROMPT, {"9"}) == set()

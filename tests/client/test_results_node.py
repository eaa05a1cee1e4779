"""The node that shows the newest results: which pictures it takes, and how they come together."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from client import remote_sink
from client.remote_sink import RemoteResults, newest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_sink, "results_folder", lambda: tmp_path / "remote_results")
    return tmp_path / "remote_results"


def put(folder, name, size, when):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, "red").save(folder / name)
    os.utime(folder / name, (when, when))


def test_the_newest_pictures_come_first_and_nothing_else(folder):
    for number, name in enumerate(("a.png", "b.jpeg", "c.webp", ".part-x.png")):
        put(folder, name, (2, 2), 100 + number)
    (folder / "note.txt").write_text("x")
    assert [path.name for path in newest(2)] == ["c.webp", "b.jpeg"]
    assert len(newest(9)) == 3


def test_it_runs_again_only_when_there_is_a_newer_picture(folder):
    put(folder, "a.png", (2, 2), 100)
    before = RemoteResults.IS_CHANGED(1)
    assert RemoteResults.IS_CHANGED(1) == before
    put(folder, "b.png", (2, 2), 101)
    assert RemoteResults.IS_CHANGED(1) != before


def test_later_pictures_are_fitted_to_the_first_ones_size(folder, monkeypatch):
    batches = []
    monkeypatch.setattr(remote_sink, "_batch", batches.append)  # the tensor itself needs torch, as ComfyUI has it
    put(folder, "old.png", (8, 2), 100)
    put(folder, "new.png", (4, 4), 101)
    assert RemoteResults().load(5)[1] == 2
    assert [picture.size for picture in batches[0]] == [(4, 4), (4, 4)]


def test_no_results_yet_is_said(folder):
    with pytest.raises(FileNotFoundError, match="Run a workflow with Remote: ON first"):
        RemoteResults().load(1)
    assert RemoteResults.INPUT_TYPES()["required"]["count"][0] == "INT"

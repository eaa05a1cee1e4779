"""Outputs are taken only from the worker's own folder, and that folder does not grow for ever."""

from __future__ import annotations

import os

import pytest

from worker.comfyui.output_folder import PREFIX, OutputFolder
from worker.results.outputs import Output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = OutputFolder(budget_bytes=1000)
    yield found
    found.remove()
    assert not found.root.exists()


def test_a_file_in_a_subfolder_is_found(folder):
    (folder.root / "output" / "sub").mkdir()
    (folder.root / "output" / "sub" / "a.png").write_bytes(b"x")
    assert folder.find(Output("1", "a.png", "sub", "output")) == folder.root / "output" / "sub" / "a.png"
    assert folder.find(Output("1", "gone.png", "sub", "output")) is None
    assert folder.find(Output("1", "sub", "", "output")) is None


@pytest.mark.parametrize(
    ("filename", "subfolder", "kind"),
    [
        ("../../secret", "", "output"),
        ("secret", "../..", "output"),
        ("/etc/hostname", "", "output"),
        ("link", "", "output"),
        ("secret", "", "models"),
    ],
)
def test_nothing_outside_the_folder_is_found(folder, tmp_path, filename, subfolder, kind):
    (tmp_path / "secret").write_bytes(b"secret")
    (folder.root / "output" / "link").symlink_to(tmp_path / "secret")
    assert folder.find(Output("1", filename, subfolder, kind)) is None


def test_past_its_budget_the_least_recently_returned_goes(folder):
    for index in range(12):
        path = folder.root / "output" / f"{index}.png"
        path.write_bytes(b"x" * 100)
        os.utime(path, (index, index))
    assert folder.find(Output("1", "0.png", "", "output"))  # returned again: now the newest
    folder._returned_since_sweep = 1100  # as if the eleven others had been returned before
    folder.sweep()
    left = {path.name for path in (folder.root / "output").iterdir()}
    assert left == {"0.png", *(f"{index}.png" for index in range(5, 12))}


def test_what_is_about_to_be_returned_is_spared(folder):
    path = folder.root / "output" / "big.mp4"
    path.write_bytes(b"x" * 5000)
    assert folder.find(Output("1", "big.mp4", "", "output")) == path
    folder.sweep(spare={path})
    assert path.exists()


def test_what_a_killed_worker_left_is_removed_but_not_a_living_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive = tmp_path / f"{PREFIX}999999999-x", tmp_path / f"{PREFIX}{os.getpid()}-x"
    dead.mkdir()
    alive.mkdir()
    OutputFolder().remove()
    assert not dead.exists()
    assert alive.exists()

"""A job may send media and data; what could run code is refused with its type."""

from __future__ import annotations

import pytest

from worker.input_file_types import TYPES, type_problem


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "sub.folder.mp4", "x.safetensors", "words.srt", ".png"])
def test_media_and_data_are_accepted(name):
    assert type_problem(name) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.py", "a .py file"),
        ("x.pt", "a .pt file"),
        ("x.png.exe", "a .exe file"),
        ("png", "a file without an extension"),
        ("x.", "a file without an extension"),
        ("x.a\x1b[31m", "a file without an extension"),
        ("x." + "y" * 13, "a file without an extension"),
    ],
)
def test_other_files_are_named_by_their_type(name, kind):
    assert type_problem(name) == f"{kind}; images, video, audio, latents, 3D models and texts are accepted"


def test_no_type_can_run_code_when_a_node_loads_it():
    accepted = {extension for names in TYPES.values() for extension in names.split()}
    assert not accepted & {
        "py",
        "pyc",
        "pt",
        "pth",
        "ckpt",
        "bin",
        "pkl",
        "pickle",
        "so",
        "dll",
        "exe",
        "sh",
        "js",
        "html",
    }

"""A job's files are downloaded into ComfyUI's own input folder, and the prompt follows when a name is changed."""

from __future__ import annotations

import pytest

from worker.errors import WorkerError
from worker.inputs.files import InputFiles, input_folder, rename_inputs
from worker.job import InputFile
from worker.settings import SIMULATOR_PATH, Settings
from worker.stop import Stop


def test_a_prompt_is_given_the_other_name():
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "LoadImageMask", "inputs": {"image": "a.png [input]", "channel": "red", "x": ["1", 0]}},
    }
    renamed = rename_inputs(prompt, {"a.png": "a.1.png"})
    assert renamed["1"]["inputs"]["image"] == "a.1.png"
    assert renamed["2"]["inputs"] == {"image": "a.1.png [input]", "channel": "red", "x": ["1", 0]}
    assert prompt["1"]["inputs"]["image"] == "a.png"


def test_all_files_of_a_job_together_are_bounded(tmp_path):
    env = {
        "COMFYUI_PATH": str(SIMULATOR_PATH),
        "COMFYUI_ARGS": f"--base-directory {tmp_path}",
        "INPUT_LIMIT_MB": "0.001",
    }
    inputs = InputFiles(Settings.from_environ(env))
    files = [InputFile("a.png", b"x" * 600), InputFile("b.png", b"y" * 600)]
    with pytest.raises(WorkerError, match=r"INPUT_LIMIT_MB is 0\.001"):
        inputs.download(files, Stop())
    assert len(inputs.download(files[:1], Stop())) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", "checkout/input"), ("--input-directory {}/in", "in"), ("--base-directory={}/b", "b/input"), ("--cpu", None)],
)
def test_the_folder_is_the_one_that_comfyui_is_started_with(tmp_path, arguments, expected):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "main.py").touch()
    env = {"COMFYUI_PATH": str(tmp_path / "checkout"), "COMFYUI_ARGS": arguments.format(tmp_path)}
    assert input_folder(Settings.from_environ(env)) == tmp_path / (expected or "checkout/input")
    assert input_folder(Settings.from_environ({**env, "COMFYUI_URL": "http://127.0.0.1:1"})) is None


def test_for_a_comfyui_elsewhere_the_files_are_kept_in_a_temporary_folder_until_the_end():
    inputs = InputFiles(Settings.from_environ({"COMFYUI_URL": "http://127.0.0.1:1"}))
    ((name, content),) = inputs.download([InputFile("a.png", b"one")], Stop())
    assert name == "a.png"
    assert content.path.read_bytes() == b"one"
    inputs.close()
    inputs.close()
    assert not inputs.folder.root.exists()

"""`python handler.py --test_input` as a person runs it: pictures in results/, exit code 1 and the error when bad."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.prompts import image_prompt
from tests.support.runpod_platform import REPO_ROOT


@pytest.fixture
def handler(tmp_path):
    """Run handler.py in a folder of its own, on the simulator unless COMFYUI_PATH names a ComfyUI."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {"COMFYUI_ARGS": f"--base-directory '{tmp_path / 'comfyui'}'", **os.environ, **env}
        if "COMFYUI_PATH" in os.environ:
            environment["COMFYUI_ARGS"] = "--cpu"
        command = [sys.executable, str(REPO_ROOT / "handler.py"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
        )

    return run


def test_a_good_job_exits_0_and_its_pictures_are_in_results(handler, tmp_path):
    done = handler("--test_input", json.dumps({"input": {"prompt": image_prompt()}}))
    assert done.returncode == 0, done.stdout + done.stderr
    (saved,) = (tmp_path / "results").iterdir()
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert f"Saved {Path('results') / saved.name}" in done.stderr


def test_pictures_of_an_earlier_run_are_not_overwritten(handler, tmp_path):
    for _ in range(2):
        assert handler("--test_input", json.dumps({"input": {"prompt": image_prompt()}})).returncode == 0
    assert len(list((tmp_path / "results").iterdir())) == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}, "NODE_MISSING"),
        ({"prompt": {"nodes": [], "links": []}}, "INVALID_INPUT"),
        ({"action": "dance"}, "INVALID_INPUT"),
    ],
)
def test_a_bad_job_exits_1_with_the_error(handler, fields, code):
    done = handler("--test_input", json.dumps({"input": fields}))
    assert done.returncode == 1
    assert f"failed with error: {code}: " in done.stdout + done.stderr


def test_without_arguments_test_input_json_is_run(handler, tmp_path):
    shutil.copy(REPO_ROOT / "test_input.json", tmp_path)
    done = handler()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "results").glob("hello*.png"))) == 2


def test_the_model_free_example_runs(handler, tmp_path):
    done = handler("--test_input", (REPO_ROOT / "examples" / "model_free.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 2


@pytest.mark.skipif("COMFYUI_PATH" in os.environ, reason="a real ComfyUI is named, so there is nothing to say")
def test_one_line_says_that_it_was_the_simulator_and_how_to_get_the_real_one(handler):
    done = handler("--test_input", json.dumps({"input": {"prompt": image_prompt()}}))
    said = [line for line in done.stderr.splitlines() if "built-in simulator runs the prompt" in line]
    assert len(said) == 1
    assert "make comfyui" in said[0]

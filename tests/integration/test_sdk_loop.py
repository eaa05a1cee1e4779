"""The assembled worker under RunPod's real SDK loop, against a loopback platform: job-take, handler, job-done."""

from __future__ import annotations

import base64
import signal

import pytest

from tests.support.prompts import image_prompt, node
from tests.support.runpod_platform import REPO_ROOT, RunPodPlatform, WorkerProcess, is_running
from tests.support.waiting import wait_until

SIMULATOR = {"COMFYUI_PATH": str(REPO_ROOT / "simulator")}


@pytest.fixture
def platform():
    with RunPodPlatform() as found:
        yield found


@pytest.fixture
def start(platform, tmp_path):
    """Start a worker on the simulator; ended with everything of it after the test."""
    started = []

    def start_worker(**env: str) -> WorkerProcess:
        flags = f"--base-directory '{tmp_path / 'comfyui'}'"
        worker = WorkerProcess(platform, tmp_path / f"worker{len(started)}.log", **SIMULATOR, COMFYUI_ARGS=flags, **env)
        started.append(worker)
        return worker

    yield start_worker
    for worker in started:
        worker.__exit__()


def test_a_job_is_taken_run_and_delivered(platform, start):
    start()
    status = platform.run({"prompt": image_prompt()})
    assert status["status"] == "COMPLETED"
    (image,) = status["output"]["images"]
    assert base64.b64decode(image["b64"]).startswith(b"\x89PNG")
    assert image["node_id"] == "2"
    assert set(status["output"]["timings"]) == {"comfyui_start_s", "models_s", "run_s", "collect_s", "total_s"}


def test_failures_reach_the_client_as_one_clear_string(platform, start):
    start()
    for fields, said in [
        ({"prompt": {"1": node("NoSuchNode")}}, "NODE_MISSING: node 1 is a NoSuchNode"),
        ({"prompt": [1]}, "INVALID_INPUT: `prompt` must be an object"),
        ([1], "INVALID_INPUT: `input` must be an object"),
        ({}, "INVALID_INPUT: `prompt` is missing"),
        ({"prompt": image_prompt(), "colour": 1}, "INVALID_INPUT: `colour`"),
    ]:
        status = platform.run(fields)
        assert status["status"] == "FAILED"
        assert status["error"].startswith(said)
        assert status["output"]["error_code"] == said.partition(":")[0]
    assert platform.run({"prompt": image_prompt()})["status"] == "COMPLETED"


def test_a_client_of_the_official_worker_works_unchanged(platform, start):
    start()
    with_image = {"1": node("LoadImage", image="in.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}
    first = platform.run({"workflow": image_prompt()})
    (image,) = first["output"]["images"]
    assert set(image) == {"filename", "type", "data"}
    second = platform.run({"workflow": with_image, "images": [{"name": "in.png", "image": image["data"]}]})
    assert second["status"] == "COMPLETED"


def test_sigterm_while_idle_does_not_wait_for_the_long_poll(platform, start, monkeypatch):
    monkeypatch.setattr("tests.support.runpod_platform.LONG_POLL_S", 60)
    worker = start()
    platform.run({"prompt": image_prompt()})
    started = worker.descendants()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert not [pid for pid in started if is_running(pid)]


def test_a_worker_killed_with_9_leaves_no_comfyui(platform, start):
    worker = start()
    platform.run({"prompt": image_prompt()})
    comfyui = worker.comfyui_pid()
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not is_running(comfyui))


def test_a_bad_setting_stops_the_start_by_name(platform, start):
    worker = start(JOB_TIMEOUT_S="soon")
    assert worker.process.wait(20) == 1
    assert "JOB_TIMEOUT_S: 'soon' cannot be used" in worker.log


def test_start_sh_becomes_the_worker(platform, tmp_path):
    flags = f"--base-directory '{tmp_path / 'comfyui'}'"
    command = [str(REPO_ROOT / "start.sh")]
    with WorkerProcess(platform, tmp_path / "log", command=command, **SIMULATOR, COMFYUI_ARGS=flags) as worker:
        assert platform.run({"prompt": image_prompt()})["status"] == "COMPLETED"
        started = worker.descendants()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
        assert not [pid for pid in started if is_running(pid)]

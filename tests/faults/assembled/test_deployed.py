"""What RunPod does to a worker under its own SDK: cancels, time limits, signals, and results that it will not take."""

from __future__ import annotations

import base64
import io
import os
import signal
import time

import pytest
from PIL import Image

from tests.faults.assembled.on_platform import OnPlatform
from tests.support.prompts import image_prompt, node
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until

fault = pytest.mark.fault
MiB = 1 << 20


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A deployed worker that the module's tests share; none of them may spoil it."""
    worker = OnPlatform(tmp_path_factory.mktemp("deployed") / "worker")
    worker.settle()
    yield worker
    worker.close()


def slow_prompt(color: int) -> dict:
    """One whose ImageInvert a misbehaving simulator stalls in."""
    return {
        **image_prompt(color),
        "5": node("ImageInvert", image=["1", 0]),
        "6": node("PreviewImage", images=["5", 0]),
    }


def stall(worker: OnPlatform, seconds: float) -> None:
    worker.misbehave(stall={"s": seconds, "class": "ImageInvert", "count": 1})


@fault("cancel")
def test_a_cancelled_prompt_leaves_comfyui_before_the_next_job(deployed, case):
    stall(deployed, 2)
    before, started = deployed.look(), time.monotonic()
    job = deployed.begin({"prompt": slow_prompt(0xABC401)})
    wait_until(deployed.is_executing)
    deployed.platform.cancel(job)
    wait_until(lambda: not deployed.is_executing())
    case.saw(deployed, before, deployed.answer_of(job), time.monotonic() - started)
    case.next_job(deployed)
    assert delivered(deployed, job) == []


@fault("cancel-download")
def test_a_cancelled_download_leaves_nothing(deployed, case):
    line = deployed.add("slow.safetensors", safetensors_bytes(200_000, "slow"), bytes_per_s=20_000)
    before, started = deployed.look(), time.monotonic()
    job = deployed.begin({"prompt": image_prompt(0xABC402), "repo_list": [deployed.own, line]})
    wait_until(deployed.parts)
    deployed.platform.cancel(job)
    wait_until(lambda: not deployed.parts())
    case.saw(deployed, before, deployed.answer_of(job), time.monotonic() - started)
    case.next_job(deployed)
    assert delivered(deployed, job) == []


@fault("timeout")
def test_runpods_execution_timeout_stops_the_job(deployed, case):
    stall(deployed, 2)
    fields = {"prompt": slow_prompt(0xABC403)}
    case.meets(deployed, fields, policy={"executionTimeout": 500})
    case.next_job(deployed)


@fault("own-deadline")
def test_our_own_deadline_gives_the_reason(deployed, case):
    stall(deployed, 2)
    told = case.runs(deployed, prompt=slow_prompt(0xABC404), timeout_s=0.5)
    assert "the job ran out of time" in told["error"]


@fault("post-500")
def test_a_result_that_runpod_refuses_for_a_moment_is_delivered(deployed, case):
    deployed.platform.refuse_results_with = left = [500, 500]
    case.meets(deployed, {"prompt": image_prompt(0xABC405)}, seen=lambda: f"{2 - len(left)} posts were refused")
    assert left == []
    case.next_job(deployed)


@fault("post-400")
def test_a_result_that_runpod_refuses_is_told_to_its_caller(deployed, case):
    deployed.platform.refuse_results_with = left = [400]
    fields = {"prompt": image_prompt(0xABC406)}
    told = case.meets(deployed, fields, seen=lambda: f"{1 - len(left)} post was refused")
    assert told["details"]["status"] == 400
    case.next_job(deployed)


@fault("post-400-large")
def test_a_result_too_large_for_runpod_itself_is_told_with_its_size(deployed, case, monkeypatch):
    monkeypatch.setattr("tests.support.runpod_platform.MAX_RESULT_BYTES", MiB)
    told = case.runs(deployed, **noise_job(800))
    assert told["details"]["bytes"] > MiB
    assert "RESULT_LIMIT_MB" in told["error"]


@fault("post-400-always")
def test_a_worker_whose_results_are_never_taken_goes_on(deployed, case):
    deployed.platform.refuse_results_with = left = [400] * 50
    before, started = deployed.look(), time.monotonic()
    job = deployed.begin({"prompt": image_prompt(0xABC407)}, policy={"executionTimeout": 8000})
    wait_until(lambda: "Failed to return job results" in deployed.process.log.rpartition(job)[0])
    answer = deployed.answer_of(job)
    seen = f"{50 - len(left)} posts were refused, of the answer and of the error in its place"
    case.saw(deployed, before, answer, time.monotonic() - started, seen=seen)
    left.clear()
    case.next_job(deployed)


@fault("too-large")
def test_an_answer_too_large_is_an_error_with_its_size(deployed, case):
    told = case.runs(deployed, **noise_job(1800))
    assert told["details"]["bytes"] > 12e6


def noise_job(side: int) -> dict:
    """One whose picture does not compress: 3 bytes a pixel, and a third more in base64."""
    name, out = f"noise{side}.png", io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "PNG", compress_level=1)
    prompt = {"1": node("LoadImage", image=name), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}
    return {"prompt": prompt, "files": [{"name": name, "b64": base64.b64encode(out.getvalue()).decode()}]}


def delivered(worker: OnPlatform, job: str) -> list:
    """The answers that were posted for a job, progress aside."""
    bodies = [entry["body"] for kind, entry in worker.platform.log if kind == "job-done" and entry["job"] == job]
    return [body for body in bodies if body.get("status") != "IN_PROGRESS"]


@fault("sigterm")
def test_sigterm_during_a_job_delivers_it_and_leaves_no_process(tmp_path, case, closing):
    worker = closing(OnPlatform(tmp_path / "worker"))
    worker.settle()
    stall(worker, 2)
    before, started = worker.look(), time.monotonic()
    job = worker.begin({"prompt": slow_prompt(0xABC408)})
    wait_until(worker.is_executing)
    processes = worker.process.descendants()
    worker.process.process.send_signal(signal.SIGTERM)
    seen = worker.ended(processes)
    assert seen.startswith("the worker ended with 0, 0 of its")
    case.saw(worker, before, worker.answer_of(job), time.monotonic() - started, seen=seen)
    worker.start()
    case.next_job(worker)

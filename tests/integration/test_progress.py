"""Progress through the real SDK loop: in order, never after the answer, and never at the job's cost."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.prompts import image_prompt, sampler_prompt
from tests.support.runpod_platform import REPO_ROOT, RunPodPlatform, WorkerProcess

JOBS = int(os.environ.get("PROGRESS_JOBS", "6"))
CANCELS = int(os.environ.get("PROGRESS_CANCELS", "4"))
PHASES = ["starting", "models", "queued", "running", "collecting"]


@pytest.fixture
def platform():
    with RunPodPlatform() as found:
        yield found


@pytest.fixture
def worker(platform, tmp_path, safetensors_checkpoint):
    env = {
        "COMFYUI_PATH": str(REPO_ROOT / "simulator"),
        "COMFYUI_ARGS": f"--base-directory '{tmp_path}'",
        "MODELS_DIR": str(tmp_path / "models"),
        "SIMULATOR_STEP_MS": "60",
    }
    with WorkerProcess(platform, tmp_path / "worker.log", **env) as started:
        yield started


def posts_of(platform: RunPodPlatform, job_id: str) -> list[dict]:
    return [entry["body"] for kind, entry in platform.log if kind == "job-done" and entry["job"] == job_id]


def check_order(posts: list[dict]) -> None:
    """Updates first, the answer last; phases, percentages and steps only ever forward."""
    *updates, answer = posts
    assert answer.get("status") != "IN_PROGRESS"
    assert all(post["status"] == "IN_PROGRESS" for post in updates)
    states = [post["output"] for post in updates]
    phases = [PHASES.index(state["phase"]) for state in states]
    assert phases == sorted(phases)
    steps = [state["step"] for state in states if "step" in state]
    assert steps == sorted(steps)


def test_every_update_comes_in_order_and_none_after_the_answer(platform, worker):
    jobs = []
    for seed in range(JOBS):
        jobs.append(platform.submit({"prompt": sampler_prompt("tiny.safetensors", 30, seed)}))
        assert platform.wait(jobs[-1])["status"] == "COMPLETED"
    platform.run({"prompt": image_prompt()})  # time for anything late
    for job in jobs:
        posts = posts_of(platform, job)
        check_order(posts)
        assert any(post["output"].get("message", "").startswith("KSampler ") for post in posts[:-1])


def test_previews_come_when_asked_for(platform, worker):
    job = platform.submit({"prompt": sampler_prompt("tiny.safetensors", 30), "preview": True})
    assert platform.wait(job)["status"] == "COMPLETED"
    previews = [post["output"]["preview"] for post in posts_of(platform, job)[:-1] if "preview" in post["output"]]
    assert previews
    assert all(preview["node"] == "3" and preview["jpeg_b64"].startswith("/9j/") for preview in previews)


def test_the_first_saved_picture_is_seen_small_while_the_second_sampler_runs(platform, worker):
    first, second = sampler_prompt("tiny.safetensors", 5), sampler_prompt("tiny.safetensors", 40)["3"]
    second["inputs"] |= {"latent_image": ["3", 0], "seed": 2}
    more = {
        "13": second,
        "18": {"class_type": "VAEDecode", "inputs": {"samples": ["13", 0], "vae": ["4", 2]}},
        "19": {"class_type": "SaveImage", "inputs": {"images": ["18", 0], "filename_prefix": "second"}},
    }
    job = platform.submit({"prompt": {**first, **more}, "preview": True})
    assert platform.wait(job)["status"] == "COMPLETED"
    updates = [post["output"] for post in posts_of(platform, job)[:-1]]
    seen = [update for update in updates if "thumbnails" in update]
    assert len(seen) == 2
    for update in seen:
        (thumbnail,) = update["thumbnails"]
        assert (thumbnail["node"], thumbnail["index"]) == ("9", 0)
        assert thumbnail["jpeg_b64"].startswith("/9j/")
        assert update["node"] == "13" and update["percent"] < 100


def test_jobs_cancelled_at_random_moments_leave_the_next_one_right(platform, worker):
    dice = random.Random(7)
    platform.run({"prompt": image_prompt()})
    for seed in range(CANCELS):
        job = platform.submit({"prompt": sampler_prompt("tiny.safetensors", 200, seed)})
        time.sleep(dice.uniform(0, 1.5))  # the moment is the point of this test
        platform.cancel(job)
        after = platform.run({"prompt": image_prompt(seed + 1)})
        assert after["status"] == "COMPLETED"
        assert platform.status(job)["status"] == "CANCELLED"
        posts = posts_of(platform, job)
        assert all(post.get("status") == "IN_PROGRESS" for post in posts)


@pytest.mark.parametrize("fault", [400, 500, "hang"])
def test_a_platform_that_does_not_take_progress_costs_the_job_nothing(platform, worker, fault):
    platform.progress_fault = fault
    status = platform.run({"prompt": sampler_prompt("tiny.safetensors", 30)})
    assert status["status"] == "COMPLETED"
    assert status["output"]["timings"]["total_s"] < 10
    if fault != "hang":
        assert "Failed to return job results" not in worker.log

"""Two workers on one network volume: neither takes from the other, and both do their jobs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.faults.assembled.in_process import InProcess
from tests.faults.assembled.on_platform import OnPlatform
from tests.support.prompts import image_prompt, sampler_prompt
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until
from worker.models.locations import Location

fault = pytest.mark.fault
LONG_AGO_S = 7 * 24 * 3600


@fault("two-fetch")
def test_two_deployed_workers_that_fetch_one_model_at_once_both_have_it(tmp_path, case, closing):
    volume = tmp_path / "volume"
    first = closing(OnPlatform(tmp_path / "first", volume=volume))
    second = closing(OnPlatform(tmp_path / "second", beside=first, volume=volume))
    workers = [first, second]
    for worker in workers:
        worker.settle()
    data = safetensors_bytes(400_000, "shared")
    line = first.add("shared.safetensors", data, "ckpt", bytes_per_s=400_000)
    fields = {"prompt": sampler_prompt("shared.safetensors", steps=1), "repo_list": [first.own, line]}
    before, started = [worker.look() for worker in workers], time.monotonic()
    jobs = [worker.begin(fields) for worker in workers]
    answers = [worker.answer_of(job) for worker, job in zip(workers, jobs, strict=True)]
    seconds = time.monotonic() - started
    brings = {"checkpoints/shared.safetensors": data}
    for worker, sight, answer in zip(workers, before, answers, strict=True):
        names = [model["name"] for model in (*answer["models"]["downloaded"], *answer["models"]["ready"])]
        assert sorted(names) == ["own.safetensors", "shared.safetensors"]
        case.saw(worker, sight, answer, seconds, brings=brings)
    for worker in workers:
        case.next_job(worker)
    assert sorted(path.name for path in (volume / "models" / "checkpoints").iterdir()) == ["shared.safetensors"]


@fault("prune-in-use")
def test_a_worker_that_prunes_leaves_what_another_is_using(tmp_path, case, closing):
    volume = tmp_path / "volume"
    env = {"MODELS_DIR": str(volume / "models"), "PRUNE_ROOTS": str(volume)}
    user = closing(InProcess(tmp_path / "user", volume=volume, **env))
    pruner = closing(InProcess(tmp_path / "pruner", beside=user, volume=volume, **env))
    used, old = safetensors_bytes(4000, "used"), safetensors_bytes(4000, "old")
    lines = [user.add("used.safetensors", used, "ckpt"), user.add("old.safetensors", old, "ckpt")]
    user.answer({"action": "ensure", "repo_list": [user.own, *lines]})
    age(user, "checkpoints/used.safetensors", "checkpoints/old.safetensors")
    user.misbehave(stall={"s": 4, "class": "KSampler", "count": 1})
    job = user.begin({"prompt": sampler_prompt("used.safetensors", steps=1), "repo_list": [user.own, lines[0]]})
    wait_until(user.is_executing)
    fields = {"prompt": image_prompt(0xABC601), "repo_list": pruner.own}
    answer = case.meets(
        pruner, fields, seen=lambda: f"the other worker's job was {'over' if job.done() else 'running'}"
    )
    assert not job.done()
    assert [model["name"] for model in answer["models"]["pruned"]] == ["old.safetensors"]
    assert (volume / "models" / "checkpoints" / "used.safetensors").read_bytes() == used
    assert job.result(30)["images"]
    case.next_job(pruner)


def age(worker: InProcess, *places: str) -> None:
    """Let the volume's books say that nobody has used these models for long."""
    folders = worker.worker.models.folders
    entries = [folders.read().entries[Location.parse(place)] for place in places]
    folders.commit({entry.location: replace(entry, last_used=entry.last_used - LONG_AGO_S) for entry in entries})

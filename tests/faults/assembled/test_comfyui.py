"""ComfyUI dies, hangs, does not start, runs out of memory, is interrupted, or takes a part of a prompt."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.prompts import image_prompt, node, sampler_prompt
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until

fault = pytest.mark.fault


@pytest.fixture(scope="module")
def checkpoint(worker):
    """A line for a checkpoint that prompts can name."""
    return worker.add("tiny.safetensors", safetensors_bytes(3000, "tiny"), "ckpt")


@fault("killed-before")
def test_a_prompt_that_had_not_begun_is_run_by_the_next_comfyui(worker, case):
    worker.misbehave(die={"at": "on_prompt", "count": 1})
    case.runs(worker, prompt=image_prompt(0xABC101))


@fault("killed-during")
def test_a_prompt_that_had_begun_is_reported_with_comfyuis_last_lines(worker, case):
    worker.misbehave(die={"at": "executing", "count": 1})
    answer = case.runs(worker, prompt=image_prompt(0xABC102))
    assert any("told to die" in line for line in answer["details"]["comfyui_log"])
    assert "refresh_worker" not in answer


@fault("killed-between")
def test_a_comfyui_killed_between_two_prompts_is_started_again(worker, case):
    before = worker.look()
    os.kill(worker.comfyui_pid(), signal.SIGKILL)
    wait_until(lambda: not worker.worker.runner.is_ready)  # killed between two prompts, not at the next one
    case.runs(worker, before=before, prompt=image_prompt(0xABC103))


@fault("hangs")
def test_a_node_that_hears_no_interrupt_costs_that_job_only(worker, case, monkeypatch):
    monkeypatch.setattr("comfy_runner.INTERRUPT_GRACE_S", 0.5)
    worker.misbehave(stall={"s": 60, "class": "EmptyImage", "count": 1})
    case.runs(worker, prompt=image_prompt(0xABC105), timeout_s=1)


@fault("out-of-memory")
def test_memory_that_ran_out_is_freed(worker, case, checkpoint):
    worker.answer({"action": "ensure", "repo_list": [worker.own, checkpoint]})
    worker.misbehave(oom={"class": "KSampler", "count": 1})
    answer = case.runs(worker, prompt=sampler_prompt("tiny.safetensors", steps=1, seed=1))
    assert answer["details"]["class_type"] == "KSampler"


@fault("interrupted")
def test_an_interrupt_that_was_not_ours_is_not_a_success(worker, case, checkpoint):
    worker.answer({"action": "ensure", "repo_list": [worker.own, checkpoint]})
    worker.misbehave(interrupt_self_s={"value": 0.2, "count": 1})
    case.runs(worker, prompt=sampler_prompt("tiny.safetensors", steps=1000, seed=2))


@fault("partial-validation")
def test_a_part_that_comfyui_throws_away_is_an_error_and_the_rest_does_not_run_on(worker, case):
    too_small = {
        "8": node("EmptyImage", width=0, height=8, batch_size=1, color=0),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }
    answer = case.runs(worker, prompt={**image_prompt(0xABC106), **too_small})
    assert answer["details"]["node_id"] == "8"

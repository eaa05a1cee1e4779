"""ComfyUI dies, hangs or is slow while a prompt is in it: the job ends with the reason, and the next job works."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.runner_bench import image_prompt, misbehave_from_start, on_bench, sampler_prompt
from worker.errors import Code


def test_death_after_submission_but_before_execution_is_tried_again(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "on_prompt", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs
        assert bench.runner.server.generation == 2

    on_bench(tmp_path, scenario)


def test_death_during_execution_is_reported_and_the_next_job_works(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "executing", "count": 1})

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_DIED
        assert "exit code 1" in str(error)
        assert any("told to die" in line for line in error.details["comfyui_log"])
        assert not error.refresh_worker
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_death_right_after_the_prompt_still_answers(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "after", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_a_hanging_node_ends_in_timeout_and_the_next_job_works(tmp_path, monkeypatch):
    monkeypatch.setattr("comfy_runner.INTERRUPT_GRACE_S", 0.5)

    async def scenario(bench):
        await bench.misbehave(stall={"s": 60, "class": "EmptyImage"})
        error = await bench.fail(image_prompt(1), timeout_s=1)
        assert error.code is Code.TIMEOUT
        assert (await bench.run(image_prompt(2))).outputs
        assert bench.runner.server.trusted  # it was our doing

    on_bench(tmp_path, scenario)


def test_a_cancelled_job_leaves_nothing_in_comfyui(tmp_path, safetensors_checkpoint):
    async def scenario(bench):
        await bench.run(image_prompt(1))
        for _ in range(5):
            job = asyncio.create_task(bench.run(sampler_prompt(safetensors_checkpoint, steps=1000)))
            await bench.wait_for(bench.is_running_something)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            assert await bench.get("/queue") == {"queue_running": [], "queue_pending": []}
        assert (await bench.run(image_prompt(2))).outputs
        assert bench.runner.server.generation == 1

    on_bench(tmp_path, scenario)


def test_a_prompt_that_500s_once_is_submitted_again(tmp_path):
    async def scenario(bench):
        await bench.misbehave(http_500={"/prompt": 1})
        assert (await bench.run(image_prompt(1))).outputs
        await bench.misbehave(http_500={"/prompt": 2})
        error = await bench.fail(image_prompt(2))
        assert error.code is Code.PROMPT_INVALID
        assert error.details["comfyui_log"]

    on_bench(tmp_path, scenario)


def test_a_slow_answer_to_prompt_is_waited_for_up_to_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.comfyui.api.ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("comfy_runner.INTERRUPT_GRACE_S", 0.5)

    async def scenario(bench):
        await bench.misbehave(http_hang={"/prompt": 0.6})
        assert (await bench.run(image_prompt(1))).outputs
        assert (await bench.get("/simulator/log"))["prompts_executed"] == 1
        await bench.misbehave(http_hang={"/prompt": 60})
        assert (await bench.fail(image_prompt(2), timeout_s=1)).code is Code.TIMEOUT

    on_bench(tmp_path, scenario)

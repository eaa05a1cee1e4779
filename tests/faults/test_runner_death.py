"""ComfyUI dies, hangs, or does not start: told with its last words, started again once, the next job works."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from tests.support.runner_bench import image_prompt, on_bench, sampler_prompt
from worker.errors import Code


@pytest.fixture
def from_the_start(tmp_path, monkeypatch):
    """Put faults in force from the simulator's start on, their counts kept over its restarts."""

    def set_faults(**wanted):
        monkeypatch.setenv("SIMULATOR_MISBEHAVE", json.dumps(wanted))
        monkeypatch.setenv("SIMULATOR_MISBEHAVE_STATE", str(tmp_path / "faults.json"))

    return set_faults


def kill(bench) -> None:
    os.kill(bench.runner.server._process.pid, signal.SIGKILL)


def test_killed_before_a_job_costs_that_job_only_the_restart(tmp_path):
    async def scenario(bench):
        await bench.run(image_prompt(1))
        kill(bench)
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_death_after_submission_but_before_execution_is_tried_again(tmp_path, from_the_start):
    from_the_start(die={"at": "on_prompt", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs
        assert bench.runner.server.generation == 2

    on_bench(tmp_path, scenario)


def test_death_during_execution_is_reported_and_the_next_job_works(tmp_path, from_the_start):
    from_the_start(die={"at": "executing", "count": 1})

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_DIED
        assert "exit code 1" in str(error)
        assert any("told to die" in line for line in error.details["comfyui_log"])
        assert not error.refresh_worker
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_death_right_after_the_prompt_still_answers(tmp_path, from_the_start):
    from_the_start(die={"at": "after", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_a_second_death_ends_the_trust_in_this_worker(tmp_path, from_the_start):
    from_the_start(die={"at": "executing"})

    async def scenario(bench):
        assert not (await bench.fail(image_prompt(1))).refresh_worker
        error = await bench.fail(image_prompt(2))
        assert error.code is Code.COMFYUI_DIED
        assert error.refresh_worker
        assert not bench.lost  # a job was there to tell it
        assert (await bench.fail(image_prompt(3))).refresh_worker

    on_bench(tmp_path, scenario)


def test_a_finished_job_between_two_deaths_restores_the_trust(tmp_path):
    async def scenario(bench):
        for color in range(3):
            await bench.run(image_prompt(color))
            kill(bench)
        assert (await bench.run(image_prompt(9))).outputs

    on_bench(tmp_path, scenario)


def test_two_deaths_while_idle_tell_the_worker_to_end(tmp_path):
    async def scenario(bench):
        await bench.run(image_prompt(1))
        first = bench.runner.server._process
        kill(bench)

        async def second_one_is_up():
            return bench.runner.server._process is not first

        await bench.wait_for(second_one_is_up)
        kill(bench)

        async def lost():
            return bool(bench.lost)

        await bench.wait_for(lost)

    on_bench(tmp_path, scenario)


def test_a_start_that_fails_shows_its_last_lines(tmp_path, from_the_start):
    from_the_start(die={"at": "at_start"})

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_START_FAILED
        assert "ModuleNotFoundError: No module named 'torchsde'" in error.details["comfyui_log"]
        assert error.refresh_worker
        assert not bench.lost

    on_bench(tmp_path, scenario)


def test_a_start_that_fails_once_is_tried_again(tmp_path, from_the_start):
    from_the_start(die={"at": "at_start", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs

    on_bench(tmp_path, scenario)


def test_a_start_that_takes_too_long_says_so(tmp_path, from_the_start):
    from_the_start(start_delay_s=60)

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_START_FAILED
        assert "within 1 s" in str(error)

    on_bench(tmp_path, scenario, COMFYUI_START_TIMEOUT_S="1")


def test_a_job_whose_time_is_over_before_comfyui_has_started_says_so_and_blames_nobody(tmp_path, from_the_start):
    from_the_start(start_delay_s=2)

    async def scenario(bench):
        error = await bench.fail(image_prompt(1), timeout_s=0.5)
        assert error.code is Code.TIMEOUT
        assert not error.refresh_worker
        assert (await bench.run(image_prompt(2))).outputs
        assert bench.runner.server.generation == 1

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

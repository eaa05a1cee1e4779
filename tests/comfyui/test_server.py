"""ComfyUI is started, waited for, and restarted once after a death; the next job works."""

from __future__ import annotations

import socket

from tests.support.runner_bench import image_prompt, misbehave_from_start, on_bench
from worker.comfyui import server
from worker.errors import Code


def test_comfyuis_port_is_free_and_none_that_an_outgoing_connection_may_get(monkeypatch):
    assert max(server.PORTS) < 32_768  # where Linux begins with outgoing connections, unless it is told otherwise
    with socket.create_server(("127.0.0.1", server.free_port())) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORTS", range(port, port + 2))
        assert {server.free_port() for _ in range(20)} == {port + 1}


def test_killed_before_a_job_costs_that_job_only_the_restart(tmp_path):
    async def scenario(bench):
        await bench.run(image_prompt(1))
        bench.kill_comfyui()
        assert (await bench.run(image_prompt(2))).outputs

    on_bench(tmp_path, scenario)


def test_a_second_death_ends_the_trust_in_this_worker(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "executing"})

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
            bench.kill_comfyui()
        assert (await bench.run(image_prompt(9))).outputs

    on_bench(tmp_path, scenario)


def test_two_deaths_while_idle_tell_the_worker_to_end(tmp_path):
    async def scenario(bench):
        await bench.run(image_prompt(1))
        first = bench.runner.server._process
        bench.kill_comfyui()

        async def second_one_is_up():
            return bench.runner.server._process is not first

        await bench.wait_for(second_one_is_up)
        bench.kill_comfyui()

        async def lost():
            return bool(bench.lost)

        await bench.wait_for(lost)

    on_bench(tmp_path, scenario)


def test_a_start_that_fails_shows_its_last_lines(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "at_start"})

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_START_FAILED
        assert "ModuleNotFoundError: No module named 'torchsde'" in error.details["comfyui_log"]
        assert error.refresh_worker
        assert not bench.lost

    on_bench(tmp_path, scenario)


def test_a_start_that_fails_once_is_tried_again(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, die={"at": "at_start", "count": 1})

    async def scenario(bench):
        assert (await bench.run(image_prompt(1))).outputs

    on_bench(tmp_path, scenario)


def test_a_start_that_takes_too_long_says_so(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, start_delay_s=60)

    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_START_FAILED
        assert "within 1 s" in str(error)

    on_bench(tmp_path, scenario, COMFYUI_START_TIMEOUT_S="1")


def test_a_job_whose_time_is_over_before_comfyui_has_started_says_so_and_blames_nobody(tmp_path, monkeypatch):
    misbehave_from_start(monkeypatch, tmp_path, start_delay_s=2)

    async def scenario(bench):
        error = await bench.fail(image_prompt(1), timeout_s=0.5)
        assert error.code is Code.TIMEOUT
        assert not error.refresh_worker
        assert (await bench.run(image_prompt(2))).outputs
        assert bench.runner.server.generation == 1

    on_bench(tmp_path, scenario)


def test_a_url_where_nothing_listens_says_so(tmp_path):
    async def scenario(bench):
        error = await bench.fail(image_prompt(1))
        assert error.code is Code.COMFYUI_START_FAILED
        assert "127.0.0.1:9" in str(error)

    on_bench(tmp_path, scenario, COMFYUI_URL="http://127.0.0.1:9", COMFYUI_START_TIMEOUT_S="1")

"""A ComfyRunner on a simulator of its own, for tests that make things go wrong between the two."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_runner import ComfyRunner, Result
from tests.support.prompts import image_prompt, node, sampler_prompt
from tests.support.waiting import wait_until
from worker.comfyui.server import State
from worker.errors import WorkerError
from worker.job import parse_job
from worker.settings import SIMULATOR_PATH, Settings

__all__ = ["RunnerBench", "image_prompt", "misbehave_from_start", "node", "on_bench", "sampler_prompt"]

JOB_TIMEOUT_S = 30


class RunnerBench:
    """The runner, and short ways to use it and to upset its ComfyUI."""

    def __init__(self, base: Path, env: dict[str, str]) -> None:
        self.base = base
        settings = {
            "COMFYUI_PATH": str(SIMULATOR_PATH),
            "COMFYUI_ARGS": f"--base-directory '{base}'",
            "COMFYUI_START_TIMEOUT_S": "30",
            **env,
        }
        self.lost: list[bool] = []
        self.runner = ComfyRunner(Settings.from_environ(settings), on_lost=lambda: self.lost.append(True))

    @property
    def url(self) -> str:
        """Of the ComfyUI that runs the prompts."""
        return self.runner.server.url

    async def run(self, prompt: dict[str, Any], timeout_s: float = JOB_TIMEOUT_S, **fields: Any) -> Result:
        """Run a prompt as a job."""
        job = parse_job({"id": "test", "input": {"prompt": prompt, **fields}}, JOB_TIMEOUT_S)
        return await self.runner.run(job, job.prompt, time.monotonic() + timeout_s)

    async def fail(self, prompt: dict[str, Any], timeout_s: float = JOB_TIMEOUT_S, **fields: Any) -> WorkerError:
        """Run a prompt that must fail. Return its error."""
        try:
            result = await self.run(prompt, timeout_s, **fields)
        except WorkerError as error:
            return error
        raise AssertionError(f"should have failed, but answered {result}")

    async def misbehave(self, **faults: Any) -> None:
        """Put the simulator's faults in force."""
        await self.runner.ready(time.monotonic() + JOB_TIMEOUT_S)
        answer = await asyncio.to_thread(
            lambda: requests.post(f"{self.url}/simulator/misbehave", json=faults, timeout=10)
        )
        assert answer.ok, answer.text

    def kill_comfyui(self) -> None:
        """Kill it as the kernel does when memory runs out, and wait until the worker has noticed.

        A busy machine takes a while to end a process. A job in that time would meet another fault than this one.
        """
        server, process = self.runner.server, self.runner.server._process
        assert process and process.pid
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: server._process is not process or server.state is not State.READY)

    async def get(self, path: str) -> Any:
        """Return ComfyUI's JSON at a path."""
        return (await asyncio.to_thread(lambda: requests.get(self.url + path, timeout=10))).json()

    async def wait_for(self, happened: Callable[[], Awaitable[bool]], timeout_s: float = 10) -> None:
        """Wait until ``happened`` returns True."""
        deadline = time.monotonic() + timeout_s
        while not await happened():
            assert time.monotonic() < deadline, "it never happened"
            await asyncio.sleep(0.02)

    async def is_running_something(self) -> bool:
        """Return True if ComfyUI executes a prompt right now."""
        return bool((await self.get("/queue"))["queue_running"])


def misbehave_from_start(monkeypatch: pytest.MonkeyPatch, base: Path, **faults: Any) -> None:
    """Put faults in force from the simulator's start on, their counts kept over its restarts."""
    monkeypatch.setenv("SIMULATOR_MISBEHAVE", json.dumps(faults))
    monkeypatch.setenv("SIMULATOR_MISBEHAVE_STATE", str(base / "faults.json"))


def on_bench(base: Path, scenario: Callable[[RunnerBench], Awaitable[None]], **env: str) -> None:
    """Run a scenario on a fresh bench and end everything after it."""

    async def whole() -> None:
        bench = RunnerBench(base, env)
        try:
            await scenario(bench)
        finally:
            await bench.runner.server.api.close()
            await asyncio.to_thread(bench.runner.stop)

    asyncio.run(whole())

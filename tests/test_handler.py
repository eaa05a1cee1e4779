"""A job in, an answer out: whatever fails on the way becomes an error with its code, and nothing of a job stays."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

import handler
from handler import Worker
from worker.comfyui.api import NoAnswerError
from worker.errors import Code, WorkerError
from worker.settings import SIMULATOR_PATH, Settings
from worker.stop import StoppedError

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}


@pytest.fixture
def worker(tmp_path):
    """A worker whose ComfyUI is never started."""
    flags = f"--base-directory '{tmp_path}'"
    found = Worker(Settings.from_environ({"COMFYUI_PATH": str(SIMULATOR_PATH), "COMFYUI_ARGS": flags}))
    yield found
    found.stop()


def answer(worker: Worker, **fields) -> dict:
    return asyncio.run(worker.handle({"id": "job", "input": fields}))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (WorkerError(Code.DISK_FULL, "no room"), "DISK_FULL", "DISK_FULL: no room. "),
        (NoAnswerError("reset"), "COMFYUI_DIED", "COMFYUI_DIED: ComfyUI did not answer (reset). "),
        (KeyError("x"), "INTERNAL", "INTERNAL: KeyError: 'x'. "),
    ],
)
def test_every_error_is_answered_with_its_code(worker, monkeypatch, error, code, text):
    async def fail(event):
        raise error

    released = []
    monkeypatch.setattr(worker, "_answer", fail)
    monkeypatch.setattr(worker.models, "release", lambda: released.append(worker._running_jobs))
    found = answer(worker)
    assert found["error"].startswith(text)
    assert found["error_code"] == code
    assert released == [0]


def test_the_models_are_released_after_the_last_of_several_jobs(worker, monkeypatch):
    first_may_end, released = asyncio.Event(), []

    async def wait(event):
        if event["id"] == "first":
            await first_may_end.wait()
        return {}

    async def both() -> None:
        first = asyncio.create_task(worker.handle({"id": "first"}))
        await asyncio.sleep(0)
        await worker.handle({"id": "second"})
        assert released == []
        first_may_end.set()
        await first

    monkeypatch.setattr(worker, "_answer", wait)
    monkeypatch.setattr(worker.models, "release", lambda: released.append("now"))
    asyncio.run(both())
    assert released == ["now"]


@pytest.mark.parametrize("failing", ["models", "inputs", "comfyui"])
def test_an_error_in_one_preparation_ends_the_others_before_the_answer(worker, monkeypatch, failing):
    ended = []

    def prepare(*_, stop, **__):
        if failing == "models":
            raise WorkerError(Code.MODEL_NOT_FOUND, "gone")
        _until_stopped(stop, "models")

    def download(files, stop):
        if failing == "inputs":
            raise WorkerError(Code.DOWNLOAD_FAILED, "gone")
        _until_stopped(stop, "inputs")

    async def ready(deadline):
        if failing == "comfyui":
            raise WorkerError(Code.COMFYUI_START_FAILED, "gone")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("comfyui")

    def _until_stopped(stop, name):
        while not stop.is_set():
            time.sleep(0.01)
        ended.append(name)
        raise StoppedError

    monkeypatch.setattr(worker.models, "prepare", prepare)
    monkeypatch.setattr(worker.runner.inputs, "download", download)
    monkeypatch.setattr(worker.runner, "ready", ready)
    found = answer(worker, prompt=PROMPT, files=[{"name": "a.png", "b64": "eA=="}])
    assert "gone" in found["error"]
    assert sorted(ended) == sorted({"models", "inputs", "comfyui"} - {failing})


def test_a_worker_beyond_trust_ends_once_its_answer_is_delivered(worker, monkeypatch):
    order = []

    async def deliver() -> None:
        await worker.handle({"id": "job"})
        order.append("delivered")

    async def whole() -> None:
        await asyncio.create_task(deliver())
        await asyncio.sleep(0)

    async def fail(event):
        raise WorkerError(Code.COMFYUI_DIED, "again", refresh_worker=True)

    monkeypatch.setattr(worker, "_answer", fail)
    monkeypatch.setattr(worker.runner, "server", SimpleNamespace(trusted=False))
    monkeypatch.setattr(worker, "end", order.append)
    asyncio.run(whole())
    monkeypatch.undo()
    assert order == ["delivered", 1]


def test_a_bad_setting_ends_the_start_with_its_name(monkeypatch):
    monkeypatch.setenv("JOB_TIMEOUT_S", "soon")
    with pytest.raises(SystemExit, match="JOB_TIMEOUT_S: 'soon' cannot be used"):
        handler.main()

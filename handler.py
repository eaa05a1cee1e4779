"""RunPod's door: one job in, one answer out. Reads like the table of contents of a job.

``python handler.py --test_input '{"input": {...}}'`` runs one job here and now; without it ``test_input.json`` is run.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import time
from typing import Any

from comfy_runner import ComfyRunner, Result
from worker import local_run, logs
from worker.comfy_api import NoAnswer
from worker.errors import Code, WorkerError
from worker.job import Job, parse_job
from worker.outputs import check_answer, entry, official_answer
from worker.settings import Settings, SettingsError

log = logging.getLogger("handler")


class Worker:
    """What lives as long as the process: the settings and the ComfyUI that every job uses."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner = ComfyRunner(settings, on_lost=lambda: self.end(1))
        self.comfyui_start_s = 0.0

    async def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """Answer one job. Never raises but for cancellation: the SDK would show the caller a traceback."""
        logs.job_id.set(str(event.get("id", "-")))
        try:
            answer = await self._answer(event)
        except WorkerError as error:
            log.error("%s", error)
            answer = error.answer()
        except NoAnswer as error:
            answer = WorkerError(Code.COMFYUI_DIED, f"ComfyUI did not answer ({error})").answer()
        except Exception as error:
            log.exception("unexpected")
            answer = WorkerError(Code.INTERNAL, f"{type(error).__name__}: {error}").answer()
        if not self.runner.server.trusted:
            self._end_after_this_job()
        return answer

    async def _answer(self, event: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        job = parse_job(event, self.settings.job_timeout_s)
        deadline = started + job.timeout_s
        _refuse_models(job)
        await self._comfyui(deadline)
        result = await self.runner.run(job, job.prompt, deadline)
        return await asyncio.to_thread(self._pack, job, result, started)

    async def _comfyui(self, deadline: float) -> None:
        """Have ComfyUI up; the first job waits for its start, later ones do not."""
        started = time.monotonic()
        await self.runner.ready(deadline)
        self.comfyui_start_s = time.monotonic() - started

    def _pack(self, job: Job, result: Result, started: float) -> dict[str, Any]:
        entries = [entry(output) for output in result.outputs]
        answer: dict[str, Any] = {
            "images": [item for item in entries if item["media_type"].startswith("image/")],
            "files": [item for item in entries if not item["media_type"].startswith("image/")],
            "prompt_id": result.prompt_id,
            "models": {"ready": [], "downloaded": [], "pruned": []},
            "timings": {
                "comfyui_start_s": round(self.comfyui_start_s, 3),
                "models_s": 0.0,
                "run_s": round(result.run_s, 3),
                "collect_s": round(result.collect_s, 3),
                "total_s": round(time.monotonic() - started, 3),
            },
            "warnings": result.warnings,
        }
        answer = official_answer(answer) if job.official else answer
        check_answer(answer, self.settings.result_limit_mb)
        return answer

    def _end_after_this_job(self) -> None:
        """End the process once the SDK has delivered this answer; the container ends too, and RunPod starts another."""
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self.end(1))

    def end(self, exit_code: int) -> None:
        """End the worker now and leave nothing running: neither ComfyUI nor the SDK's ping process."""
        self.runner.stop()
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(exit_code)  # the SDK would wait up to 90 s for its long poll, and lose a job that arrives in it


def _refuse_models(job: Job) -> None:
    if job.action != "run" or (job.repo_list.strip() and not job.skip_repo_list):
        what = f"`action` {job.action!r}" if job.action != "run" else "`repo_list`"
        raise WorkerError(
            Code.INVALID_INPUT,
            f"{what} needs model management, which this version does not have yet",
            "Leave it out and name models that the worker already has.",
        )


def main() -> None:
    """Start ComfyUI, then the SDK, which takes the jobs."""
    try:
        settings = Settings.from_environ()
    except SettingsError as error:
        sys.exit(str(error))
    logs.set_up(settings)
    if settings.simulated:
        log.warning(
            "No ComfyUI here: the built-in simulator runs the prompt (its pictures are not diffusion). "
            "`make comfyui` installs the real one; COMFYUI_PATH names one you have."
        )
    worker = Worker(settings)
    worker.runner.launch()
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # at DEBUG the SDK prints every prompt and every answer whole
    try:
        import runpod  # noqa: PLC0415 - it takes over a second, in which ComfyUI already starts

        logs.set_up(settings)
        handler = local_run.saving_results(worker.handle) if local_run.is_local() else worker.handle
        runpod.serverless.start({"handler": handler})
    finally:
        worker.runner.stop()


if __name__ == "__main__":
    main()

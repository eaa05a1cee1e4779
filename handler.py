"""RunPod's handler: takes a job, returns its answer. The steps of a job, in order.

``python handler.py --test_input '{"input": {...}}'`` runs that job locally; without it, the job in ``test_input.json``.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from comfy_runner import ComfyRunner, Result
from model_manager import ModelManager, ModelReport
from worker import __version__, logs
from worker.comfyui.api import NoAnswerError
from worker.comfyui.progress import JobProgress
from worker.errors import Code, WorkerError
from worker.inputs.folder import Inputs
from worker.job import Job, JobAnswer, Prompt, parse_job
from worker.memory import lower_mmap_threshold
from worker.models.prompt_names import loader_classes, match_models
from worker.results.delivery import Delivery, DeliveryOptions, RenderedFrom
from worker.results.metadata import RunInfo
from worker.results.outputs import official_answer
from worker.runpod_sdk import local_run
from worker.runpod_sdk.progress_sender import ProgressSender
from worker.runpod_sdk.rejected_results import report_rejected_results
from worker.runpod_sdk.shutdown import exit_after_sdk_shutdown
from worker.runpod_sdk.streamed_results import stream_large_results, without_debug_dump
from worker.settings import Settings, SettingsError
from worker.sites.types import FileProgress, Report
from worker.stop import Stop

log = logging.getLogger("handler")

T = TypeVar("T")


class Worker:
    """The process's lifetime objects, which all jobs share: settings, models and ComfyUI."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner = ComfyRunner(settings, on_lost=lambda: self.end(1))
        self.models = ModelManager(settings, release=self.runner.release_models)
        self._running_jobs = 0

    async def handle(self, event: dict[str, Any]) -> JobAnswer:
        """Answer one job. Raises only when cancelled: the SDK would show the caller a traceback."""
        logs.job_id.set(str(event.get("id", "-")))
        self._running_jobs += 1
        try:
            answer = await self._answer(event)
        except WorkerError as error:
            log.error("%s", error)
            answer = error.answer()
        except NoAnswerError as error:
            answer = WorkerError(Code.COMFYUI_DIED, f"ComfyUI did not answer ({error})").answer()
        except Exception as error:
            log.exception("unexpected error")
            answer = WorkerError(Code.INTERNAL, f"{type(error).__name__}: {error}").answer()
        finally:
            self._running_jobs -= 1
            if not self._running_jobs:
                self.models.release()
        if not self.runner.server.trusted:
            self._end_after_this_job()
        return answer

    async def _answer(self, event: dict[str, Any]) -> JobAnswer:
        timings = _JobTimings()
        job = parse_job(event, self.settings.job_timeout_s)
        deadline = timings.started + job.timeout_s
        if job.action == "inspect":
            return await self._inspect()
        options = DeliveryOptions.of(job, self.settings)
        async with ProgressSender(job.id, job.prompt, with_previews=job.preview) as progress:
            models, inputs = await self._prepare(job, deadline, timings, progress)
            if job.action == "ensure":
                return {"images": [], "files": [], **_report(models, timings)}
            prompt = await self._match_names(job, models)
            result = await self.runner.run(job, prompt, deadline, progress, inputs=inputs)
        timings.run_s, timings.collect_s = result.run_s, result.collect_s
        run_info = await self._run_info(models, timings) if job.metadata else RunInfo()
        rendered_from = RenderedFrom(job.id, result.prompt, job.pnginfo, result.cached, run_info)
        delivery = Delivery(options, rendered_from, result.outputs, Stop(deadline))
        return await delivery.in_thread(lambda: _build_answer(job, delivery, result, _report(models, timings)))

    async def _prepare(
        self, job: Job, deadline: float, timings: _JobTimings, progress: JobProgress
    ) -> tuple[ModelReport, Inputs]:
        """Get models and input files and start ComfyUI, in parallel; an error in one ends all."""
        stop, loop = Stop(deadline), asyncio.get_running_loop()
        progress.set_phase("starting", "Ready" if self.runner.is_ready else "ComfyUI is starting")

        def report(files: Sequence[FileProgress]) -> None:  # called from a thread
            loop.call_soon_threadsafe(progress.set_models, files)

        models = asyncio.create_task(timings.time_models(asyncio.to_thread(self._ensure_models, job, stop, report)))
        inputs = asyncio.create_task(self._download_inputs(job, stop))
        comfyui = asyncio.create_task(timings.time_comfyui_start(self._start_comfyui(job, deadline)))
        try:
            await asyncio.gather(asyncio.shield(models), asyncio.shield(inputs), comfyui)
        finally:
            stop.set()  # threads cannot be cancelled, only asked; none may run on into the next job
            comfyui.cancel()
            await asyncio.gather(models, inputs, comfyui, return_exceptions=True)
        return models.result(), inputs.result()

    async def _download_inputs(self, job: Job, stop: Stop) -> Inputs:
        if not job.files or job.action != "run":
            return []
        return await asyncio.to_thread(self.runner.inputs.download, job.files, stop)

    async def _start_comfyui(self, job: Job, deadline: float) -> None:
        if job.action == "run":
            await self.runner.ready(deadline)

    def _ensure_models(self, job: Job, stop: Stop, report: Report) -> ModelReport:
        return self.models.prepare(
            job.repo_list,
            job.prompt,
            prune=job.prune,
            skip=job.skip_repo_list,
            stop=stop,
            report=report,
            no_other_job=lambda: self._running_jobs <= 1,
            read_ahead=not self.runner.is_ready,
        )

    async def _match_names(self, job: Job, models: ModelReport) -> Prompt:
        """Return the prompt with its models renamed to the names that this ComfyUI lists."""
        info = await self.runner.object_info(loader_classes(job.prompt))
        matched = match_models(job.prompt, info, models.names)
        models.warnings.extend(matched.warnings)
        return matched.prompt

    async def _inspect(self) -> JobAnswer:
        """Return this worker's models and state, without waiting for a starting ComfyUI."""
        found = await asyncio.to_thread(self.models.inspect)
        return {**found, "comfyui": await self.runner.stats(), "simulator": self.settings.simulated}

    async def _run_info(self, models: ModelReport, timings: _JobTimings) -> RunInfo:
        """Return the models, timings and versions for the images' metadata."""
        stats, known = await asyncio.gather(self.runner.stats(), asyncio.to_thread(self.models.known_models))
        stats = stats or {}
        versions = {
            "worker": __version__,
            "comfyui": str((stats.get("system") or {}).get("comfyui_version", "unknown")),
        }
        return RunInfo([*models.ready, *models.downloaded, *known], timings.answer(), versions)

    def _end_after_this_job(self) -> None:
        """End the process once the SDK has delivered this answer; RunPod then starts another container."""
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self.end(1))

    def stop(self) -> None:
        """Stop ComfyUI and the read-ahead; idempotent."""
        self.models.close()
        self.runner.stop()

    def end(self, exit_code: int) -> None:
        """End the worker now, with ComfyUI and the SDK's ping process."""
        self.stop()
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(exit_code)  # the SDK would wait up to 90 s for its long poll, and lose a job that it returns


class _JobTimings:
    """Durations of a job's steps, in seconds. Models and ComfyUI's start overlap: the sum may exceed the total."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.comfyui_start_s = self.models_s = self.run_s = self.collect_s = 0.0

    async def time_models(self, work: Awaitable[T]) -> T:
        started = time.monotonic()
        try:
            return await work
        finally:
            self.models_s = time.monotonic() - started

    async def time_comfyui_start(self, work: Awaitable[None]) -> None:
        started = time.monotonic()
        await work
        self.comfyui_start_s = time.monotonic() - started

    def answer(self) -> dict[str, float]:
        total_s = time.monotonic() - self.started
        names = ("comfyui_start_s", "models_s", "run_s", "collect_s")
        return {**{name: round(getattr(self, name), 3) for name in names}, "total_s": round(total_s, 3)}


def _build_answer(job: Job, delivery: Delivery, result: Result, report: JobAnswer) -> JobAnswer:
    answer: JobAnswer = {**delivery.entries_by_kind(), "prompt_id": result.prompt_id, **report}
    answer["warnings"] = [*report["warnings"], *result.warnings, *delivery.warnings]
    return official_answer(answer) if job.official else answer


def _report(models: ModelReport, timings: _JobTimings) -> JobAnswer:
    return {"models": models.answer(), "timings": timings.answer(), "warnings": models.warnings}


def main() -> None:
    """Start ComfyUI, then the SDK, which fetches the jobs."""
    try:
        settings = Settings.from_environ()
    except SettingsError as error:
        sys.exit(str(error))
    logs.set_up(settings)
    lower_mmap_threshold()
    if settings.simulated:
        log.warning(
            "No ComfyUI found: the built-in simulator runs the prompt (its pictures are not diffusion). "
            "`make comfyui` installs the real one; or set COMFYUI_PATH to an existing one."
        )
    worker = Worker(settings)
    worker.runner.launch()
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # at DEBUG the SDK prints every prompt and answer
    try:
        import runpod  # noqa: PLC0415 - it takes over a second, while ComfyUI already starts

        logs.set_up(settings)
        exit_after_sdk_shutdown(lambda: worker.end(0))
        stream_large_results()
        report_rejected_results()
        handler = local_run.saving_results(worker.handle) if local_run.is_local() else without_debug_dump(worker.handle)
        runpod.serverless.start({"handler": handler})
    finally:
        worker.stop()


if __name__ == "__main__":
    main()

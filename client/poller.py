"""Follows one job at its endpoint until it is over: asks, backs off, understands, and never gives up by itself."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import answers, estimate
from .answers import Failure, Report
from .config import Config
from .host import Host
from .jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, JobTable
from .links import LinkTrouble
from .native_events import Stage
from .remote_sink import log
from .results import ResultSaver
from .runpod_client import EndpointError, RunPodClient, Target

MAX_PREVIEW_CHARS = 400_000


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks."""

    running: float = 0.6
    queued: float = 1.0
    queued_long: float = 3.0
    trouble: float = 1.0
    trouble_most: float = 30.0
    missing_grace: float = 15.0


class Follower:
    """Shared by all jobs; :meth:`follow` runs once for each."""

    def __init__(
        self,
        *,
        host: Host,
        config: Config,
        table: JobTable,
        client: RunPodClient,
        stage: Stage,
        changed: Callable[[], None],
    ) -> None:
        self._host, self._config, self._table, self._client, self._stage = host, config, table, client, stage
        self._changed = changed
        self._wake: dict[str, asyncio.Event] = {}
        self.pace = Pace()

    async def follow(self, job: Job) -> None:
        """Stay with a job until it is over."""
        self._wake[job.prompt_id] = asyncio.Event()
        self._stage.enter(job)
        failures = 0
        try:
            while not job.is_over:
                try:
                    wait = await self._look(job)
                    failures = 0
                except EndpointError as error:
                    failures += 1
                    wait = self._on_trouble(job, error, failures)
                except Exception:
                    log.exception("Remote job %s: looking again in %g s", job.prompt_id, self.pace.trouble_most)
                    wait = self.pace.trouble_most
                await self._sleep(job, wait)
        finally:
            self._wake.pop(job.prompt_id, None)

    def poke(self, job: Job) -> None:
        """Look now rather than after the pause."""
        if event := self._wake.get(job.prompt_id):
            event.set()

    async def _sleep(self, job: Job, seconds: float) -> None:
        event = self._wake[job.prompt_id]
        if not job.is_over:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
        event.clear()

    async def _look(self, job: Job) -> float:
        key = self._config.key_for(job.endpoint)
        if key is None:
            raise EndpointError("key", "There is no API key for this endpoint any more.")
        target = Target(job.endpoint, key)
        if job.cancel_wanted and job.phase != "cancelling":
            await self._cancel(target, job)
        report = answers.read_status(await self._client.status(target, job.runpod_id))
        before, job.last_seen = job.last_seen, time.time()
        if job.last_seen - before > 5 or int(job.last_seen) // 60 != int(before) // 60:
            self._table.save(job)  # after a restart, a lost job is told from an expired one by this
        await self._act(job, report)
        if job.state == RUNNING:
            return self.pace.running
        return self.pace.queued if time.time() - job.created < 20 else self.pace.queued_long

    async def _cancel(self, target: Target, job: Job) -> None:
        """Tell the endpoint; where it refuses, since the job has just ended, its status says how."""
        try:
            await self._client.cancel(target, job.runpod_id)
        except EndpointError as error:
            if error.kind not in ("refused", "missing"):
                raise
        job.phase = "cancelling"

    async def _act(self, job: Job, report: Report) -> None:
        if job.is_over:  # given up while the answer was on its way
            return
        if report.state == "done":
            await self._finish(job, report)
        elif report.state == "failed":
            self.fail(job, report.failure or Failure("The job failed."))
        elif report.state == "cancelled":
            self.cancelled(job)
        elif report.state == "queued":
            self._note(job, QUEUED, "queued", "Waiting for a worker")
        else:
            self._running(job, report.progress)

    # -- while it runs --

    def _running(self, job: Job, progress: dict[str, Any]) -> None:
        phase = str(progress.get("phase") or "")
        if phase and phase != "running":
            self._note(job, RUNNING, phase, answers.phase_message(progress), _percent(progress.get("percent")))
            return
        if not job.started:
            job.started = time.time()
        if phase:
            self._note(job, RUNNING, phase, answers.phase_message(progress), _percent(progress.get("percent")))
            self._real(job, progress)
        else:
            self._estimated(job)

    def _real(self, job: Job, progress: dict[str, Any]) -> None:
        node, step, steps = progress.get("node"), progress.get("step"), progress.get("steps")
        if isinstance(progress.get("nodes"), dict) and progress["nodes"]:
            self._stage.nodes(job, progress["nodes"])
        elif node is not None and isinstance(step, (int, float)) and isinstance(steps, (int, float)):
            self._stage.running(job, str(node), step, steps)
        elif node is not None:
            self._stage.running(job, str(node), 0, 1)
        preview = progress.get("preview")
        if isinstance(preview, dict):
            self._preview(job, preview)

    def _preview(self, job: Job, preview: dict[str, Any]) -> None:
        text = preview.get("jpeg_b64")
        if not isinstance(text, str) or len(text) > MAX_PREVIEW_CHARS:
            return
        try:
            jpeg = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return
        self._host.send_preview(jpeg, str(preview.get("node") or ""), job.prompt_id, job.client_id)

    def _estimated(self, job: Job) -> None:
        """This worker tells nothing: the sampler's steps, by the clock."""
        plan = estimate.samplers(job.request.prompt, job.request.targets)
        elapsed_ms = (time.time() - job.started) * 1000
        at = estimate.position(plan, elapsed_ms, self._config.ms_per_step)
        if at is None:
            self._note(job, RUNNING, "estimated", "Running")
            return
        total = sum(sampler.steps for sampler in plan)
        percent = min(99.0, elapsed_ms / self._config.ms_per_step / total * 100)
        name = job.request.prompt[at.node_id]["class_type"]
        self._note(job, RUNNING, "estimated", f"{name}, about step {at.step} of {at.steps}", round(percent))
        self._stage.running(job, at.node_id, at.step, at.steps, at.done)

    def _note(self, job: Job, state: str, phase: str, message: str, percent: float | None = None) -> None:
        if job.cancel_wanted:
            phase, message = job.phase, "Cancelling"
        moved = (job.state, job.phase) != (state, phase)
        changed = moved or (job.message, job.percent) != (message, percent)
        job.state, job.phase, job.message, job.percent = state, phase, message, percent
        if moved:
            self._table.save(job)
            self._stage.settle(job.client_id)
        if changed:
            self._changed()

    def _on_trouble(self, job: Job, error: EndpointError, failures: int) -> float:
        """The endpoint cannot be asked: the job goes on there, so it is asked again, ever more slowly."""
        now = time.time()
        idle_s = now - (job.last_seen or job.created)
        wait = min(self.pace.trouble * 2 ** (failures - 1), self.pace.trouble_most)
        if job.is_over:
            return 0
        if error.kind != "missing":
            self._note(job, job.state, job.phase, answers.trouble(error), job.percent)
            return max(wait, error.retry_after or 0)
        if job.cancel_wanted:
            self.cancelled(job)
        elif idle_s > answers.EXPIRY_S or (failures >= 3 and idle_s >= self.pace.missing_grace):
            self.fail(job, answers.lost_job(idle_s))
        return min(wait, 4.0)

    # -- ends --

    async def _finish(self, job: Job, report: Report) -> None:
        copies = self._host.results if self._config.settings.keep_copy else None
        saver = ResultSaver(self._host.folders, self._host.save_path, copies, self._table.save)
        self._note(job, RUNNING, "saving", "Saving the results", 100)
        try:
            warnings = await asyncio.to_thread(saver.save, job, report.output)
        except LinkTrouble as trouble:
            raise EndpointError("link", str(trouble)) from None
        except OSError as error:
            raise EndpointError("disk", f"The results cannot be saved ({error.strerror}).") from None
        if not job.files:
            self.fail(
                job, Failure("The job completed, but nothing of it could be saved. " + " ".join(warnings), "NO_OUTPUT")
            )
            return
        self._learn(job, report)
        self._over(job, DONE, " ".join(warnings))
        ran = estimate.execution_order(job.request.prompt, job.request.targets)
        self._stage.succeed(job, ran)
        self._after(job)

    def _learn(self, job: Job, report: Report) -> None:
        plan = estimate.samplers(job.request.prompt, job.request.targets)
        if report.run_ms:
            ms = estimate.learned(self._config.settings.learned_ms_per_step, report.run_ms, plan)
            if ms:
                self._config.learn(ms)

    def fail(self, job: Job, failure: Failure) -> None:
        """End a job that has no result."""
        job.error, job.error_code, job.error_node = failure.message, failure.code, failure.node_id
        self._over(job, FAILED, failure.message)
        self._stage.fail(job, failure)
        self._after(job)

    def cancelled(self, job: Job, message: str = "Cancelled") -> None:
        """End a job that was stopped."""
        self._over(job, CANCELLED, message)
        self._stage.interrupt(job)
        self._after(job)

    def _over(self, job: Job, state: str, message: str) -> None:
        job.state, job.phase, job.message, job.percent, job.ended = state, "", message, None, time.time()
        job.shown = self._host.is_connected(job.client_id)
        self._table.save(job)

    def _after(self, job: Job) -> None:
        self._host.remember(job)
        self._host.queue_changed()
        self._changed()


def _percent(value: Any) -> float | None:
    return max(0.0, min(100.0, float(value))) if isinstance(value, (int, float)) else None

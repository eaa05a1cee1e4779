"""Follows one job at its endpoint until it ends. Connection errors are retried without end, ever more slowly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..comfyui.events import TabEvents
from ..comfyui.server import LocalComfyUI
from ..jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, JobTable, RemoteJob
from ..remote_sink import log, results_folder
from ..results.link_download import ResultLinkError
from ..results.saver import ResultSaver
from ..runpod import status as answers
from ..runpod.client import EndpointError, RunPodClient, Target
from ..runpod.status import Failure, JobReport
from ..sending import estimate
from ..settings.config import Config
from .reporter import ProgressReporter
from .updates import BackoffTable, JobUpdates

UNREACHABLE_AFTER = 3  # failed requests in a row, which takes some seconds


@dataclass(frozen=True)
class Pace:
    """Seconds between two requests for a job's status."""

    running: float = 0.25
    """A worker sends an update every 0.5 s at most: with the round trips a step is shown within a second.
    RunPod allows 200 requests a second at an endpoint."""
    pushed: float = 0.6
    """While a websocket is open: how often an estimated bar is redrawn."""
    queued: float = 1.0
    queued_long: float = 3.0
    retry: float = 1.0
    retry_max: float = 30.0
    missing_grace: float = 15.0


@dataclass
class _Watch:
    """The state of one followed job that is not stored."""

    wake: asyncio.Event
    updates: JobUpdates
    report: JobReport | None = None


class Follower:
    """Shared by all jobs; :meth:`follow` runs once for each."""

    def __init__(
        self,
        *,
        comfyui: LocalComfyUI,
        config: Config,
        table: JobTable,
        client: RunPodClient,
        events: TabEvents,
        changed: Callable[[], None],
    ) -> None:
        self._comfyui, self._config, self._table, self._client = comfyui, config, table, client
        self._events, self._changed = events, changed
        self._reporter = ProgressReporter(comfyui=comfyui, config=config, table=table, events=events, changed=changed)
        self._backoff = BackoffTable()
        self._watches: dict[str, _Watch] = {}
        self.pace = Pace()

    async def follow(self, job: RemoteJob) -> None:
        """Follow a job until it ends."""
        wake = asyncio.Event()
        updates = JobUpdates(self._client, self._backoff, job.runpod_id, wake.set)
        self._watches[job.prompt_id] = watch = _Watch(wake, updates)
        self._events.add(job)
        failures = 0
        try:
            while not job.is_over:
                try:
                    wait = await self._check(job, watch)
                    failures = 0
                except EndpointError as error:
                    failures += 1
                    watch.report = None  # so that the next report replaces the line about this error
                    wait = self._on_error(job, error, failures)
                except Exception:
                    log.exception("Remote job %s: checking again in %g s", job.prompt_id, self.pace.retry_max)
                    wait = self.pace.retry_max
                await self._sleep(job, wake, wait)
        finally:
            self._watches.pop(job.prompt_id, None)
            await updates.close()

    def wake(self, job: RemoteJob) -> None:
        """Check this job now instead of after the pause."""
        if watch := self._watches.get(job.prompt_id):
            watch.wake.set()

    async def _sleep(self, job: RemoteJob, wake: asyncio.Event, seconds: float) -> None:
        if not job.is_over:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), seconds)
        wake.clear()

    async def _check(self, job: RemoteJob, watch: _Watch) -> float:
        """Apply the job's new statuses. Return the seconds to wait before the next check."""
        key = self._config.key_for(job.endpoint)
        if key is None:
            await watch.updates.close()
            raise EndpointError("key", "There is no API key for this endpoint any more.")
        target = Target(job.endpoint, key)
        if job.cancel_wanted and job.phase != "cancelling":
            await self._cancel(target, job)
        reports = [answers.read_status(body) for body in await watch.updates.next_statuses(target)]
        if reports:
            self._record_contact(job)
        for report in reports or filter(None, [watch.report]):
            if not (report == watch.report and report.progress.get("phase")):
                watch.report = report
                await self._apply(job, report)
        if watch.updates.is_pushed:
            return self.pace.pushed
        if job.state == RUNNING:
            return self.pace.running
        return self.pace.queued if time.time() - job.created < 20 else self.pace.queued_long

    def _record_contact(self, job: RemoteJob) -> None:
        self._events.set_reachable(job, True)
        before, job.last_seen = job.last_seen, time.time()
        if job.last_seen - before > 5 or int(job.last_seen) // 60 != int(before) // 60:
            self._table.save(job)  # after a restart, this separates an expired result from a lost job

    async def _cancel(self, target: Target, job: RemoteJob) -> None:
        """Cancel the job at the endpoint. A refusal means that it has just ended; its status follows."""
        try:
            await self._client.cancel(target, job.runpod_id)
        except EndpointError as error:
            if error.kind not in ("refused", "missing"):
                raise
        job.phase = "cancelling"

    async def _apply(self, job: RemoteJob, report: JobReport) -> None:
        if job.is_over:  # given up while the request was on its way
            return
        if report.state == "done":
            await self._finish(job, report)
        elif report.state == "failed":
            self.fail(job, report.failure or Failure("The job failed."))
        elif report.state == "cancelled":
            self.mark_cancelled(job)
        elif report.state == "queued":
            self._reporter.set_status(job, QUEUED, "queued", "Waiting for a worker")
        else:
            await self._reporter.report_running(job, report.progress)

    def _on_error(self, job: RemoteJob, error: EndpointError, failures: int) -> float:
        """Show the error, or end a job that is gone. Return the seconds to wait: the job goes on at the endpoint."""
        now = time.time()
        idle_s = now - (job.last_seen or job.created)
        wait = min(self.pace.retry * 2 ** (failures - 1), self.pace.retry_max)
        if job.is_over:
            return 0
        if failures >= UNREACHABLE_AFTER:
            self._events.set_reachable(job, False)
        if error.kind != "missing":
            self._reporter.set_status(job, job.state, job.phase, answers.retry_message(error), job.percent)
            return max(wait, error.retry_after or 0)
        if job.cancel_wanted:
            self.mark_cancelled(job)
        elif idle_s > answers.EXPIRY_S or (failures >= 3 and idle_s >= self.pace.missing_grace):
            self.fail(job, answers.lost_job(idle_s))
        return min(wait, 4.0)

    # -- ends --

    async def _finish(self, job: RemoteJob, report: JobReport) -> None:
        copies = results_folder() if self._config.settings.keep_copy else None
        saver = ResultSaver(self._comfyui.folders, self._comfyui.save_path, copies, self._table.save)
        self._reporter.set_status(job, RUNNING, "saving", "Saving the results", 100)
        try:
            warnings = await asyncio.to_thread(saver.save, job, report.output)
        except ResultLinkError as error:
            raise EndpointError("link", str(error)) from None
        except OSError as error:
            raise EndpointError("disk", f"The results cannot be saved ({error.strerror}).") from None
        if not job.files and not job.outputs:
            text = "The job completed, but none of its results could be saved. " + " ".join(warnings)
            self.fail(job, Failure(text, "NO_OUTPUT"))
            return
        self._record_speed(job, report)
        self._end(job, DONE, " ".join(warnings))
        ran = estimate.execution_order(job.request.prompt, job.request.targets)
        self._events.succeed(job, ran)
        self._announce_end(job)

    def _record_speed(self, job: RemoteJob, report: JobReport) -> None:
        plan = estimate.samplers(job.request.prompt, job.request.targets)
        if report.run_ms:
            ms = estimate.updated_ms_per_step(self._config.settings.learned_ms_per_step, report.run_ms, plan)
            if ms:
                self._config.record_speed(ms)

    def fail(self, job: RemoteJob, failure: Failure) -> None:
        """End a job without a result."""
        job.error, job.error_code, job.error_node = failure.message, failure.code, failure.node_id
        self._end(job, FAILED, failure.message)
        self._events.fail(job, failure)
        self._announce_end(job)

    def mark_cancelled(self, job: RemoteJob, message: str = "Cancelled") -> None:
        """End a cancelled job."""
        self._end(job, CANCELLED, message)
        self._events.interrupt(job)
        self._announce_end(job)

    def _end(self, job: RemoteJob, state: str, message: str) -> None:
        job.state, job.phase, job.message, job.percent, job.ended = state, "", message, None, time.time()
        job.delivered_to_tab = self._comfyui.is_connected(job.client_id)
        self._table.save(job)

    def _announce_end(self, job: RemoteJob) -> None:
        self._reporter.previews.remove_replaced(job)
        self._comfyui.add_to_history(job)
        self._comfyui.send_queue_count()
        self._changed()

"""Follows one job at its endpoint until it is over: hears, backs off, understands, and never gives up by itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..comfyui.events import Stage
from ..comfyui.server import Host
from ..jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, JobTable
from ..remote_sink import log
from ..results.link_download import LinkTrouble
from ..results.saver import ResultSaver
from ..runpod import status as answers
from ..runpod.client import EndpointError, RunPodClient, Target
from ..runpod.status import Failure, Report
from ..sending import estimate
from ..settings.config import Config
from .reporter import Teller
from .updates import Doors, Ear

OUT_OF_SIGHT = 3  # looks in vain, which is after some seconds


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks."""

    running: float = 0.25
    """A worker speaks every 0.5 s at most: with the way there and back a step is seen within a second of happening.
    RunPod takes 200 looks a second at an endpoint."""
    told: float = 0.6
    """While news comes by itself: for the bar of a worker that tells nothing."""
    queued: float = 1.0
    queued_long: float = 3.0
    trouble: float = 1.0
    trouble_most: float = 30.0
    missing_grace: float = 15.0


@dataclass
class _Watch:
    """What one followed job needs beside what is kept of it."""

    wake: asyncio.Event
    ear: Ear
    report: Report | None = None


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
        self._teller = Teller(host=host, config=config, table=table, stage=stage, changed=changed)
        self._doors = Doors()
        self._watches: dict[str, _Watch] = {}
        self.pace = Pace()

    async def follow(self, job: Job) -> None:
        """Stay with a job until it is over."""
        wake = asyncio.Event()
        self._watches[job.prompt_id] = watch = _Watch(wake, Ear(self._client, self._doors, job.runpod_id, wake.set))
        self._stage.enter(job)
        failures = 0
        try:
            while not job.is_over:
                try:
                    wait = await self._look(job, watch)
                    failures = 0
                except EndpointError as error:
                    failures += 1
                    watch.report = None  # told again when it is heard again, over the line about the trouble
                    wait = self._on_trouble(job, error, failures)
                except Exception:
                    log.exception("Remote job %s: looking again in %g s", job.prompt_id, self.pace.trouble_most)
                    wait = self.pace.trouble_most
                await self._sleep(job, wake, wait)
        finally:
            self._watches.pop(job.prompt_id, None)
            await watch.ear.close()

    def poke(self, job: Job) -> None:
        """Look now rather than after the pause."""
        if watch := self._watches.get(job.prompt_id):
            watch.wake.set()

    async def _sleep(self, job: Job, wake: asyncio.Event, seconds: float) -> None:
        if not job.is_over:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), seconds)
        wake.clear()

    async def _look(self, job: Job, watch: _Watch) -> float:
        key = self._config.key_for(job.endpoint)
        if key is None:
            await watch.ear.close()
            raise EndpointError("key", "There is no API key for this endpoint any more.")
        target = Target(job.endpoint, key)
        if job.cancel_wanted and job.phase != "cancelling":
            await self._cancel(target, job)
        reports = [answers.read_status(body) for body in await watch.ear.hear(target)]
        if reports:
            self._seen(job)
        for report in reports or filter(None, [watch.report]):
            if not (report == watch.report and report.progress.get("phase")):
                watch.report = report
                await self._act(job, report)
        if watch.ear.is_told:
            return self.pace.told
        if job.state == RUNNING:
            return self.pace.running
        return self.pace.queued if time.time() - job.created < 20 else self.pace.queued_long

    def _seen(self, job: Job) -> None:
        self._stage.seen(job, True)
        before, job.last_seen = job.last_seen, time.time()
        if job.last_seen - before > 5 or int(job.last_seen) // 60 != int(before) // 60:
            self._table.save(job)  # after a restart, a lost job is told from an expired one by this

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
            self._teller.note(job, QUEUED, "queued", "Waiting for a worker")
        else:
            await self._teller.running(job, report.progress)

    def _on_trouble(self, job: Job, error: EndpointError, failures: int) -> float:
        """The endpoint cannot be asked: the job goes on there, so it is asked again, ever more slowly."""
        now = time.time()
        idle_s = now - (job.last_seen or job.created)
        wait = min(self.pace.trouble * 2 ** (failures - 1), self.pace.trouble_most)
        if job.is_over:
            return 0
        if failures >= OUT_OF_SIGHT:
            self._stage.seen(job, False)
        if error.kind != "missing":
            self._teller.note(job, job.state, job.phase, answers.trouble(error), job.percent)
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
        self._teller.note(job, RUNNING, "saving", "Saving the results", 100)
        try:
            warnings = await asyncio.to_thread(saver.save, job, report.output)
        except LinkTrouble as trouble:
            raise EndpointError("link", str(trouble)) from None
        except OSError as error:
            raise EndpointError("disk", f"The results cannot be saved ({error.strerror}).") from None
        if not job.files and not job.outputs:
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
        self._teller.pictures.over(job)
        self._host.remember(job)
        self._host.queue_changed()
        self._changed()

"""All jobs, and every change of them: first on disk, then in memory, then sent to those who wait. Nothing here awaits,
so no change is ever half done.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from endpoint import jobs
from endpoint.jobs import EndpointJob, JobState
from endpoint.notifier import ChangeNotifier
from endpoint.run_request import RunRequest
from endpoint.store import Store
from endpoint.subscribers import Subscribers

log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many jobs wait as the queue may hold."""


class JobQueue:
    """The jobs of one endpoint, waiting, running and done.

    Args:
        store: their place on disk; jobs in it are loaded, and those that ran count as lost by their worker.
        max_attempts: number of times a job is started at most when its workers end without an answer.
        max_queue: number of jobs that may wait.
        clock: unix seconds.
    """

    def __init__(
        self, store: Store, *, max_attempts: int = 2, max_queue: int = 1000, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._clock = store, clock
        self._max_attempts, self._max_queue = max_attempts, max_queue
        self._jobs = {job.id: job for job in store.load()}
        self._waiting = {job.id for job in self._jobs.values() if job.state is JobState.IN_QUEUE}
        self._running = {job.id for job in self._jobs.values() if job.state is JobState.IN_PROGRESS}
        self._seq = max((job.seq for job in self._jobs.values()), default=0)
        self._progress: dict[str, bytes] = {}
        self._chunks: dict[str, list[Any]] = {}
        self._ended: Counter[str] = Counter()
        """Jobs completed, failed and retried since the start."""
        self.changed = ChangeNotifier()
        self.subscribers = Subscribers()
        self.on_final: Callable[[EndpointJob], None] = lambda job: None
        self.on_stop: Callable[[str, str], None] = lambda worker, job_id: None
        """Called with a worker and the job that it must stop."""
        for job_id in sorted(self._running):
            self._lose(self._jobs[job_id], "the endpoint ended while the job ran")

    # ------------------------------------------------------------ for callers

    def submit(self, request: RunRequest, *, sync: bool) -> EndpointJob:
        """Queue a new job; it is on disk when this returns.

        Raises:
            QueueFullError: too many jobs wait.
        """
        job = EndpointJob(
            id=f"{'sync-' if sync else ''}{uuid.uuid4()}-u1",
            seq=self._next_seq(),
            queued=self._clock(),
            execution_timeout_s=request.execution_timeout_s,
            ttl_s=request.ttl_s,
            low_priority=request.low_priority,
            sync=sync,
            webhook=request.webhook,
        )
        self._store.add(job, request.body)
        self._replace(job)
        return job

    def find(self, job_id: str) -> EndpointJob | None:
        """Return a job as it is now, or None if there is none or its result has expired."""
        job = self._jobs.get(job_id)
        return None if job is None or jobs.is_expired(job, self._clock()) else job

    def cancel(self, job: EndpointJob) -> EndpointJob:
        """Cancel a job that waits or runs; one that is done stays as it is."""
        if job.is_final:
            return job
        return self._settle(jobs.cancelled(job, self._clock()))

    def retry(self, job: EndpointJob) -> EndpointJob:
        """Queue a failed or timed out job again.

        Raises:
            QueueFullError: too many jobs wait.
        """
        job = jobs.retried(job, self._next_seq(), self._clock())
        self._ended["retried"] += 1
        self._store.update(job)
        self._replace(job)
        return job

    def _next_seq(self) -> int:
        if len(self._waiting) >= self._max_queue:
            raise QueueFullError
        self._seq += 1
        return self._seq

    def purge(self) -> int:
        """Cancel all jobs that wait, and return their number."""
        waiting = [self._jobs[job_id] for job_id in self._waiting]
        for job in waiting:
            self._settle(jobs.cancelled(job, self._clock(), note="removed by /purge-queue"))
        return len(waiting)

    def status(self, job: EndpointJob) -> bytes:
        """Return the body of /status. The output is copied as it lies on disk: decoding up to 20 MB takes long."""
        body = json.dumps(jobs.status_fields(job, self._clock())).encode()
        output = self._store.output(job.id) if job.is_final else self._progress.get(job.id)
        return body if output is None else body[:-1] + b', "output": ' + output + b"}"

    def stream(self, job: EndpointJob) -> dict[str, Any]:
        """Return the chunks since the last call; each is returned once."""
        return {"status": job.state.value, "stream": self._chunks.pop(job.id, [])}

    def counts(self) -> dict[str, int]:
        """Return the job counts of /health."""
        return {
            "completed": self._ended["completed"],
            "failed": self._ended["failed"],
            "inProgress": len(self._running),
            "inQueue": len(self._waiting),
            "retried": self._ended["retried"],
        }

    def webhooks_due(self) -> list[EndpointJob]:
        """Return finished jobs whose webhook is still to be sent."""
        return [job for job in self._jobs.values() if job.webhook and job.is_final and not job.webhook_done]

    def webhook_done(self, job: EndpointJob) -> None:
        """Record that the webhook of this end of the job was sent, or given up."""
        if (current := self._jobs.get(job.id)) and current.finished == job.finished:
            self._jobs[job.id] = replace(current, webhook_done=True)
            self._store.update_facts(self._jobs[job.id])

    # ------------------------------------------------------------ for workers

    def take(self, worker: str) -> bytes | None:
        """Give the next job to this worker and return it as the SDK expects it, or None if none waits."""
        if not self._waiting:
            return None
        job = min((self._jobs[job_id] for job_id in self._waiting), key=lambda job: job.queue_order)
        request = self._store.request(job.id)
        job = jobs.taken(job, worker, self._clock())
        self._store.update(job)
        self._chunks.pop(job.id, None)
        self._replace(job)
        return b'{"id": ' + json.dumps(job.id).encode() + b", " + request[1:]

    def running_job(self, worker: str, job_id: str) -> EndpointJob | None:
        """Return the job if this worker runs it now: a late answer to any other job must change nothing."""
        job = self._jobs.get(job_id)
        return job if job and job.state is JobState.IN_PROGRESS and job.worker == worker else None

    def busy_workers(self) -> set[str]:
        """Return the ids of workers that run a job."""
        return {worker for job_id in self._running if (worker := self._jobs[job_id].worker)}

    def set_progress(self, job: EndpointJob, output: Any) -> None:
        """Show this as the job's output until the next one; in memory only, since a lost job starts over."""
        self._progress[job.id] = json.dumps(output).encode()
        self._publish(job)

    def add_chunk(self, job: EndpointJob, chunk: Any) -> None:
        """Keep a part of a streamed result for /stream."""
        self._chunks.setdefault(job.id, []).append(chunk)

    def finish(self, job: EndpointJob, body: dict[str, Any]) -> EndpointJob:
        """End a job with its worker's answer: ``{"output"?, "error"?}``."""
        error = body.get("error")
        if error and not isinstance(error, str):
            error = json.dumps(error)
        output = None if body.get("output") is None else json.dumps(body["output"]).encode()
        return self._settle(jobs.answered(job, error or None, self._clock()), output)

    def lose_jobs(self, worker: str, reason: str) -> None:
        """Queue again, or fail, all jobs of a worker that will not answer for them."""
        for job in [self._jobs[job_id] for job_id in self._running]:
            if job.worker == worker:
                self._lose(job, reason)

    def _lose(self, job: EndpointJob, reason: str) -> None:
        log.warning("job %s: %s", job.id, reason)
        self._settle(jobs.lost(job, reason, self._clock(), self._max_attempts))

    # ------------------------------------------------------------ time

    def sweep(self) -> None:
        """Time out jobs past a deadline and delete expired ones."""
        now = self._clock()
        for job_id in [*self._waiting, *self._running]:
            if late := jobs.timed_out(self._jobs[job_id], now):
                self._settle(late)
        expired = [job.id for job in self._jobs.values() if jobs.is_expired(job, now)]
        if expired:
            self._store.delete(expired)
            for job_id in expired:
                del self._jobs[job_id]
                self._chunks.pop(job_id, None)

    # ------------------------------------------------------------ the change itself

    def _settle(self, job: EndpointJob, output: bytes | None = None) -> EndpointJob:
        """Record a job that leaves its worker, or the queue."""
        before = self._jobs[job.id]
        self._store.update(job, output)
        self._progress.pop(job.id, None)
        self._replace(job)
        if before.worker and job.state in (JobState.CANCELLED, JobState.TIMED_OUT):
            self.on_stop(before.worker, job.id)
        if job.is_final:
            ended = "completed" if job.state is JobState.COMPLETED else "failed"
            self._ended[ended] += job.state is not JobState.CANCELLED
            self.on_final(job)
        return job

    def _replace(self, job: EndpointJob) -> None:
        self._jobs[job.id] = job
        for ids, state in ((self._waiting, JobState.IN_QUEUE), (self._running, JobState.IN_PROGRESS)):
            (ids.add if job.state is state else ids.discard)(job.id)
        self._publish(job)
        self.changed.notify()

    def _publish(self, job: EndpointJob) -> None:
        if self.subscribers.has_any(job.id):
            self.subscribers.publish(job.id, self.status(job))
            if job.is_final:
                self.subscribers.publish(job.id, None)

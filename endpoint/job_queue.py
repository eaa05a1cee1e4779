"""The one place where jobs change: takes them in, gives them out, settles them; disk first, then memory, then those
who wait. Nothing here awaits, so that every change is whole.
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
from endpoint.jobs import Job, State
from endpoint.notifier import Signal
from endpoint.store import Store
from endpoint.submission import Submission
from endpoint.subscribers import Watchers

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many jobs wait as this endpoint was started to take."""


class Desk:
    """Every job of the endpoint.

    Args:
        store: where they are kept; what it holds is taken over, and jobs that ran are lost to their worker.
        max_attempts: how often a job is started at most when its workers end without an answer.
        max_queue: how many may wait.
        clock: unix seconds.
    """

    def __init__(
        self, store: Store, *, max_attempts: int = 2, max_queue: int = 1000, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._clock = store, clock
        self._max_attempts, self._max_queue = max_attempts, max_queue
        self._jobs = {job.id: job for job in store.load()}
        self._queue = {job.id for job in self._jobs.values() if job.state is State.IN_QUEUE}
        self._running = {job.id for job in self._jobs.values() if job.state is State.IN_PROGRESS}
        self._seq = max((job.seq for job in self._jobs.values()), default=0)
        self._progress: dict[str, bytes] = {}
        self._chunks: dict[str, list[Any]] = {}
        self.counts: Counter[str] = Counter()
        """Jobs completed, failed and retried since the start."""
        self.changed = Signal()
        self.watchers = Watchers()
        self.on_final: Callable[[Job], None] = lambda job: None
        self.on_stop: Callable[[str, str], None] = lambda worker, job_id: None
        """Called with a worker and the job that it must stop."""
        for job_id in sorted(self._running):
            self._lose(self._jobs[job_id], "the endpoint ended while the job ran")

    # ------------------------------------------------------------ for callers

    def submit(self, asked: Submission, *, sync: bool) -> Job:
        """Take in a job; it is on disk when this returns.

        Raises:
            QueueFull: too many wait.
        """
        if len(self._queue) >= self._max_queue:
            raise QueueFull
        self._seq += 1
        job = Job(
            id=f"{'sync-' if sync else ''}{uuid.uuid4()}-u1",
            seq=self._seq,
            queued=self._clock(),
            execution_timeout_s=asked.execution_timeout_s,
            ttl_s=asked.ttl_s,
            low_priority=asked.low_priority,
            sync=sync,
            webhook=asked.webhook,
        )
        self._store.add(job, asked.request)
        self._remember(job)
        return job

    def find(self, job_id: str) -> Job | None:
        """A job as it is now; None when there is none or its result has expired."""
        job = self._jobs.get(job_id)
        return None if job is None or jobs.is_expired(job, self._clock()) else job

    def cancel(self, job: Job) -> Job:
        """End a job that waits or runs; one that is done stays as it is."""
        if job.is_final:
            return job
        return self._settle(jobs.cancelled(job, self._clock()))

    def retry(self, job: Job) -> Job:
        """Queue a failed or timed out job again.

        Raises:
            QueueFull: too many wait.
        """
        if len(self._queue) >= self._max_queue:
            raise QueueFull
        self._seq += 1
        job = jobs.retried(job, self._seq, self._clock())
        self.counts["retried"] += 1
        self._store.update(job)
        self._remember(job)
        return job

    def purge(self) -> int:
        """Cancel every job that waits; how many there were."""
        waiting = [self._jobs[job_id] for job_id in self._queue]
        for job in waiting:
            self._settle(jobs.cancelled(job, self._clock(), note="removed by /purge-queue"))
        return len(waiting)

    def status(self, job: Job) -> bytes:
        """The body of /status. The output goes in as it lies on disk: it may be 20 MB, and is not decoded again."""
        body = json.dumps(jobs.status_fields(job, self._clock())).encode()
        output = self._store.output(job.id) if job.is_final else self._progress.get(job.id)
        return body if output is None else body[:-1] + b', "output": ' + output + b"}"

    def stream(self, job: Job) -> dict[str, Any]:
        """What a generator yielded since the last call; each chunk is handed out once."""
        return {"status": job.state.value, "stream": self._chunks.pop(job.id, [])}

    def in_state(self) -> dict[str, int]:
        """The numbers of /health."""
        return {
            "completed": self.counts["completed"],
            "failed": self.counts["failed"],
            "inProgress": len(self._running),
            "inQueue": len(self._queue),
            "retried": self.counts["retried"],
        }

    def webhooks_due(self) -> list[Job]:
        """Finished jobs whose webhook has not been told yet."""
        return [job for job in self._jobs.values() if job.webhook and job.is_final and not job.webhook_done]

    def webhook_told(self, job: Job) -> None:
        """Never tell this one's webhook again."""
        if (current := self._jobs.get(job.id)) and current.finished == job.finished:
            self._jobs[job.id] = replace(current, webhook_done=True)
            self._store.update_facts(self._jobs[job.id])

    # ------------------------------------------------------------ for workers

    def take(self, worker: str) -> bytes | None:
        """The next job as the worker gets it, now its own; None when none waits."""
        if not self._queue:
            return None
        job = min((self._jobs[job_id] for job_id in self._queue), key=lambda job: job.place)
        request = self._store.request(job.id)
        job = jobs.taken(job, worker, self._clock())
        self._store.update(job)
        self._chunks.pop(job.id, None)
        self._remember(job)
        return b'{"id": ' + json.dumps(job.id).encode() + b", " + request[1:]

    def owned(self, worker: str, job_id: str) -> Job | None:
        """The job, if this worker runs it at this moment: a late word about another changes nothing."""
        job = self._jobs.get(job_id)
        return job if job and job.state is State.IN_PROGRESS and job.worker == worker else None

    def running(self, worker: str) -> list[Job]:
        """The jobs that this worker runs."""
        return [job for job_id in self._running if (job := self._jobs[job_id]).worker == worker]

    def busy(self) -> set[str]:
        """The workers that run a job."""
        return {worker for job_id in self._running if (worker := self._jobs[job_id].worker)}

    def progressed(self, job: Job, output: Any) -> None:
        """Show this as the job's output until the next one; not kept on disk, as a job that is lost begins anew."""
        self._progress[job.id] = json.dumps(output).encode()
        self._tell(job)

    def yielded(self, job: Job, chunk: Any) -> None:
        """Add what a generator yielded."""
        self._chunks.setdefault(job.id, []).append(chunk)

    def answered(self, job: Job, body: dict[str, Any]) -> Job:
        """Settle a job with what its worker returned: ``{"output"?, "error"?}``."""
        error = body.get("error")
        if error and not isinstance(error, str):
            error = json.dumps(error)
        output = None if body.get("output") is None else json.dumps(body["output"]).encode()
        return self._settle(jobs.answered(job, error or None, self._clock()), output)

    def lose(self, worker: str, why: str) -> None:
        """This worker will not answer any more for the jobs it has."""
        for job in self.running(worker):
            self._lose(job, why)

    def _lose(self, job: Job, why: str) -> None:
        log.warning("job %s: %s", job.id, why)
        self._settle(jobs.lost(job, why, self._clock(), self._max_attempts))

    # ------------------------------------------------------------ time

    def sweep(self) -> None:
        """Time out what is overdue and forget what has expired."""
        now = self._clock()
        for job_id in [*self._queue, *self._running]:
            if late := jobs.overdue(self._jobs[job_id], now):
                self._settle(late)
        expired = [job.id for job in self._jobs.values() if jobs.is_expired(job, now)]
        if expired:
            self._store.forget(expired)
            for job_id in expired:
                del self._jobs[job_id]
                self._chunks.pop(job_id, None)

    # ------------------------------------------------------------ the change itself

    def _settle(self, job: Job, output: bytes | None = None) -> Job:
        """Write a job down that leaves its worker, or the queue."""
        before = self._jobs[job.id]
        self._store.update(job, output)
        self._progress.pop(job.id, None)
        self._remember(job)
        if before.worker and job.state in (State.CANCELLED, State.TIMED_OUT):
            self.on_stop(before.worker, job.id)
        if job.is_final:
            self.counts["completed" if job.state is State.COMPLETED else "failed"] += job.state is not State.CANCELLED
            self.on_final(job)
        return job

    def _remember(self, job: Job) -> None:
        self._jobs[job.id] = job
        for members, state in ((self._queue, State.IN_QUEUE), (self._running, State.IN_PROGRESS)):
            (members.add if job.state is state else members.discard)(job.id)
        self._tell(job)
        self.changed.give()

    def _tell(self, job: Job) -> None:
        if self.watchers.watched(job.id):
            self.watchers.tell(job.id, self.status(job))
            if job.is_final:
                self.watchers.tell(job.id, None)

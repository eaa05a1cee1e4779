"""A job's states and the transitions between them: pure rules, no clock, disk or network. Times are unix seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

KEPT_S = 30 * 60.0  # RunPod keeps the result of /run for 30 minutes, of /runsync for one (docs: send-requests)
KEPT_SYNC_S = 60.0


class JobState(str, Enum):
    """RunPod's names."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


@dataclass(frozen=True)
class EndpointJob:
    """All of a job but its request and its output, which are large and stay on disk. The fields are stored as JSON."""

    id: str
    seq: int
    """Place in the queue: the lowest goes first, after every job that is not ``low_priority``."""
    queued: float
    """Time of the submission, or of the last /retry."""
    execution_timeout_s: float
    ttl_s: float
    low_priority: bool = False
    sync: bool = False
    webhook: str | None = None
    webhook_done: bool = False
    state: JobState = JobState.IN_QUEUE
    started: float | None = None
    finished: float | None = None
    worker: str | None = None
    attempts: int = 0
    """Number of times a worker took it."""
    lost: int = 0
    """Number of workers that ended or dropped it without answering, since ``queued``."""
    error: str | None = None
    note: str | None = None

    @property
    def is_final(self) -> bool:
        """True if only /retry can change the job."""
        return self.finished is not None

    @property
    def queue_order(self) -> tuple[bool, int]:
        """Sort key of the queue."""
        return self.low_priority, self.seq


def taken(job: EndpointJob, worker: str, now: float) -> EndpointJob:
    """Return the job as taken by a worker."""
    return replace(job, state=JobState.IN_PROGRESS, worker=worker, started=now, attempts=job.attempts + 1)


def answered(job: EndpointJob, error: str | None, now: float) -> EndpointJob:
    """Return the job as its worker ended it: failed with ``error``, or completed."""
    return replace(job, state=JobState.FAILED if error else JobState.COMPLETED, error=error, finished=now)


def cancelled(job: EndpointJob, now: float, note: str | None = None) -> EndpointJob:
    """Return the job as cancelled by its caller."""
    return replace(job, state=JobState.CANCELLED, finished=now, note=note or job.note)


def lost(job: EndpointJob, reason: str, now: float, max_attempts: int) -> EndpointJob:
    """Return a job whose worker is gone: in its old place in the queue, or failed after ``max_attempts`` starts."""
    count = job.lost + 1
    if count < max_attempts:
        note = f"started {_times(job.attempts)} without an answer: {reason}. It is started again, so it may run twice"
        return replace(job, state=JobState.IN_QUEUE, lost=count, note=note, started=None, worker=None)
    error = (
        f"WORKER_LOST: {reason}, and this job was started {_times(job.attempts)} without an answer. "
        "The endpoint's log shows what ended its worker; /retry sends the job again."
    )
    return replace(job, state=JobState.FAILED, lost=count, error=error, finished=now)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def retried(job: EndpointJob, seq: int, now: float) -> EndpointJob:
    """Return a failed job as queued again under the same id; ``attempts`` goes on counting."""
    return replace(
        job, seq=seq, queued=now, state=JobState.IN_QUEUE, started=None, finished=None, worker=None,
        lost=0, error=None, note="sent again by /retry", webhook_done=False,
    )  # fmt: skip


def timed_out(job: EndpointJob, now: float) -> EndpointJob | None:
    """Return the job as timed out, or None if neither of its two deadlines has passed."""
    if job.is_final:
        return None
    if job.started is not None and now >= job.started + job.execution_timeout_s:
        error = f"executionTimeout: it ran for {job.execution_timeout_s:g} s without ending."
    elif now >= job.queued + job.ttl_s:
        error = f"ttl: it was not done {job.ttl_s:g} s after it was sent."
    else:
        return None
    return replace(job, state=JobState.TIMED_OUT, error=error, finished=now)


def is_expired(job: EndpointJob, now: float) -> bool:
    """Return True if its result has been kept long enough."""
    return job.finished is not None and now >= job.finished + (KEPT_SYNC_S if job.sync else KEPT_S)


def status_fields(job: EndpointJob, now: float) -> dict[str, Any]:
    """Return the fields of /status except ``output``. ``delayTime`` and ``executionTime`` are ms, as RunPod's."""
    fields: dict[str, Any] = {"id": job.id, "status": job.state.value}
    until = job.started or job.finished or now
    fields["delayTime"] = _ms(until - job.queued)
    if job.started is not None and job.finished is not None:
        fields["executionTime"] = _ms(job.finished - job.started)
    if job.worker:
        fields["workerId"] = job.worker
    if job.error:
        fields["error"] = job.error
    if job.attempts > 1 or job.lost:
        fields["attempts"] = job.attempts
    if job.note:
        fields["note"] = job.note
    return fields


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))

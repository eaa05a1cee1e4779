"""A job's states and what may follow what: pure rules, no clock, disk or network. Times are unix seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

KEPT_S = 30 * 60.0  # RunPod keeps the result of /run for 30 minutes, of /runsync for one (docs: send-requests)
KEPT_SYNC_S = 60.0


class State(str, Enum):
    """RunPod's names."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


@dataclass(frozen=True)
class Job:
    """Everything about a job but what was sent and what came back, which are large and stay on disk."""

    id: str
    seq: int
    """Its place: the lowest goes first, after every job that is not ``low_priority``."""
    queued: float
    """When it was sent, or sent again by /retry."""
    execution_timeout_s: float
    ttl_s: float
    low_priority: bool = False
    sync: bool = False
    webhook: str | None = None
    webhook_done: bool = False
    state: State = State.IN_QUEUE
    started: float | None = None
    finished: float | None = None
    worker: str | None = None
    attempts: int = 0
    """How often a worker was given it."""
    lost: int = 0
    """How many of these workers ended, or let it fall, without an answer since it was sent."""
    error: str | None = None
    note: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to it any more unless it is retried."""
        return self.finished is not None

    @property
    def place(self) -> tuple[bool, int]:
        """Sort key of the queue."""
        return self.low_priority, self.seq


def taken(job: Job, worker: str, now: float) -> Job:
    """It was given to a worker."""
    return replace(job, state=State.IN_PROGRESS, worker=worker, started=now, attempts=job.attempts + 1)


def answered(job: Job, error: str | None, now: float) -> Job:
    """Its worker said how it ended."""
    return replace(job, state=State.FAILED if error else State.COMPLETED, error=error, finished=now)


def cancelled(job: Job, now: float, note: str | None = None) -> Job:
    """Its caller does not want it any more."""
    return replace(job, state=State.CANCELLED, finished=now, note=note or job.note)


def lost(job: Job, why: str, now: float, max_attempts: int) -> Job:
    """Its worker is gone without an answer: queued again where it was, or failed after ``max_attempts`` starts."""
    count = job.lost + 1
    if count < max_attempts:
        note = f"started {_times(job.attempts)} without an answer: {why}. It is started again, so it may run twice"
        return replace(job, state=State.IN_QUEUE, lost=count, note=note, started=None, worker=None)
    error = (
        f"WORKER_LOST: {why}, and this job was started {_times(job.attempts)} without an answer. "
        "Look into the endpoint's log for what ends its worker; /retry sends the job again."
    )
    return replace(job, state=State.FAILED, lost=count, error=error, finished=now)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def retried(job: Job, seq: int, now: float) -> Job:
    """Its caller sends a failed one again, under the same id; ``attempts`` goes on counting."""
    return replace(
        job, seq=seq, queued=now, state=State.IN_QUEUE, started=None, finished=None, worker=None,
        lost=0, error=None, note="sent again by /retry", webhook_done=False,
    )  # fmt: skip


def overdue(job: Job, now: float) -> Job | None:
    """The job timed out, if one of its two deadlines has passed."""
    if job.is_final:
        return None
    if job.started is not None and now >= job.started + job.execution_timeout_s:
        what = f"executionTimeout: it ran for {job.execution_timeout_s:g} s without ending"
    elif now >= job.queued + job.ttl_s:
        what = f"ttl: it was not done {job.ttl_s:g} s after it was sent"
    else:
        return None
    return replace(job, state=State.TIMED_OUT, error=f"{what}.", finished=now)


def is_expired(job: Job, now: float) -> bool:
    """Whether its result has been kept long enough."""
    return job.finished is not None and now >= job.finished + (KEPT_SYNC_S if job.sync else KEPT_S)


def status_fields(job: Job, now: float) -> dict[str, Any]:
    """What /status says beside ``output``. ``delayTime`` and ``executionTime`` are milliseconds, as RunPod's."""
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

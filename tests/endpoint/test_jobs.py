"""The rules of a job's states, without a clock, a disk or a worker."""

from __future__ import annotations

import pytest

from endpoint import jobs
from endpoint.jobs import EndpointJob, JobState

WAITING = EndpointJob(id="a", seq=3, queued=100.0, execution_timeout_s=10.0, ttl_s=60.0)
RUNNING = jobs.taken(WAITING, "worker1", 105.0)


def test_a_lost_job_keeps_its_place_until_its_attempts_are_used_up():
    again = jobs.lost(RUNNING, "it was killed", 106.0, max_attempts=2)
    assert (again.state, again.queue_order, again.worker) == (JobState.IN_QUEUE, RUNNING.queue_order, None)
    failed = jobs.lost(jobs.taken(again, "worker2", 107.0), "it was killed", 108.0, max_attempts=2)
    assert (failed.state, failed.finished, failed.lost) == (JobState.FAILED, 108.0, 2)


def test_a_retried_job_goes_last_and_may_be_lost_as_often_as_a_new_one():
    failed = jobs.lost(RUNNING, "it was killed", 106.0, max_attempts=1)
    again = jobs.retried(failed, seq=9, now=200.0)
    assert (again.queue_order, again.lost, again.error, again.attempts) == ((False, 9), 0, None, 1)


@pytest.mark.parametrize(
    ("job", "now", "error"),
    [
        (WAITING, 159.9, None),
        (WAITING, 160.0, "ttl: it was not done 60 s after it was sent."),
        (RUNNING, 114.9, None),
        (RUNNING, 115.0, "executionTimeout: it ran for 10 s without ending."),
        (jobs.cancelled(RUNNING, 106.0), 1000.0, None),
    ],
)
def test_a_job_times_out_at_either_deadline(job, now, error):
    late = jobs.timed_out(job, now)
    assert (late and (late.state, late.error)) == (error and (JobState.TIMED_OUT, error))


def test_the_times_of_a_status_are_milliseconds():
    done = jobs.answered(RUNNING, None, 107.25)
    fields = jobs.status_fields(done, 500.0)
    assert (fields["delayTime"], fields["executionTime"], fields["workerId"]) == (5000, 2250, "worker1")
    assert jobs.status_fields(WAITING, 101.5) == {"id": "a", "status": "IN_QUEUE", "delayTime": 1500}

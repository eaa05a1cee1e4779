"""A job's threads learn that it was cancelled or ran out of time, also while they sleep."""

from __future__ import annotations

import threading
import time

import pytest

from worker.errors import Code, WorkerError
from worker.stop import Stop, StoppedError

FOREVER_S = 600.0  # past pytest's timeout


def test_without_a_deadline_there_is_time_for_ever():
    stop = Stop()
    assert stop.remaining_s() == float("inf")
    stop.check()
    assert not stop.is_set()


def test_a_passed_deadline_is_a_timeout_and_no_cancellation():
    stop = Stop(time.monotonic() - 1)
    assert stop.remaining_s() == 0
    assert not stop.is_set()
    with pytest.raises(WorkerError, match="the job ran out of time") as caught:
        stop.check()
    assert caught.value.code is Code.TIMEOUT


def test_a_cancelled_job_is_stopped_even_past_its_deadline():
    stop = Stop(time.monotonic() - 1)
    stop.set()
    stop.set()
    assert stop.is_set()
    with pytest.raises(StoppedError):
        stop.check()


def test_a_cancellation_ends_a_sleep():
    stop, raised = Stop(), []

    def sleep() -> None:
        try:
            stop.sleep(FOREVER_S)
        except StoppedError as error:
            raised.append(error)

    thread = threading.Thread(target=sleep, daemon=True)
    thread.start()
    stop.set()
    thread.join(30)
    assert len(raised) == 1


def test_the_deadline_ends_a_sleep():
    with pytest.raises(WorkerError, match="TIMEOUT"):
        Stop(time.monotonic() + 0.05).sleep(FOREVER_S)

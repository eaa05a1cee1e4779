"""After SIGTERM the worker ends once its job is delivered, and not before."""

from __future__ import annotations

import threading

import pytest
from runpod.serverless.modules.rp_scale import JobScaler

from worker.runpod_sdk import shutdown


class Scaler:
    """In place of the SDK's: it has the jobs that the test says."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.asked, self.was_asked = jobs, 0, threading.Semaphore(0)

    def current_occupancy(self) -> int:
        self.asked += 1
        self.was_asked.release()
        return self.jobs


@pytest.fixture
def sdk(monkeypatch):
    """Shut down as the SDK does on SIGTERM: the calls of its own method, the event of the end."""
    calls, ended = [], threading.Event()
    monkeypatch.setattr(JobScaler, "kill_worker", calls.append)
    monkeypatch.setattr(shutdown, "QUIET_S", 0.1)
    shutdown.exit_after_sdk_shutdown(ended.set)
    return calls, ended


def test_the_sdk_still_shuts_down_itself_and_then_the_worker_ends(sdk):
    calls, ended = sdk
    scaler = Scaler(jobs=0)
    JobScaler.kill_worker(scaler)
    assert calls == [scaler]
    assert ended.wait(30)


def test_a_running_job_is_waited_for(sdk):
    _, ended = sdk
    scaler = Scaler(jobs=1)
    JobScaler.kill_worker(scaler)
    for _ in range(5):  # far beyond QUIET_S
        assert scaler.was_asked.acquire(timeout=30)
    assert not ended.is_set()
    scaler.jobs = 0
    assert ended.wait(30)


def test_nothing_ends_before_the_shutdown(sdk):
    calls, ended = sdk
    assert (calls, ended.is_set()) == ([], False)

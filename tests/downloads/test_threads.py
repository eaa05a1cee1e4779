from __future__ import annotations

import socket
import threading
import time

import pytest

from worker.downloads.threads import JOIN_TIMEOUT_S, JobThreads
from worker.errors import Code, WorkerError
from worker.net.connections import NETWORK_ERRORS, AllowedPeers, Sockets, new_session
from worker.stop import Stop, StoppedError


class RecordedEvent(threading.Event):
    """An event that records how long each wait for it may take, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.timeouts.append(timeout)
        return self.is_set()


@pytest.fixture
def threads():
    threads = JobThreads(Sockets())
    threads.done = RecordedEvent()
    return threads


def test_a_cancelled_job_ends_within_a_second(threads):
    stop, waits = Stop(), threads.done.timeouts
    with pytest.raises(StoppedError):
        threads.wait(stop, lambda: stop.set() if len(waits) == 3 else None)
    assert len(waits) == 4, "the first wait after it was cancelled is the last"
    assert max(waits) + JOIN_TIMEOUT_S < 1


def test_the_wait_ends_at_the_jobs_deadline_and_not_after_it(threads):
    with pytest.raises(WorkerError) as caught:
        threads.wait(Stop(time.monotonic() + 0.05))
    assert caught.value.code is Code.TIMEOUT
    assert max(threads.done.timeouts) <= 0.05


def test_finished_work_ends_the_wait_unless_its_job_was_cancelled(threads):
    threads.start(threads.done.set, "work")
    stop = Stop()
    threads.wait(stop)
    stop.set()
    with pytest.raises(StoppedError):
        threads.wait(stop)


def test_a_thread_that_reads_from_a_silent_server_ends_when_its_connection_is_closed():
    sockets = Sockets()
    threads = JobThreads(sockets)

    def read() -> None:
        with new_session(AllowedPeers.ANY, sockets) as session:
            try:
                session.get(f"http://127.0.0.1:{port}/", timeout=30)
            except NETWORK_ERRORS:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threads.start(read, "reader")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(3) == b"GET"
            assert threads.close() == []


def test_a_thread_that_does_not_end_is_left_behind(monkeypatch):
    monkeypatch.setattr("worker.downloads.threads.JOIN_TIMEOUT_S", 0.05)
    threads, release = JobThreads(Sockets()), threading.Event()
    threads.start(release.wait, "stuck")
    assert [thread.name for thread in threads.close()] == ["stuck"]
    release.set()

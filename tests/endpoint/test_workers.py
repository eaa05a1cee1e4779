"""Worker handles: a stop is repeated until the worker is idle, and a worker that hangs is replaced."""

from __future__ import annotations

from endpoint.workers import STOP_AGAIN_S, STOP_GRACE_S, WorkerPool


def test_a_worker_that_does_not_stop_is_replaced(clock):
    pool = WorkerPool(clock)
    worker = pool.add(1)
    pool.stop_job(worker.id, "job")
    clock.now += STOP_GRACE_S
    pool.replace_hung()
    assert not worker.is_leaving
    clock.now += 1
    pool.replace_hung()
    assert worker.replace_requested.is_set()


def test_a_stop_is_repeated_until_the_worker_is_idle(clock):
    worker = WorkerPool(clock).add(1)
    worker.stop_job("job")
    assert (worker.jobs_to_stop(), worker.jobs_to_stop()) == (["job"], [])
    clock.now += STOP_AGAIN_S
    assert worker.jobs_to_stop() == ["job"]
    worker.clear_stops()
    clock.now += STOP_GRACE_S + 1
    assert (worker.jobs_to_stop(), worker.is_hung()) == ([], False)


def test_only_its_own_secret_lets_a_worker_in_and_only_while_it_lives():
    pool = WorkerPool()
    first, second = pool.add(1), pool.add(2)
    assert pool.authenticate(first.id, first.secret) is first
    assert pool.authenticate(first.id, second.secret) is None
    pool.remove(first)
    assert pool.authenticate(first.id, first.secret) is None


def test_workers_are_counted_by_what_they_do():
    pool = WorkerPool()
    pool.size = 5
    starting, idle, busy, leaving = (pool.add(number) for number in range(1, 5))
    for worker in (idle, busy, leaving):
        pool.mark_ready(worker)
    leaving.replace("test")
    counts = {"idle": 1, "initializing": 1, "ready": 1, "running": 1, "throttled": 0, "unhealthy": 1}
    assert (starting.has_polled, pool.counts({busy.id})) == (False, counts)

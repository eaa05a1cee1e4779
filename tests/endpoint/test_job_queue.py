"""The queue's order, deadlines and lost jobs: none is lost, and none runs twice without a note."""

from __future__ import annotations

import sqlite3

import pytest

from endpoint.job_queue import JobQueue
from endpoint.jobs import JobState
from endpoint.run_request import parse_run_request
from endpoint.store import Store
from tests.endpoint.support import EndpointThread


def test_low_priority_goes_last(client, worker):
    low = client.submit(0, policy={"lowPriority": True})
    first, second = client.submit(1), client.submit(2)
    assert [worker.take(1)["id"] for _ in range(3)] == [first, second, low]


@pytest.mark.parametrize(("sync", "kept_s"), [(False, 1800), (True, 60)])
def test_a_result_is_kept_for_its_time(local, worker, clock, sync, kept_s):
    client = local.client
    job_id = client.ask("POST", "/runsync?wait=1000" if sync else "/run", json={"input": {}})["id"]
    worker.take()
    worker.post(job_id, {"output": 1})
    clock.now += kept_s - 1
    local.do(local.endpoint.queue.sweep)
    assert client.status(job_id)["output"] == 1
    clock.now += 1
    assert client.call("GET", f"/status/{job_id}").status_code == 404
    local.do(local.endpoint.queue.sweep)
    assert client.call("POST", f"/retry/{job_id}").status_code == 404


def test_execution_timeout_stops_the_job(client, worker, clock):
    job_id = client.submit({}, policy={"executionTimeout": 5000})
    clock.now += 100  # in the queue it does not count
    worker.take()
    clock.now += 5
    status = client.wait(job_id)
    assert (status["status"], status["executionTime"]) == ("TIMED_OUT", 5000)
    assert status["error"].startswith("executionTimeout")
    assert worker.to_stop() == [job_id]


def test_ttl_counts_from_the_start(client, clock):
    job_id = client.submit({}, policy={"ttl": 10_000})
    clock.now += 10
    status = client.wait(job_id)
    assert status["status"] == "TIMED_OUT"
    assert status["error"].startswith("ttl")


def lose(local, worker, why="it was killed"):
    local.do(lambda: local.endpoint.queue.lose_jobs(worker.id, why))


def test_a_job_whose_worker_ended_is_started_again_and_says_so(local, client, worker):
    job_id, other = client.submit({"a": 1}), client.submit({})
    worker.take()
    lose(local, worker)
    queued = client.status(job_id)
    assert (queued["status"], queued["attempts"]) == ("IN_QUEUE", 1)
    second = local.worker()
    assert second.take() == {"id": job_id, "input": {"a": 1}}, "it keeps its place before the other"
    worker_is_late = worker.post(job_id, {"output": "of the first start"})
    assert worker_is_late.status_code == 200
    assert client.status(job_id)["status"] == "IN_PROGRESS"
    second.post(job_id, {"output": 2})
    done = client.status(job_id)
    assert (done["status"], done["output"], done["attempts"]) == ("COMPLETED", 2, 2)
    assert done["note"].startswith("started once without an answer: it was killed. It is started again")
    assert client.status(other)["status"] == "IN_QUEUE"


def test_a_job_that_ends_every_worker_fails_after_its_attempts(local, client, worker):
    job_id = client.submit({})
    for _ in range(2):
        worker.take()
        lose(local, worker)
    status = client.status(job_id)
    assert (status["status"], status["attempts"]) == ("FAILED", 2)
    assert status["error"].startswith("WORKER_LOST: it was killed, and this job was started twice")


def test_jobs_survive_the_endpoints_restart(tmp_path, clock):
    with EndpointThread(tmp_path, clock) as local:
        worker, client = local.worker(), local.client
        done, running, waiting = client.submit(1), client.submit(2), client.submit(3)
        worker.take(1)
        worker.post(done, {"output": "kept"})
        worker.take(1)
    with EndpointThread(tmp_path, clock) as local:
        worker, client = local.worker(), local.client
        assert client.status(done)["output"] == "kept"
        assert client.status(running)["note"].startswith("started once without an answer: the endpoint ended")
        assert [worker.take(1)["id"], worker.take(1)["id"]] == [running, waiting]
        assert client.status(running)["attempts"] == 2
        assert "attempts" not in client.status(waiting)


def test_a_restart_forgets_what_has_expired(tmp_path, clock):
    with EndpointThread(tmp_path, clock) as local:
        job_id = local.client.submit(1)
        local.client.ask("POST", f"/cancel/{job_id}")
    clock.now += 1800
    with EndpointThread(tmp_path, clock) as local:
        assert local.client.call("GET", f"/status/{job_id}").status_code == 404


def test_a_disk_that_fails_loses_no_job_and_takes_none(local, client, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(local.endpoint.queue._store, "add", fail)
    response = client.call("POST", "/run", json={"input": {}})
    assert response.status_code == 503
    assert "disk is full" in response.json()["error"]
    assert client.health()["jobs"]["inQueue"] == 0


def test_a_result_is_not_settled_before_it_is_on_disk(tmp_path):
    queue = JobQueue(Store(tmp_path / "jobs.sqlite3"))
    job = queue.submit(parse_run_request(b'{"input": 1}', 600, ()), sync=False)
    queue.take("w")
    queue._store.close()
    with pytest.raises(sqlite3.Error):
        queue.finish(job, {"output": 1})
    assert queue.find(job.id).state is JobState.IN_PROGRESS

"""A worker or the endpoint ends while it has jobs: none lost, none run twice without saying so."""

from __future__ import annotations

import sqlite3

import pytest

from endpoint.app import Endpoint
from endpoint.job_queue import Desk
from endpoint.jobs import State
from endpoint.options import Options
from endpoint.store import Store, StoreError
from endpoint.submission import parse_submission
from endpoint.workers import STOP_GRACE_S, Crew
from tests.endpoint.support import EndpointThread


def lose(local, worker, why="it was killed"):
    local.do(lambda: local.endpoint.desk.lose(worker.id, why))


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


def test_a_worker_that_asks_for_a_job_has_dropped_the_one_it_had(client, worker):
    job_id = client.submit({})
    worker.take()
    assert worker.take()["id"] == job_id
    assert client.status(job_id)["attempts"] == 2


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


def test_two_endpoints_never_share_a_queue(tmp_path, local):
    with pytest.raises(StoreError, match="in use by another endpoint"):
        EndpointThread(tmp_path)


def test_a_broken_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"jobs\.sqlite3 cannot be used"):
        Endpoint(Options(data_dir=tmp_path), "key")
    assert (tmp_path / "jobs.sqlite3").read_bytes().startswith(b"no database")


def test_what_is_on_disk_is_its_owners_only(tmp_path, client):
    client.submit({"secret": 1})
    for name in ("jobs.sqlite3", "jobs.sqlite3-wal", "lock"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_a_disk_that_fails_loses_no_job_and_takes_none(local, client, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(local.endpoint.desk._store, "add", fail)
    response = client.call("POST", "/run", json={"input": {}})
    assert response.status_code == 503
    assert "disk is full" in response.json()["error"]
    assert client.health()["jobs"]["inQueue"] == 0


def test_a_result_is_not_settled_before_it_is_on_disk(tmp_path):
    desk = Desk(Store(tmp_path / "jobs.sqlite3"))
    job = desk.submit(parse_submission(b'{"input": 1}', 600, ()), sync=False)
    desk.take("w")
    desk._store.close()
    with pytest.raises(sqlite3.Error):
        desk.answered(job, {"output": 1})
    assert desk.find(job.id).state is State.IN_PROGRESS


def test_a_worker_that_does_not_stop_is_replaced(clock):
    crew = Crew(clock)
    member = crew.enlist(1)
    crew.stop_job(member.id, "job")
    clock.now += STOP_GRACE_S
    crew.dismiss_hanging()
    assert not member.is_leaving
    clock.now += 1
    crew.dismiss_hanging()
    assert member.must_go.is_set()


def test_a_worker_that_asks_to_be_replaced_gets_no_other_job(local, client, worker):
    first, second = client.submit(1), client.submit(2)
    worker.take()
    worker.post(first, {"output": 1, "stopPod": True})
    assert worker.call("GET", f"/job-take/{worker.id}?gpu=x&job_in_progress=0").status_code == 204
    assert worker.member.must_go.is_set()
    assert client.status(first)["status"] == "COMPLETED"
    assert client.status(second)["status"] == "IN_QUEUE"

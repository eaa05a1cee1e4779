"""The API for the SDK's loop: taking, stopping and answering jobs, its secret and its limits."""

from __future__ import annotations

import threading

import pytest

from endpoint import worker_api
from tests.endpoint.support import KEY
from tests.support.waiting import wait_until


def test_each_api_refuses_the_others_key(local, client, worker):
    path = f"/job-take/{worker.id}?gpu=x"
    for header in (KEY, f"Bearer {KEY}", ""):
        assert worker.call("GET", path, headers={"Authorization": header}).status_code == 401
    other = local.worker()
    assert other.call("GET", path).status_code == 401, "one worker's secret is not another's"
    assert client.call("GET", "/health", headers={"Authorization": f"Bearer {worker.handle.secret}"}).status_code == 401
    assert local.endpoint.worker_url.startswith("http://127.0.0.1:")
    assert client.call("GET", path).status_code == 404, "the worker's routes are not in the callers' API"


@pytest.mark.parametrize(("sync", "limit"), [(False, 10_000_000), (True, 20_000_000)])
def test_limits_of_results(client, worker, sync, limit):
    path = "/runsync?wait=1000" if sync else "/run"
    job_id = client.ask("POST", path, json={"input": {}})["id"]
    worker.take()
    assert worker.post(job_id, {"output": "x" * limit}).status_code == 413
    status = client.status(job_id)
    assert status["status"] == "FAILED"
    assert status["error"].startswith(f"RESULT_TOO_LARGE: the worker's answer is larger than {limit // 1_000_000} MB")


def test_an_answer_that_is_not_json_fails_the_job(client, worker):
    job_id = client.submit({})
    worker.take()
    assert worker.call("POST", f"/job-done/{worker.id}/{job_id}?x", data=b'{"output": NaN}').status_code == 400
    assert client.status(job_id)["error"].startswith("INTERNAL")


def test_cancel_a_running_job_tells_its_worker_until_it_has_stopped(client, worker, monkeypatch):
    job_id = client.submit({})
    worker.take()
    told = []
    waiting = threading.Thread(target=lambda: told.extend([worker.to_stop(), worker.to_stop()]))
    waiting.start()
    client.ask("POST", f"/cancel/{job_id}")
    waiting.join(10)
    assert told == [[job_id], [job_id]], "the SDK drops a stop for a job it has not begun, so it is told again"
    worker.post(job_id, {"output": "too late"})
    status = client.status(job_id)
    assert status["status"] == "CANCELLED"
    assert "output" not in status
    monkeypatch.setattr(worker_api, "POLL_S", 0.05)
    worker.call("GET", f"/job-take/{worker.id}?gpu=x&job_in_progress=0")
    assert worker.to_stop() == []


def test_a_batch_of_jobs(client, worker):
    ids = [client.submit(number) for number in range(3)]
    taken = worker.call("GET", f"/job-take-batch/{worker.id}?gpu=x&batch_size=2&job_in_progress=0").json()
    assert [job["id"] for job in taken] == ids[:2]


def test_an_idle_worker_waits_for_a_job(client, worker):
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(worker.take()))
    waiting.start()
    wait_until(lambda: client.health()["workers"]["idle"] == 1)
    job_id = client.submit({})
    waiting.join(10)
    assert taken[0]["id"] == job_id


def test_a_worker_that_asks_for_a_job_has_dropped_the_one_it_had(client, worker):
    job_id = client.submit({})
    worker.take()
    assert worker.take()["id"] == job_id
    assert client.status(job_id)["attempts"] == 2


def test_a_worker_that_asks_to_be_replaced_gets_no_other_job(local, client, worker):
    first, second = client.submit(1), client.submit(2)
    worker.take()
    worker.post(first, {"output": 1, "stopPod": True})
    assert worker.call("GET", f"/job-take/{worker.id}?gpu=x&job_in_progress=0").status_code == 204
    assert worker.handle.replace_requested.is_set()
    assert client.status(first)["status"] == "COMPLETED"
    assert client.status(second)["status"] == "IN_QUEUE"

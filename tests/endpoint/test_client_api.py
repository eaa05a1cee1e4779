"""The API for callers: shapes, limits, key, cancel, retry, purge, CORS. The test is the worker and owns the clock."""

from __future__ import annotations

import json

import pytest
import requests

from tests.endpoint.support import KEY, EndpointThread


def test_the_life_of_a_job(client, worker, clock):
    job_id = client.submit({"prompt": {}}, s3Config={"bucketName": "b"})
    assert client.status(job_id) == {"id": job_id, "status": "IN_QUEUE", "delayTime": 0}
    clock.now += 2
    assert worker.take() == {"id": job_id, "input": {"prompt": {}}, "s3Config": {"bucketName": "b"}}
    worker.post(job_id, {"status": "IN_PROGRESS", "output": {"percent": 5}})
    running = {"id": job_id, "status": "IN_PROGRESS", "delayTime": 2000, "workerId": worker.id}
    assert client.status(job_id) == {**running, "output": {"percent": 5}}
    clock.now += 1.5
    worker.post(job_id, {"output": {"images": []}})
    done = {**running, "status": "COMPLETED", "executionTime": 1500, "output": {"images": []}}
    assert client.status(job_id) == client.ask("POST", f"/status/{job_id}") == done
    worker.post(job_id, {"status": "IN_PROGRESS", "output": {"late": True}})
    assert client.status(job_id) == done


def test_a_failed_job_shows_its_error_and_what_came_with_it(client, worker):
    job_id = client.submit({})
    worker.take()
    worker.post(job_id, {"error": "NODE_FAILED: x", "output": {"error_code": "NODE_FAILED"}})
    status = client.status(job_id)
    assert (status["status"], status["error"]) == ("FAILED", "NODE_FAILED: x")
    assert status["output"] == {"error_code": "NODE_FAILED"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer no"}, {"Authorization": KEY}, {"Authorization": ""}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/run"), ("GET", "/health"), ("GET", "/status/x"), ("GET", "/nowhere")]
)
def test_nothing_without_the_key(client, method, path, headers):
    response = requests.request(method, client.url + path, headers=headers, timeout=10)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "error" in response.json()


def test_the_key_in_an_address_is_not_enough(client):
    assert requests.get(f"{client.url}/health?key={KEY}", timeout=10).status_code == 401


def test_unknown_things_are_404_and_405(client):
    assert client.call("GET", "/status/none").status_code == 404
    assert client.call("GET", "/nowhere").json() == {"error": "not found"}
    response = client.call("PUT", "/run")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_limits_of_requests(client):
    ten = json.dumps({"input": "x" * 10_000_000})
    assert client.call("POST", "/run", data=ten).status_code == 413
    assert client.call("POST", "/runsync?wait=1000", data=ten).status_code == 200
    assert client.call("POST", "/runsync", data=json.dumps({"input": "x" * 20_000_000})).status_code == 413


def test_a_full_queue_is_429(tmp_path):
    with EndpointThread(tmp_path, max_queue=1) as local:
        local.client.submit({})
        response = local.client.call("POST", "/run", json={"input": {}})
        assert (response.status_code, response.headers["Retry-After"]) == (429, "5")


def test_cancel_a_queued_job(client, worker):
    first, second = client.submit(1), client.submit(2)
    assert client.ask("POST", f"/cancel/{first}") == {"id": first, "status": "CANCELLED"}
    assert worker.take()["id"] == second
    assert client.ask("POST", f"/cancel/{first}")["status"] == "CANCELLED"


def test_purge_cancels_only_what_waits(client, worker):
    running, waiting = client.submit(1), [client.submit(2), client.submit(3)]
    worker.take()
    assert client.ask("POST", "/purge-queue") == {"removed": 2, "status": "completed"}
    assert {client.status(job_id)["status"] for job_id in waiting} == {"CANCELLED"}
    assert client.status(running)["status"] == "IN_PROGRESS"


def test_retry_sends_a_failed_job_again(client, worker):
    job_id = client.submit({"a": 1})
    assert client.call("POST", f"/retry/{job_id}").status_code == 409
    worker.take()
    worker.post(job_id, {"error": "once", "output": {"x": 1}})
    assert client.ask("POST", f"/retry/{job_id}") == {"id": job_id, "status": "IN_QUEUE"}
    assert "output" not in client.status(job_id)
    assert worker.take()["input"] == {"a": 1}
    worker.post(job_id, {"output": "now"})
    status = client.status(job_id)
    assert (status["status"], status["output"], status["attempts"]) == ("COMPLETED", "now", 2)
    assert status["note"] == "sent again by /retry"
    assert client.health()["jobs"] == {"completed": 1, "failed": 1, "inProgress": 0, "inQueue": 0, "retried": 1}


def test_runsync_waits_for_the_result(client, worker):
    worker.serve()
    answer = client.ask("POST", "/runsync", json={"input": {"a": 1}})
    assert (answer["status"], answer["output"]) == ("COMPLETED", {"echo": {"a": 1}})
    assert answer["id"].startswith("sync-")


def test_runsync_answers_before_the_end_when_the_wait_is_over(client):
    assert client.ask("POST", "/runsync?wait=1000", json={"input": {}})["status"] == "IN_QUEUE"
    for wait in ("999", "300001", "soon", "-1", "1e3", "1000&wait=2000"):
        assert client.call("POST", f"/runsync?wait={wait}", json={"input": {}}).status_code == 400


def test_stream_hands_each_chunk_out_once(client, worker):
    job_id = client.submit({})
    worker.take()
    for chunk in ("a", "b"):
        worker.post(job_id, {"output": chunk}, kind="job-stream")
    chunks = [{"output": "a"}, {"output": "b"}]
    assert client.ask("GET", f"/stream/{job_id}") == {"status": "IN_PROGRESS", "stream": chunks}
    assert client.ask("POST", f"/stream/{job_id}")["stream"] == []


def test_health_counts_workers(client, worker):
    assert client.health()["workers"]["initializing"] == 1
    client.submit({})
    worker.take()
    workers = client.health()["workers"]
    assert (workers["running"], workers["idle"], workers["initializing"]) == (1, 0, 0)


def test_pages_of_other_origins_are_refused_by_default(tmp_path):
    origin = {"Origin": "http://localhost:8188"}
    with EndpointThread(tmp_path / "a") as local:
        assert local.client.call("OPTIONS", "/run", headers=origin).status_code == 405
        assert "Access-Control-Allow-Origin" not in local.client.call("GET", "/health", headers=origin).headers
    with EndpointThread(tmp_path / "b", cors_origins=(origin["Origin"],)) as local:
        preflight = requests.options(f"{local.client.url}/run", headers=origin, timeout=10)
        assert preflight.status_code == 204
        for key in ("right", KEY):
            answer = local.client.call("GET", "/health", headers={**origin, "Authorization": f"Bearer {key}"})
            assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]

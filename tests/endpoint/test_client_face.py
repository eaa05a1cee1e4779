"""What callers see: shapes, limits, key, cancel, retry, purge, expiry. The test is the worker and owns the clock."""

from __future__ import annotations

import json
import threading

import pytest
import requests

from endpoint import worker_api
from tests.endpoint.support import KEY, EndpointThread
from tests.support.waiting import wait_until


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


def test_each_face_refuses_the_others_key(local, client, worker):
    path = f"/job-take/{worker.id}?gpu=x"
    for header in (KEY, f"Bearer {KEY}", ""):
        assert worker.call("GET", path, headers={"Authorization": header}).status_code == 401
    other = local.worker()
    assert other.call("GET", path).status_code == 401, "one worker's secret is not another's"
    assert client.call("GET", "/health", headers={"Authorization": f"Bearer {worker.member.secret}"}).status_code == 401
    assert local.endpoint.worker_url.startswith("http://127.0.0.1:")
    assert client.call("GET", path).status_code == 404, "the worker's routes are not on the callers' face"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "must be an object"),
        (b"{}", "`input` is missing"),
        (b'{"input": NaN}', "NaN"),
        (b'{"input": 1e999}', "too large"),
        (b'{"input": "\xff"}', "UTF-8"),
        (b'{"input": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"input": 1, "policy": 1}', "`policy`"),
        (b'{"input": 1, "policy": {"ttl": 1}}', "`policy.ttl`"),
        (b'{"input": 1, "policy": {"executionTimeout": true}}', "`policy.executionTimeout`"),
        (b'{"input": 1, "policy": {"executionTimeout": 604800001}}', "`policy.executionTimeout`"),
        (b'{"input": 1, "policy": {"lowPriority": 1}}', "`policy.lowPriority`"),
        (b'{"input": 1, "webhook": 1}', "`webhook`"),
        (b'{"input": 1, "s3Config": []}', "`s3Config`"),
    ],
)
def test_a_bad_body_is_refused_by_name(client, body, said):
    response = client.call("POST", "/run", data=body)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_any_json_is_an_input(client, worker):
    for given in (None, [], 0, "text", {"a": "\ud800"}):
        client.submit(given)
        assert worker.take(1)["input"] == given


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


def test_a_full_queue_is_429(tmp_path):
    with EndpointThread(tmp_path, max_queue=1) as local:
        local.client.submit({})
        response = local.client.call("POST", "/run", json={"input": {}})
        assert (response.status_code, response.headers["Retry-After"]) == (429, "5")


def test_low_priority_goes_last(client, worker):
    low = client.submit(0, policy={"lowPriority": True})
    first, second = client.submit(1), client.submit(2)
    assert [worker.take(1)["id"] for _ in range(3)] == [first, second, low]


def test_cancel_a_queued_job(client, worker):
    first, second = client.submit(1), client.submit(2)
    assert client.ask("POST", f"/cancel/{first}") == {"id": first, "status": "CANCELLED"}
    assert worker.take()["id"] == second
    assert client.ask("POST", f"/cancel/{first}")["status"] == "CANCELLED"


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


@pytest.mark.parametrize(("sync", "kept_s"), [(False, 1800), (True, 60)])
def test_a_result_is_kept_for_its_time(local, worker, clock, sync, kept_s):
    client = local.client
    job_id = client.ask("POST", "/runsync?wait=1000" if sync else "/run", json={"input": {}})["id"]
    worker.take()
    worker.post(job_id, {"output": 1})
    clock.now += kept_s - 1
    local.do(local.endpoint.desk.sweep)
    assert client.status(job_id)["output"] == 1
    clock.now += 1
    assert client.call("GET", f"/status/{job_id}").status_code == 404
    local.do(local.endpoint.desk.sweep)
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


def test_stream_hands_each_chunk_out_once(client, worker):
    job_id = client.submit({})
    worker.take()
    for chunk in ("a", "b"):
        worker.post(job_id, {"output": chunk}, kind="job-stream")
    chunks = [{"output": "a"}, {"output": "b"}]
    assert client.ask("GET", f"/stream/{job_id}") == {"status": "IN_PROGRESS", "stream": chunks}
    assert client.ask("POST", f"/stream/{job_id}")["stream"] == []


def test_a_batch_of_jobs(client, worker):
    ids = [client.submit(number) for number in range(3)]
    taken = worker.call("GET", f"/job-take-batch/{worker.id}?gpu=x&batch_size=2&job_in_progress=0").json()
    assert [job["id"] for job in taken] == ids[:2]


def test_health_counts_workers(client, worker):
    assert client.health()["workers"]["initializing"] == 1
    client.submit({})
    worker.take()
    workers = client.health()["workers"]
    assert (workers["running"], workers["idle"], workers["initializing"]) == (1, 0, 0)


def test_an_idle_worker_waits_for_a_job(client, worker):
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(worker.take()))
    waiting.start()
    wait_until(lambda: client.health()["workers"]["idle"] == 1)
    job_id = client.submit({})
    waiting.join(10)
    assert taken[0]["id"] == job_id


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

"""The assembled endpoint: callers reach the real worker through every layer, and the data folder is its alone."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import runpod
import websocket

from endpoint.store import StoreError
from tests.endpoint.support import KEY, Client, EndpointThread, is_in_progress, long_prompt
from tests.support.prompts import image_prompt
from tests.support.waiting import wait_until


@pytest.fixture
def client(live):
    return Client(live.url)


def test_a_picture_through_every_layer(client):
    status = client.wait(client.submit({"prompt": image_prompt(1)}))
    assert status["status"] == "COMPLETED"
    assert base64.b64decode(status["output"]["images"][0]["b64"]).startswith(b"\x89PNG")
    assert status["workerId"].startswith("worker1-")
    assert {"id", "delayTime", "executionTime"} < set(status)


def test_an_error_through_every_layer(client):
    answer = client.ask("POST", "/runsync", json={"input": {"prompt": {}, "colour": 1}})
    assert (answer["status"], answer["output"]["error_code"]) == ("FAILED", "INVALID_INPUT")
    assert answer["error"].startswith("INVALID_INPUT: `colour`")


def test_cancel_stops_comfyui_and_the_next_job_works(client):
    job_id = client.submit({"prompt": long_prompt()})
    wait_until(lambda: is_in_progress(client, job_id))
    client.ask("POST", f"/cancel/{job_id}")
    assert client.wait(client.submit({"prompt": image_prompt(2)}), timeout_s=10)["status"] == "COMPLETED"
    assert client.status(job_id)["status"] == "CANCELLED"


def test_the_sdks_own_client(live, monkeypatch):
    monkeypatch.setattr(runpod, "endpoint_url_base", live.url.rpartition("/")[0])
    endpoint = runpod.Endpoint("live", api_key=KEY)
    with endpoint.rp_client.rp_session:
        job = endpoint.run({"input": {"prompt": image_prompt(3)}})
        assert job.output(timeout=20)["images"]
        assert job.status() == "COMPLETED"
        assert endpoint.run_sync({"input": {"action": "inspect"}}, timeout=20)["simulator"]
        assert endpoint.health()["workers"]["idle"] == 1
        cancelled = endpoint.run({"input": {"prompt": long_prompt()}})
        assert cancelled.cancel()["status"] == "CANCELLED"
        assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}


def test_events_from_the_real_worker(client):
    job_id = client.submit({"prompt": image_prompt(4)})
    socket = websocket.create_connection(
        f"ws{client.url[4:]}/events/{job_id}", header=[f"Authorization: Bearer {KEY}"], timeout=20
    )
    seen = [json.loads(socket.recv())]
    while seen[-1]["status"] in ("IN_QUEUE", "IN_PROGRESS"):
        seen.append(json.loads(socket.recv()))
    socket.shutdown()
    order = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    places = [order.index(frame["status"]) for frame in seen]
    assert places == sorted(places)
    assert seen[-1] == client.status(job_id)


def test_the_key_is_nowhere_but_where_it_belongs(live, client):
    client.call("GET", "/health", headers={"Authorization": "Bearer wrong"})
    assert KEY not in live.log
    assert KEY not in live.out
    for pid, command in live.family().items():
        assert KEY not in command
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), command
    assert not (live.data_dir / "api_key").exists()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v2/live\n", live.out)


def test_two_endpoints_never_share_a_queue(tmp_path, local):
    with pytest.raises(StoreError, match="in use by another endpoint"):
        EndpointThread(tmp_path)

"""Word of a job over the endpoint's websocket, and by asking where there is none or it breaks."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.following.updates import BackoffTable, JobUpdates
from client.runpod.client import RunPodClient, Target
from tests.client.endpoint import BREAK, KEY, completed, picture, png
from tests.client.support import of, wait_state
from tests.endpoint.support import KEY as OWN_KEY
from tests.endpoint.support import EndpointThread
from tests.support.simulator_process import Client, wait_for

QUEUED = {"status": "IN_QUEUE"}
END = completed(picture())


def at_step(step):
    node = {"value": step, "max": 20, "state": "running"}
    output = {"phase": "running", "message": f"KSampler {step}/20", "percent": 5 * step, "nodes": {"3": node}}
    return {"status": "IN_PROGRESS", "output": output}


def steps_of(frames):
    return [data["nodes"]["3"]["value"] for data in of(frames, "progress_state") if "3" in data["nodes"]]


def shows_step(step):
    return lambda frame: frame["type"] == "progress_state" and frame["data"]["nodes"]["3"]["value"] == step


@pytest.fixture
def page(ready):
    with Client(ready.comfy.engine) as page:
        yield page


def test_every_frame_is_told_in_order_and_nothing_is_asked_any_more(ready, endpoint, page):
    endpoint.push(QUEUED)
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    wait_for(lambda: not endpoint.frames, 10)
    endpoint.push(at_step(1))
    page.until(shows_step(1))
    asked = len(endpoint.paths("status"))
    endpoint.push(*map(at_step, range(2, 21)), END)
    frames = page.until(lambda frame: frame["type"] == "execution_success")
    assert frames[-1]["data"]["prompt_id"] == prompt_id
    assert steps_of(frames)[:19] == list(range(2, 21))
    assert {data["node"] for data in of(frames, "executed")} == {"9", "10"}
    assert (len(endpoint.paths("status")), len(endpoint.paths("events"))) == (asked, 1)


def test_the_key_travels_in_a_header_and_never_in_an_address(ready, endpoint):
    endpoint.push(QUEUED, END)
    wait_state(ready, ready.run().json()["prompt_id"], "done")
    (headers,) = [headers for _, name, headers, _ in endpoint.seen if name == "events"]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert "/v2/ep/events/job-1-e1" in endpoint.addresses
    assert not any(KEY in address for address in endpoint.addresses)


def test_the_next_job_has_its_socket_at_once(ready, endpoint):
    for number in (1, 2, 3):
        endpoint.push(QUEUED, END)
        wait_state(ready, ready.run().json()["prompt_id"], "done")
        assert len(endpoint.paths("events")) == number


def test_an_answer_of_ten_megabytes_comes_through(ready, endpoint):
    endpoint.push(QUEUED, completed(picture(padding="x" * 10_000_000)))
    wait_state(ready, ready.run().json()["prompt_id"], "done")
    assert len(endpoint.paths("events")) == 1


@pytest.mark.parametrize("status", [404, 426, 401, 200])
def test_an_endpoint_without_events_is_asked_for_them_once_and_polled(ready, endpoint, status):
    endpoint.refuse["events"] = [(status, {}, "none")]
    endpoint.statuses = [QUEUED, at_step(1), at_step(2), END]
    for _ in range(2):
        prompt_id = ready.watch()[1]
        assert ready.job(prompt_id)["state"] == "done"
    assert len(endpoint.paths("events")) == 1


def test_a_redirected_handshake_is_not_followed(ready, endpoint):
    reached = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            reached.append(self.headers)

    other = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        endpoint.refuse["events"] = [(307, {"Location": f"http://127.0.0.1:{other.server_port}/"}, "")]
        endpoint.statuses = [QUEUED, at_step(1), END]
        wait_state(ready, ready.run().json()["prompt_id"], "done")
    finally:
        other.shutdown()
        other.server_close()
    assert (reached, len(endpoint.paths("events"))) == ([], 1)


@pytest.mark.parametrize("last", [BREAK, "no JSON", "[]"])
def test_a_broken_socket_is_made_up_for_by_asking_and_tried_again_later(ready, endpoint, page, last):
    endpoint.statuses = [at_step(3)]
    endpoint.push(QUEUED, at_step(1))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    page.until(shows_step(1))
    endpoint.push(last)
    page.until(shows_step(3))
    assert len(endpoint.paths("events")) == 1
    endpoint.push(at_step(4))
    page.until(shows_step(4))
    assert len(endpoint.paths("events")) == 2
    endpoint.push(END)
    wait_state(ready, prompt_id, "done")


def test_cancel_works_at_once_while_the_socket_is_open(ready, endpoint, page):
    endpoint.push(QUEUED, at_step(1))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    page.until(shows_step(1))
    asked = len(endpoint.paths("status"))
    ready.post("/remote/cancel", {"prompt_ids": [prompt_id]})
    wait_state(ready, prompt_id, "cancelled")
    assert (len(endpoint.paths("cancel")), len(endpoint.paths("status"))) == (1, asked)


def test_another_key_opens_another_socket_at_once(ready, endpoint, page):
    endpoint.push(QUEUED, at_step(1))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    page.until(shows_step(1))
    endpoint.keys = {"rpa_ANOTHERKEY1"}
    ready.post("/remote/config", {"api_key": "rpa_ANOTHERKEY1"})
    wait_for(lambda: len(endpoint.paths("events")) == 2, 10)
    endpoint.push(at_step(2), END)
    page.until(shows_step(2))
    wait_state(ready, prompt_id, "done")
    assert [h["Authorization"] for _, name, h, _ in endpoint.seen if name == "events"] == [
        f"Bearer {KEY}",
        "Bearer rpa_ANOTHERKEY1",
    ]


def test_a_silent_worker_is_estimated_over_the_socket_too(ready, endpoint):
    ready.configure(endpoint, ms_per_step=300)
    endpoint.push(QUEUED, {"status": "IN_PROGRESS"})
    with Client(ready.comfy.engine) as page:
        ready.run(client_id=page.id)
        page.until(lambda frame: frame["type"] == "progress" and frame["data"]["value"] >= 2)
        endpoint.push(END)
        page.until(lambda frame: frame["type"] == "execution_success")
    ready.configure(endpoint, ms_per_step=None)


def test_a_restart_in_the_middle_listens_again(ready, endpoint):
    endpoint.statuses = [at_step(1)]
    endpoint.push(QUEUED, at_step(1))
    prompt_id = ready.run().json()["prompt_id"]
    wait_state(ready, prompt_id, "running")
    ready.comfy.restart()
    endpoint.push(completed(picture(color=(3, 2, 1))))
    assert wait_state(ready, prompt_id, "done")["outputs"]["9"]["images"]
    assert png((3, 2, 1)) in [path.read_bytes() for path in (ready.comfy.base / "output").rglob("*.png")]


def test_the_repositorys_own_endpoint_is_heard_and_not_asked(tmp_path, monkeypatch):
    with EndpointThread(tmp_path) as own:
        worker, job_id = own.worker(), own.client.submit({})

        async def listen():
            client, arrived = RunPodClient(), asyncio.Event()
            updates = JobUpdates(client, BackoffTable(), job_id, arrived.set)
            target = Target(own.client.url, OWN_KEY)
            heard = await updates.next_statuses(target)  # asked, while the socket opens
            await asyncio.wait_for(arrived.wait(), 10)
            monkeypatch.setattr(client, "status", None)  # asking would be an error from here on
            await asyncio.to_thread(worker.take)
            await asyncio.to_thread(worker.post, job_id, {"status": "IN_PROGRESS", "output": {"percent": 7}})
            await asyncio.to_thread(worker.post, job_id, {"output": "done"})
            while heard[-1]["status"] != "COMPLETED":
                await asyncio.wait_for(arrived.wait(), 10)
                arrived.clear()
                heard += await updates.next_statuses(target)
            await updates.close()
            await client.close()
            return heard

        heard = asyncio.run(listen())
        states = [body["status"] for body in heard]
        assert list(dict.fromkeys(states)) == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert {"percent": 7} in [body.get("output") for body in heard]
        assert heard[-1] == own.client.status(job_id)

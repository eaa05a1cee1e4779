"""The websocket of a job: every change in order, the key in a header or an offered subprotocol."""

from __future__ import annotations

import json

import pytest
import requests
import websocket

from tests.endpoint.support import KEY

BEARER = [f"Authorization: Bearer {KEY}"]


@pytest.fixture
def connect():
    """Open the websocket of a job."""
    opened = []

    def open_one(client, job_id, **more):
        url = client.url.replace("http", "ws", 1) + f"/events/{job_id}"
        opened.append(websocket.create_connection(url, timeout=10, **{"header": BEARER, **more}))
        return opened[-1]

    yield open_one
    for socket in opened:
        socket.shutdown()


def handshake(client, job_id, **headers):
    """The answer to a handshake that is refused."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    upgrade |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    return requests.get(f"{client.url}/events/{job_id}", headers={**upgrade, **headers}, timeout=10).status_code


def frames(socket):
    """Every frame until the endpoint closes."""
    found = []
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return found, int.from_bytes(data[:2], "big")
        found.append(json.loads(data))


def test_every_change_comes_in_order_and_the_last_is_the_result(connect, client, worker):
    job_id = client.submit({})
    socket = connect(client, job_id)
    worker.take()
    for percent in range(5):
        worker.post(job_id, {"status": "IN_PROGRESS", "output": {"percent": percent}})
    worker.post(job_id, {"output": "done"})
    worker.post(job_id, {"status": "IN_PROGRESS", "output": "late"})
    seen, code = frames(socket)
    assert [frame["status"] for frame in seen] == ["IN_QUEUE", *["IN_PROGRESS"] * 6, "COMPLETED"]
    assert [frame["output"]["percent"] for frame in seen[2:-1]] == list(range(5))
    assert seen[-1] == client.status(job_id)
    assert code == 1000


def test_a_finished_job_is_told_at_once(connect, client):
    job_id = client.submit({})
    client.ask("POST", f"/cancel/{job_id}")
    seen, _ = frames(connect(client, job_id))
    assert [frame["status"] for frame in seen] == ["CANCELLED"]


def test_two_watch_and_one_leaves(connect, client, worker):
    job_id = client.submit({})
    stays, leaves = connect(client, job_id), connect(client, job_id)
    leaves.close()
    worker.take()
    worker.post(job_id, {"output": 1})
    seen, _ = frames(stays)
    assert [frame["status"] for frame in seen] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


def test_a_browser_offers_the_key_as_a_subprotocol(connect, client):
    job_id = client.submit({})
    socket = connect(client, job_id, header=[], subprotocols=["runpod-events", f"bearer.{KEY}"])
    assert socket.getsubprotocol() == "runpod-events", "the key is not said back"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer no"}, {"Sec-WebSocket-Protocol": "runpod-events, bearer.no"}],
)
def test_no_key_no_socket(client, headers):
    assert handshake(client, client.submit({}), **headers) == 401


def test_an_unknown_job_and_a_plain_request(client):
    assert handshake(client, "none", Authorization=f"Bearer {KEY}") == 404
    assert client.call("GET", f"/events/{client.submit({})}").status_code == 426


def test_the_endpoints_end_closes_with_going_away(connect, local, client):
    socket = connect(client, client.submit({}))
    local.__exit__()
    seen, code = frames(socket)
    assert ([frame["status"] for frame in seen], code) == (["IN_QUEUE"], 1001)

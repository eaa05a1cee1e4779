"""Webhooks: refused unless the host was allowed, told once, tried again, never led elsewhere, due after a restart."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from endpoint import webhooks
from tests.endpoint.support import EndpointThread
from tests.support.waiting import wait_until


@pytest.fixture
def receiver(monkeypatch):
    """A server that keeps what is posted to it; ``answers`` are its next status codes, then 200."""
    monkeypatch.setattr(webhooks.Webhooks.__init__, "__defaults__", ((0.0, 0.01, 0.01),))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = server.answers.pop(0) if server.answers else 200
            server.got.append((self.path, json.loads(body)))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.got = [], []
    server.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_host_that_was_not_allowed_is_refused(client):
    for url in ("http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd", "http://[", ""):
        response = client.call("POST", "/run", json={"input": {}, "webhook": url})
        assert response.status_code == 403
        assert "--webhook-host" in response.json()["error"]


def test_a_host_beside_the_allowed_one_is_refused(tmp_path):
    with EndpointThread(tmp_path, webhook_hosts=("good.example",)) as local:
        for url in ("http://good.example:81/", "http://good.example@evil.example/", "http://good.example.evil.example"):
            assert local.client.call("POST", "/run", json={"input": 1, "webhook": url}).status_code == 403


def test_it_is_told_the_status_and_tried_again(tmp_path, receiver):
    receiver.answers[:] = [500, 302]
    with EndpointThread(tmp_path, webhook_hosts=(receiver.host,)) as local:
        worker = local.worker()
        job_id = local.client.submit({}, webhook=f"http://{receiver.host}/done")
        worker.take()
        worker.post(job_id, {"output": 7})
        wait_until(lambda: len(receiver.got) == 3)
        assert receiver.got == [("/done", local.client.status(job_id))] * 3
        wait_until(lambda: not local.endpoint.queue.webhooks_due())


def test_what_was_not_told_is_told_after_a_restart(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(webhooks.Webhooks, "_send", lambda self, job: None)
    with EndpointThread(tmp_path, webhook_hosts=(receiver.host,)) as local:
        job_id = local.client.submit({}, webhook=f"http://{receiver.host}/done")
        local.client.ask("POST", f"/cancel/{job_id}")
    monkeypatch.undo()
    with EndpointThread(tmp_path, webhook_hosts=(receiver.host,)):
        wait_until(lambda: receiver.got)
    assert [body["id"] for _, body in receiver.got] == [job_id]

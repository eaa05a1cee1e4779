"""The description that the endpoint serves is of this endpoint, and schemathesis finds nothing wrong with either."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys

import pytest
import requests

from endpoint.client_api import OPENAPI_FILE
from tests.endpoint.support import KEY, EndpointThread


def test_every_route_is_described_and_nothing_else(local):
    document = json.loads(OPENAPI_FILE.read_bytes())
    described = {
        (method.upper(), path)
        for path, methods in (document["paths"] | document["x-websockets"]).items()
        for method in methods
        if method in ("get", "post")
    }
    app = local.endpoint._client_api.app
    routes = {(route.method, route.resource.canonical) for route in app.router.routes()}
    served = {(method, path.removeprefix("/v2/local")) for method, path in routes if "openapi" not in path}
    assert described == served


def test_it_is_served_without_the_key_and_names_this_endpoint(client):
    for url in (f"{client.url}/openapi.json", client.url.replace("/v2/local", "/openapi.json")):
        answer = requests.get(url, timeout=10)
        assert answer.json()["servers"] == [{"url": "/v2/local"}]
        assert answer.headers["Content-Type"] == "application/json"


def test_a_malformed_header_does_not_put_the_key_into_the_log(client, caplog):
    host, port = client.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\0\r\n\r\n".encode())
        assert b"400" in raw.recv(64)
    assert KEY not in caplog.text


@pytest.mark.skipif(not importlib.util.find_spec("schemathesis"), reason="needs schemathesis")
def test_schemathesis_finds_nothing(tmp_path):
    with EndpointThread(tmp_path, max_queue=100_000) as local:
        local.worker().serve(failing_every=2)
        url = local.client.url
        argv = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url, "--no-color"]
        argv += ["--checks", "all", "--max-examples", "30", "--header", f"Authorization: Bearer {KEY}"]
        said = subprocess.run(argv, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert said.returncode == 0, said.stdout[-8000:] + said.stderr

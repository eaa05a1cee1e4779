"""RunPod's HTTP: every refusal is a sentence, and slowing down is obeyed."""

from __future__ import annotations

import aiohttp
import pytest

from client.runpod.client import Target, _unreachable
from tests.client.endpoint import KEY


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [(401, {}, "API key"), (404, {}, "does not exist"), (413, {}, "larger"), (400, {}, "400"), (502, {}, "502"),
     (302, {"Location": "http://example.com"}, "redirect"), (200, {}, "not RunPod's JSON")],
)  # fmt: skip
def test_a_refusal_of_run_is_said_at_once(ready, endpoint, status, headers, says):
    endpoint.refuse["run"] = [(status, headers, "nonsense")]
    answer = ready.run()
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_slow_down_is_obeyed(ready, endpoint):
    endpoint.refuse["run"] = [(429, {"Retry-After": "1"}, ""), (429, {}, "")]
    assert ready.run().ok
    assert len(endpoint.paths("run")) == 3


def test_an_endpoint_that_cannot_be_reached_is_named(local, endpoint):
    https = endpoint.base.replace("http:", "https:")
    message = local.post("/remote/test", {"endpoint": https, "api_key": KEY}).json()["message"]
    assert "Does its address begin with http:// instead?" in message
    error = aiohttp.ClientConnectorError(None, OSError())
    far = Target("https://api.runpod.ai/v2/x", KEY)
    assert _unreachable(far, error) == "The endpoint cannot be reached at api.runpod.ai. Is this computer online?"

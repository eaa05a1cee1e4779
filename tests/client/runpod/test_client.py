"""RunPod's HTTP: every refusal is a sentence, and slowing down is obeyed."""

from __future__ import annotations

import pytest


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

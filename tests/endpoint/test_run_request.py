"""The body of /run and /runsync: each fault is refused by the field's name, all JSON is an input."""

from __future__ import annotations

import pytest


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

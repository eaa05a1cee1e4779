"""An answer that RunPod refuses is followed by an error that it can take; other failures stay the SDK's."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from aiohttp import ClientResponseError

from worker.errors import Code
from worker.runpod_sdk.rejected_results import LARGE_BYTES, rejection_error, report_rejected_results


def posts_after(status: int, body: object) -> list:
    """Return what the SDK posts when its first post of ``body`` is answered with ``status``."""
    posts = []

    async def transmit(client_session, url, job_data):
        posts.append(job_data)
        if len(posts) == 1:
            raise ClientResponseError(SimpleNamespace(real_url=url), (), status=status)

    sender = SimpleNamespace(_transmit=transmit)
    report_rejected_results(sender)
    with pytest.raises(ClientResponseError):  # for the SDK's log
        asyncio.run(sender._transmit(None, "http://runpod/job-done", body))
    return posts


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_answer_is_followed_by_an_error_in_the_sdks_shape(status):
    first, second = posts_after(status, "ä" * LARGE_BYTES)
    assert first.startswith("ä")
    told = json.loads(second)
    assert told["error"].startswith(f"RESULT_TOO_LARGE: RunPod rejected the answer of 2.1 MB ({status}). Lower")
    assert told["output"] == {
        "error_code": "RESULT_TOO_LARGE",
        "details": {"status": status, "bytes": 2 * LARGE_BYTES},
    }


def test_a_body_that_writes_itself_is_measured_by_its_own_word():
    _, second = posts_after(400, SimpleNamespace(size=5_000_000))
    assert "5.0 MB" in json.loads(second)["error"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_other_refusals_are_left_to_the_sdk(status):
    assert posts_after(status, "{}") == ["{}"]


def test_a_small_answer_was_not_refused_for_its_size():
    assert rejection_error(400, 500).code is Code.INTERNAL
    assert rejection_error(413, 500).code is Code.RESULT_TOO_LARGE

"""A job is followed to its end, whatever stands in the way."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from client.following.follower import Follower
from client.runpod.client import EndpointError
from tests.client.support import Silence, a_job


def follower(client=None):
    said = Silence()
    return Follower(comfyui=said, config=said, table=said, client=client or said, events=said, changed=lambda: None)


def missing():
    return EndpointError("missing", "The endpoint does not know this job (404).")


def test_a_laptop_that_slept_past_the_result():
    job = a_job(state="running", last_seen=time.time() - 45 * 60)
    follower()._on_error(job, missing(), 1)
    assert (job.state, job.error_code) == ("failed", "EXPIRED")
    assert "30 minutes" in job.error and "45 minutes" in job.error


def test_a_job_that_vanishes_gets_some_grace():
    job, follow = a_job(state="queued", last_seen=time.time() - 20), follower()
    follow._on_error(job, missing(), 1)
    assert job.state == "queued"
    follow._on_error(job, missing(), 3)
    assert (job.state, job.error_code) == ("failed", "LOST")


@pytest.mark.parametrize("kind", ["network", "key", "server", "busy", "nonsense", "disk"])
def test_trouble_waits_longer_and_longer_and_never_gives_up(kind):
    job, follow = a_job(state="running", last_seen=time.time() - 10**6), follower()
    waits = [follow._on_error(job, EndpointError(kind, "It is so."), failures) for failures in (1, 2, 5, 60)]
    assert waits == sorted(waits) and waits[-1] == 30
    assert job.state == "running" and job.message


def test_cancelling_a_job_that_is_gone():
    job = a_job(state="running", last_seen=time.time(), cancel_wanted=True)
    follower()._on_error(job, missing(), 1)
    assert job.state == "cancelled"


def test_a_fault_of_our_own_does_not_end_the_following(monkeypatch):
    job, follow = a_job(), follower()
    looks = iter([ValueError("a bug"), None])

    async def check(job, _watch):
        if found := next(looks):
            raise found
        job.state = "done"
        return 0

    monkeypatch.setattr(follow, "_check", check)
    follow.pace = SimpleNamespace(retry_max=0.01)
    asyncio.run(follow.follow(job))
    assert job.state == "done"


@pytest.mark.parametrize(("kind", "goes_on"), [("refused", True), ("missing", True), ("network", False)])
def test_an_endpoint_that_refuses_to_cancel_a_job_is_asked_how_it_ended(kind, goes_on):
    async def cancel(*_):
        raise EndpointError(kind, "No.")

    job, follow = a_job(), follower(SimpleNamespace(cancel=cancel))
    if goes_on:
        asyncio.run(follow._cancel(None, job))
        assert job.phase == "cancelling"
    else:
        with pytest.raises(EndpointError):
            asyncio.run(follow._cancel(None, job))

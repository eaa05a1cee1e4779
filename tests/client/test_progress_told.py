"""What the client makes of a running job's progress, from workers that tell much, little or nothing."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace

import pytest

from client.comfyui.previews import MAX_JPEG_CHARS
from client.following.follower import Follower
from client.following.reporter import ProgressReporter
from client.runpod.client import EndpointError
from tests.client.test_rules import Silence, a_job


class Recorder(Silence):
    """Takes everything, and records the calls about nodes and previews."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name not in ("update_step", "update_nodes", "send_preview"):
            return super().__getattr__(name)
        return lambda *what, **_: self.calls.append((name, *what))


def follower(client):
    return Follower(
        comfyui=Silence(), config=Silence(), table=Silence(), client=client, events=Silence(), changed=lambda: None
    )


def shown(progress, job=None):
    recorder, job = Recorder(), job or a_job()
    config = SimpleNamespace(ms_per_step=100.0)
    reporter = ProgressReporter(comfyui=recorder, config=config, table=Silence(), events=recorder, changed=lambda: None)
    asyncio.run(reporter.report_running(job, progress))
    return job, [(name, *(each for each in what if each is not job)) for name, *what in recorder.calls]


NODES = {"3": {"state": "running"}}
JPEG = base64.b64encode(b"jpeg").decode()


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({"nodes": NODES, "node": "3"}, [("update_nodes", NODES)]),
        ({"node": 3, "step": 1, "steps": 4}, [("update_step", "3", 1, 4)]),
        ({"node": "3", "step": "x"}, [("update_step", "3", 0, 1)]),
        ({}, []),
        ({"preview": {"jpeg_b64": JPEG, "node": "3"}}, [("send_preview", b"jpeg", "3", "id-1", "tab")]),
        ({"preview": {"jpeg_b64": "no base64!"}}, []),
        ({"preview": {"jpeg_b64": "A" * (MAX_JPEG_CHARS + 4)}}, []),
        ({"preview": {}}, []),
    ],
)
def test_a_worker_that_tells_is_shown_as_it_tells(more, calls):
    job, called = shown({"phase": "running", "message": "KSampler 1/4", "percent": 120, **more})
    assert called == calls
    assert (job.state, job.percent) == ("running", 100.0)


def test_a_worker_that_tells_nothing_is_estimated_by_its_samplers():
    job, called = shown({})
    assert called == [("update_step", "3", 0, 4, ())]
    assert job.message == "KSampler, about step 0 of 4"
    job.request.prompt["3"]["inputs"].pop("steps")
    job, called = shown({}, job)
    assert (job.message, called) == ("Running", [])


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

"""A running job's progress, from workers that tell much, little or nothing."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace

import pytest

from client.comfyui.previews import MAX_JPEG_CHARS
from client.following.reporter import ProgressReporter
from tests.client.conftest import PROMPT
from tests.client.endpoint import completed, picture
from tests.client.support import Silence, a_job, of, types


class Recorder(Silence):
    """Takes everything, and records the calls about nodes and previews."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name not in ("update_step", "update_nodes", "send_preview"):
            return super().__getattr__(name)
        return lambda *what, **_: self.calls.append((name, *what))


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


def test_a_silent_worker_is_estimated_and_learned_from(ready, endpoint):
    ready.configure(endpoint, ms_per_step=300)
    running = {"status": "IN_PROGRESS"}
    endpoint.statuses = [{"status": "IN_QUEUE"}, *[running] * 4, completed(picture(), timings={"run_s": 2.0})]
    frames, _ = ready.watch()
    assert types(frames)[-2:] == ["execution_success", "executing"]
    steps = [data["value"] for data in of(frames, "progress")]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] >= 1
    assert all(data["max"] == 4 and data["node"] == "3" for data in of(frames, "progress"))
    messages = [job["message"] for data in of(frames, "remote_serverless.jobs") for job in data["jobs"]]
    assert any(message == "Waiting for a worker" for message in messages)
    assert ready.get("/remote/config").json()["learned_ms_per_step"] is not None
    ready.configure(endpoint, ms_per_step=None)


def test_the_workers_own_progress_is_shown(ready, endpoint):
    def progress(**more):
        return {
            "status": "IN_PROGRESS",
            "output": {"phase": "running", "message": "KSampler 2/4", "percent": 50, **more},
        }

    nodes = {"3": {"value": 2, "max": 4, "state": "running", "prompt_id": "of-the-worker"}}
    cold = {"status": "IN_PROGRESS", "output": {"phase": "starting", "message": "ComfyUI is starting"}}
    done = {"3": {"value": 4, "max": 4, "state": "finished"}, "8": {"value": 0, "max": 1, "state": "running"}}
    endpoint.statuses = [cold, progress(nodes=nodes), progress(nodes=done), completed(picture())]
    frames, prompt_id = ready.watch()
    states = of(frames, "progress_state")
    assert states[0]["nodes"]["3"] == {
        "value": 2, "max": 4, "state": "running", "node_id": "3", "display_node_id": "3", "real_node_id": "3",
        "parent_node_id": None, "prompt_id": prompt_id,
    }  # fmt: skip
    assert states[1]["nodes"]["3"]["state"] == "finished"
    assert all(node["state"] == "finished" for node in states[-1]["nodes"].values())
    assert set(states[-1]["nodes"]) == set(PROMPT)
    messages = [job["message"] for data in of(frames, "remote_serverless.jobs") for job in data["jobs"]]
    assert "ComfyUI is starting" in messages and "KSampler 2/4" in messages

"""Which job a tab sees, and in which events."""

from __future__ import annotations

import pytest

from client.comfyui.events import TabEvents
from client.runpod.status import Failure
from tests.client.support import a_job


class Sink:
    def __init__(self):
        self.sent, self.last, self.is_local = [], {}, False

    def send(self, event, data, client_id):
        self.sent.append((event, data.get("prompt_id")))
        self.last[event] = data

    def runs_locally(self, client_id):
        return self.is_local


def test_a_local_run_is_not_disturbed():
    sink, job = Sink(), a_job(state="running")
    events = TabEvents(sink)
    sink.is_local = True
    events.add(job)
    events.update_step(job, "3", 1, 4)
    assert sink.sent == []
    sink.is_local = False
    events.update_step(job, "3", 2, 4)
    assert [event for event, _ in sink.sent] == [
        "execution_start",
        "execution_cached",
        "executing",
        "progress_state",
        "progress",
    ]


def test_the_next_job_comes_to_the_front_when_one_ends():
    sink, one, two = Sink(), a_job(state="running"), a_job(state="queued")
    two.prompt_id, two.number = "id-2", 2
    events = TabEvents(sink)
    events.add(one)
    events.add(two)
    assert sink.sent[-1][1] == "id-1"
    two.state = "running"
    events.update_step(two, "3", 1, 4)
    assert all(prompt_id == "id-1" for _, prompt_id in sink.sent)
    sink.sent.clear()
    events.succeed(one, ["3", "9"])
    replayed = [event for event, prompt_id in sink.sent if prompt_id == "id-2"]
    assert replayed == ["execution_start", "execution_cached", "executing", "progress_state", "progress"]


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (Failure("NO_OUTPUT: nothing was saved.", "NO_OUTPUT"), "Remote"),
        (Failure("The connection broke.", "UPLOAD_FAILED"), "Remote: UPLOAD_FAILED"),
        (Failure("boom"), "Remote"),
    ],
)
def test_a_code_is_shown_once(failure, shown):
    sink, job = Sink(), a_job(state="running")
    events = TabEvents(sink)
    events.add(job)
    events.fail(job, failure)
    assert sink.last["execution_error"]["exception_type"] == shown
    assert sink.last["execution_error"]["exception_message"] == failure.message

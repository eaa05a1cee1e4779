"""The websocket between the worker and ComfyUI fails, and history with it."""

from __future__ import annotations

import pytest

from tests.support.prompts import image_prompt

fault = pytest.mark.fault


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("fin", marks=fault("socket-fin")),
        pytest.param("rst", marks=fault("socket-rst")),
        pytest.param("close_frame", marks=fault("socket-close")),
    ],
)
def test_a_dropped_socket_costs_the_job_nothing(worker, case, how):
    worker.misbehave(drop_socket={"how": how, "at": "executing", "count": 1})
    case.runs(worker, prompt=image_prompt(0xABC001))


@fault("events-lost")
def test_a_job_without_any_event_is_answered(worker, case):
    worker.misbehave(lose_events={"types": "all", "count": 1})
    case.runs(worker, prompt=image_prompt(0xABC002))


@fault("ends-unheard")
def test_a_job_that_ends_while_sockets_are_refused_is_answered(worker, case):
    worker.misbehave(drop_socket={"how": "fin", "at": "execution_start", "refuse_s": 4, "count": 1})
    case.runs(worker, prompt=image_prompt(0xABC003))


@fault("history-late")
def test_an_error_whose_history_is_late_is_told(worker, case):
    worker.misbehave(history_delay_s={"value": 1.0, "count": 1}, node_error={"EmptyImage": "no paint"})
    answer = case.runs(worker, prompt=image_prompt(0xABC004))
    assert "no paint" in answer["error"]
    assert answer["details"]["node_id"] == "1"

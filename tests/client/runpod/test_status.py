"""The meaning of a status: ends in words, the failed node, and answers that no honest endpoint sends."""

from __future__ import annotations

import pytest

from client.runpod import status as answers
from client.runpod.status import read_status
from tests.client.support import of


@pytest.mark.parametrize(
    ("status", "says", "code"),
    [
        ({"status": "FAILED", "error": "OUT_OF_MEMORY: node 3 (KSampler) needs more"}, "needs more", "OUT_OF_MEMORY"),
        ({"status": "FAILED", "error": '{"error_message": "boom", "error_traceback": "a\\nb"}'}, "boom", ""),
        ({"status": "FAILED"}, "gave no reason", ""),
        ({"status": "TIMED_OUT"}, "time limit", "TIMEOUT"),
        ({"status": "COMPLETED"}, "no images", "NO_OUTPUT"),
        ({"status": "COMPLETED", "output": {"images": []}}, "no images", "NO_OUTPUT"),
        ({"status": "COMPLETED", "output": {"error": "INPUT_MISSING: x"}}, "INPUT_MISSING", "INPUT_MISSING"),
        (
            {"status": "COMPLETED", "output": {"images": [{"b64": "AAAA"}]}},
            "none of its results could be saved",
            "NO_OUTPUT",
        ),
    ],
)
def test_every_bad_end_is_told_in_words(ready, endpoint, status, says, code):
    endpoint.statuses = [status]
    frames, prompt_id = ready.watch()
    (error,) = of(frames, "execution_error")
    assert says in error["exception_message"]
    job = ready.job(prompt_id)
    assert (job["state"], job["error_code"]) == ("failed", code)
    assert {"node_id", "node_type", "traceback", "executed", "current_inputs", "current_outputs"} <= set(error)


@pytest.mark.parametrize(
    "status",
    [
        {"error": "MODEL_MISSING: x", "output": {"details": {"node_id": "4", "class_type": "CheckpointLoaderSimple"}}},
        {"error": "MODEL_MISSING: node 4 (CheckpointLoaderSimple) names 'x', which this worker does not have."},
        {"error": "NODE_MISSING: node 4 is a CheckpointLoaderSimple, which this ComfyUI does not have."},
    ],
)  # fmt: skip
def test_the_node_to_blame_is_named(ready, endpoint, status):
    endpoint.statuses = [{"status": "FAILED", **status}]
    frames, _ = ready.watch()
    (error,) = of(frames, "execution_error")
    assert (error["node_id"], error["node_type"]) == ("4", "CheckpointLoaderSimple")
    assert of(frames, "progress_state")[-1]["nodes"]["4"]["state"] == "error"


def test_progress_in_words():
    models = [{"name": "a", "bytes": 10**9, "total": 4 * 10**9}]
    assert (
        answers.phase_message({"phase": "models", "models": models})
        == "The worker is downloading models: 1.00 of 4.00 GB"
    )
    assert answers.phase_message({"phase": "starting"}) == "A worker is starting"
    assert answers.phase_message({"phase": "running", "message": "KSampler 7/20"}) == "KSampler 7/20"


@pytest.mark.parametrize("trace", [5, {"a": 1}, "text", [5, None, "line"]])
def test_a_trace_of_any_kind_is_a_list_of_lines(trace):
    report = read_status({"status": "FAILED", "error": "X", "output": {"details": {"traceback": trace}}})
    assert report.failure.trace == (["5\n", "line\n"] if isinstance(trace, list) else [])


def test_an_error_nested_deeper_than_can_be_read_is_shown_as_it_is():
    assert read_status({"status": "FAILED", "error": '{"a":' * 3000}).failure.message.startswith('{"a":')


@pytest.mark.parametrize("run_s", [float("inf"), float("nan"), -1, 10**400, None])
def test_a_time_that_no_job_can_take_teaches_nothing(run_s):
    body = {"status": "COMPLETED", "output": {"images": [{}], "timings": {"run_s": run_s}}, "executionTime": run_s}
    assert read_status(body).run_ms is None

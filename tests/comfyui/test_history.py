"""A prompt's end read from its history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.comfyui.history import cached_nodes, failure
from worker.errors import Code

RECORDINGS = Path(__file__).parents[1] / "protocol" / "recordings"


def history(name: str) -> dict:
    for exchange in json.loads((RECORDINGS / f"{name}.json").read_text())["http"]:
        if exchange["request"]["path"].startswith("/history/"):
            return next(iter(exchange["response"]["body"].values()))
    raise AssertionError(name)


def failed(message: str, kind: str) -> dict:
    data = {"node_id": "3", "node_type": "KSampler", "exception_message": message, "exception_type": kind}
    return {"status": {"status_str": "error", "messages": [["execution_error", data]]}}


def test_success_is_no_failure():
    assert failure(history("success_two_images")) is None


def test_a_node_that_raised_is_named_with_its_message():
    error = failure(history("execution_error"))
    assert error is not None
    assert error.code is Code.NODE_FAILED
    assert "node 7 (LoadImageMask) failed: PIL.UnidentifiedImageError: cannot identify image file" in str(error)
    assert len(error.details["traceback"]) == 3


def test_an_interrupted_prompt_is_not_a_success():
    error = failure(history("interrupted"))
    assert error is not None
    assert error.code is Code.INTERRUPTED
    assert error.details["class_type"] == "KSampler"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Allocation on device", "torch.OutOfMemoryError"),
        ("CUDA out of memory. Tried to allocate 20 GiB", "RuntimeError"),
        ("x", "torch.cuda.OutOfMemoryError"),
    ],
)
def test_out_of_memory_is_told_apart(message, kind):
    error = failure(failed(message, kind))
    assert error is not None
    assert error.code is Code.OUT_OF_MEMORY


def test_the_nodes_that_came_from_the_cache_are_told():
    assert cached_nodes(history("fully_cached")) >= {"2"}
    assert cached_nodes({}) is None


ODD = (5, "x", [], {"messages": 5}, {"messages": ["x", [1, 2, 3], [["a"], {}]]})


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_history_breaks_nothing(odd):
    broken = {"status": odd, "outputs": odd}
    assert failure(broken) is None
    assert cached_nodes(broken) is None
    failing = {"status": {"status_str": "error", "messages": [["execution_error", {"traceback": odd}]]}}
    assert failure(failing).code is Code.NODE_FAILED

"""Answers that no honest endpoint or store sends: a person gets a sentence, the poller does not end."""

from __future__ import annotations

import http.client
from io import BytesIO
from urllib.parse import urlsplit

import pytest

from client.jobs import RemoteJob, Request
from client.results.link_download import ResultLink, _expected_size
from client.results.saver import ResultSaver
from client.runpod.client import _seconds
from client.runpod.status import read_status
from client.sending.estimate import samplers, updated_ms_per_step
from tests.client.conftest import PROMPT
from tests.client.endpoint import picture

ODD_NUMBERS = ["\u00b2", "9" * 5000]


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


@pytest.mark.parametrize("steps", [float("inf"), float("nan"), 10**400, -5])
def test_any_number_of_steps_can_be_counted(steps):
    plan = samplers({"1": {"class_type": "KSampler", "inputs": {"steps": steps}}})
    assert plan[0].steps >= 1
    assert updated_ms_per_step(None, 1000.0, plan) > 0


@pytest.mark.parametrize("text", ODD_NUMBERS)
def test_a_length_that_is_no_number_is_an_unknown_length(text):
    link = ResultLink(urlsplit("https://a.example/x"), allow_loopback=False, size=7)
    response = http.client.HTTPResponse(_Socket(f"HTTP/1.1 200 OK\r\nContent-Length: {text}\r\n\r\n".encode("latin-1")))
    response.begin()
    assert _expected_size(link, response, BytesIO()) == 7
    assert _seconds(text) is None


class _Socket:
    def __init__(self, data):
        self._data = data

    def makefile(self, *_):
        return BytesIO(self._data)


def test_odd_parts_of_a_result_do_not_keep_it_from_being_saved(tmp_path):
    def save_path(prefix, root, width, height):
        return root, "x", 1, "", prefix

    folders = {"output": tmp_path, "temp": tmp_path / "temp"}
    job = RemoteJob("id", 1, "tab", "https://api.example/v2/x", Request(PROMPT, {}))
    entry = {**picture(), "node_id": ["9"], "metadata": {"text": "half a \ud800"}}
    assert (
        ResultSaver(folders, save_path, None, lambda job: None).save(job, {"images": [entry], "warnings": True}) == []
    )
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png"]

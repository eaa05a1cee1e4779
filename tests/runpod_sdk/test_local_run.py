"""A local run saves its pictures to a folder; a run that somebody serves answers them."""

from __future__ import annotations

import asyncio
import base64

import pytest

from worker.runpod_sdk import local_run


@pytest.mark.parametrize(
    ("arguments", "environ", "local"),
    [
        ([], {}, True),
        (["--test_input", "{}"], {}, True),
        (["--test_input={}"], {"RUNPOD_WEBHOOK_GET_JOB": "http://x"}, True),
        ([], {"RUNPOD_WEBHOOK_GET_JOB": "http://x"}, False),
        (["--rp_serve_api"], {}, False),
        (["--rp_serve_api", "--test_input", "{}"], {}, False),
    ],
)
def test_a_run_is_local_when_the_sdk_has_no_platform_or_a_test_input(monkeypatch, arguments, environ, local):
    monkeypatch.setattr("sys.argv", ["handler.py", *arguments])
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert local_run.is_local() is local


def saved(answer: dict) -> dict:
    """Return the answer after a local run."""

    async def handler(event: dict) -> dict:
        return answer

    return asyncio.run(local_run.saving_results(handler)({}))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(local_run, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_files_are_saved_and_their_base64_is_not_printed(results, capsys):
    b64 = base64.b64encode(b"picture").decode()
    answer = saved(
        {
            "images": [{"filename": "a.png", "type": "base64", "b64": b64}],
            "files": [{"filename": "../b.mp4", "type": "base64", "data": b64}],
        }
    )
    assert {path.name: path.read_bytes() for path in results.iterdir()} == {"a.png": b"picture", "b.mp4": b"picture"}
    assert answer["images"][0]["b64"] == f"(in {results / 'a.png'})"
    assert answer["files"][0]["data"] == f"(in {results / 'b.mp4'})"
    assert capsys.readouterr().err.splitlines() == [f"Saved {results / 'a.png'}", f"Saved {results / 'b.mp4'}"]


def test_a_file_of_the_same_name_is_not_overwritten(results):
    for text in (b"one", b"two", b"three"):
        saved({"images": [{"filename": "a.png", "type": "base64", "b64": base64.b64encode(text).decode()}]})
    names = {path.name: path.read_bytes() for path in results.iterdir()}
    assert names == {"a.png": b"one", "a (2).png": b"two", "a (3).png": b"three"}


def test_a_file_in_the_bucket_is_left_there(results):
    entries = [
        {"filename": "a.png", "type": "url", "url": "https://x"},
        {"filename": "b.png", "type": "s3_url", "data": "https://x"},
    ]
    assert saved({"images": entries})["images"] == entries
    assert not results.exists()


def test_an_error_is_passed_on(results):
    assert saved({"error": "TIMEOUT: x"}) == {"error": "TIMEOUT: x"}

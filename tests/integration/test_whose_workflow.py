"""A file that ComfyUI answers from its cache carries the workflow of the job that gets it, and nothing of another's."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.support.live_worker import LiveWorker
from tests.support.media_jobs import EVERY, REAL, job, only, texts
from tests.support.runner_bench import node
from worker.results.png_text import read_texts


@pytest.mark.parametrize(("live", "kind"), EVERY, indirect=["live"])
def test_a_cached_file_carries_this_jobs_workflow_and_nothing_of_an_earlier_callers(live, kind):
    live.run(**job(kind, {"of": "caller-one"}))
    entry, data = only(live.run(**job(kind, {"of": "caller-two"})))
    assert texts(live, entry, data)["workflow"] == {"of": "caller-two"}
    assert b"caller-one" not in data
    again, same = only(live.run(**job(kind, {"of": "caller-two"})))
    assert texts(live, again, same)["workflow"] == {"of": "caller-two"}
    _, bare = only(live.run(**job(kind)))
    assert "workflow" not in texts(live, entry, bare)
    assert b"caller-two" not in bare


def runs_of_costly(live: LiveWorker) -> int:
    path = live.base / "costly.txt"
    return path.read_text().count("\n") if path.exists() else 0


def test_only_the_saving_node_runs_anew_and_only_when_the_workflow_is_another(live):
    def note(workflow: str) -> dict[str, Any]:
        prompt = {"1": node("Costly", text="only once"), "9": node("SaveNote", text=["1", 0])}
        return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}

    before = runs_of_costly(live)
    first, _ = only(live.run(**note("one")))
    assert only(live.run(**note("one")))[0]["filename"] == first["filename"]
    second, _ = only(live.run(**note("two")))
    assert second["filename"] != first["filename"]
    assert only(live.run(**note("two")))[0]["filename"] != first["filename"]
    assert runs_of_costly(live) == before + 1


def test_a_picture_with_another_text_in_it_is_saved_anew_and_its_prompt_is_the_jobs_to_the_letter(live):
    prompt = {"1": node("Costly", text="two files"), "9": node("SavePictureAndNote", text=["1", 0])}
    for workflow in ("one", "two"):
        answer = live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": workflow}})
        (picture,), (note,) = answer["images"], answer["files"]
        found = read_texts(base64.b64decode(picture["b64"]))
        assert json.loads(base64.b64decode(note["b64"]))["workflow"] == workflow
        assert found["parameters"] == str({"workflow": workflow})
        assert {name: json.loads(found[name]) for name in ("prompt", "workflow")} == {
            "prompt": prompt,
            "workflow": workflow,
        }


def test_a_node_that_takes_no_further_input_runs_anew_with_all_it_needs(live):
    prompt = {"1": node("Costly", text="strict"), "9": node("SaveNoteStrictly", text=["1", 0])}
    for workflow in ("one", "two"):
        _, data = only(live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": workflow}}))
        assert json.loads(data) == {"prompt": prompt, "workflow": workflow}


def test_what_a_cancelled_or_failed_job_saved_is_not_the_next_callers(live):
    prompt = {
        "1": node("Costly", text="fails later"),
        "9": node("SaveNote", text=["1", 0]),
        "a": node("SaveNoteStrictly", text=["1", 0], unknown="makes it fail"),
    }
    error = live.fail(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": "of the one that failed"}})
    assert error["error_code"] == "NODE_FAILED"
    del prompt["a"]
    _, data = only(live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": "mine"}}))
    assert json.loads(data)["workflow"] == "mine"
    assert "a" not in json.loads(data)["prompt"]


@pytest.mark.parametrize("live", REAL, indirect=True)
def test_what_a_node_saves_that_another_expanded_into_is_never_an_earlier_callers(live):
    prompt = {"1": node("Costly", text="expands"), "9": node("Expands", text=["1", 0])}
    for workflow in ("one", "two", "two"):
        entry, data = only(live.run(prompt=prompt, extra_data={"extra_pnginfo": {"workflow": workflow}}))
        assert entry["node_id"] not in prompt
        assert json.loads(data)["workflow"] == workflow

"""The job as anybody may send it: a checked job or an error that names its field, never anything else."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import JSON, TEXT, broken
from worker.errors import Code, WorkerError
from worker.job import ACTIONS, MAX_TIMEOUT_S, Job, parse_job

PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x", "n": 3, "f": 1.5}},
}
OURS = {
    "action": "run",
    "prompt": PROMPT,
    "extra_data": {"extra_pnginfo": {"workflow": {}}},
    "partial_execution_targets": ["2"],
    "repo_list": "lora https://civitai.com/api/download/models/1",
    "skip_repo_list": False,
    "prune": True,
    "files": [
        {"name": "sub/a.png", "b64": "aGk="},
        {"name": "b.png [input]", "url": "https://a.example/b.png"},
        {"name": "c.png", "url": "data:image/png;base64,aGk="},
    ],
    "result": {"to": "auto", "format": "webp", "quality": 80},
    "metadata": True,
    "preview": True,
    "timeout_s": 60,
}
AS_TEXT = {"prompt": json.dumps(PROMPT), "repo_list": ["# nothing", ""]}
OFFICIAL = {
    "workflow": PROMPT,
    "images": [{"name": "a.png", "image": "data:image/png;base64,aGk="}],
    "comfy_org_api_key": "key",
}
BUCKET = {
    "accessId": "id",
    "accessSecret": "secret",
    "endpointUrl": "https://s3.example/bucket",
    "bucketName": "bucket",
    "region": "eu",
}
EVENTS = broken(
    {"id": "a", "input": OURS, "s3Config": BUCKET},
    {"id": "a", "input": AS_TEXT},
    {"id": "a", "input": OFFICIAL},
)


def read(event):
    """The job, or None where it was refused as the contract has it."""
    try:
        return parse_job(event, 600.0)
    except WorkerError as error:
        assert error.code in (Code.INVALID_INPUT, Code.PROMPT_INVALID)
        named = error.details["field"] if error.code is Code.INVALID_INPUT else error.details["input"]
        assert named in error.message
        json.dumps(error.answer(), ensure_ascii=False, allow_nan=False).encode()
        return None


@given(EVENTS.filter(lambda event: isinstance(event, dict)))
def test_any_job_is_taken_or_refused_by_the_name_of_a_field_and_the_refusal_can_be_sent(event):
    read(event)


@given(st.dictionaries(st.sampled_from(["input", "id", "s3Config"]), JSON))
def test_any_json_in_place_of_a_job_is_refused_or_taken_and_breaks_nothing(event):
    read(event)


@given(EVENTS.filter(lambda event: isinstance(event, dict)))
def test_a_job_that_was_taken_can_travel_on_to_comfyui_and_keeps_every_bound(event):
    job = read(event)
    if job is None:
        return
    assert isinstance(job, Job)
    json.dumps([job.prompt, job.extra_data, job.targets], ensure_ascii=False, allow_nan=False).encode()
    assert job.action in ACTIONS
    assert 0 < job.timeout_s <= MAX_TIMEOUT_S
    assert all(isinstance(node["class_type"], str) and isinstance(node["inputs"], dict) for node in job.prompt.values())
    names = [file.name for file in job.files]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("/") or ".." in name.split("/") or "\\" in name]


@given(st.one_of(JSON.map(json.dumps), TEXT, st.sampled_from(["[" * 9999, "1" * 9999, '{"a":1e999}', '"\\ud800"'])))
def test_a_prompt_that_comes_as_text_is_refused_by_its_name_or_taken_and_can_travel(text):
    job = read({"id": "a", "input": {"prompt": text}})
    if job is not None:
        json.dumps(job.prompt, ensure_ascii=False, allow_nan=False).encode()


@given(
    st.lists(
        st.one_of(
            TEXT, st.sampled_from(["../a.png", "a/../../b.png", ".b.png", "/etc/x.png", "C:\\x.png", "a\\b.png"])
        ),
        max_size=4,
    )
)
def test_an_accepted_file_name_stays_in_the_input_folder(names):
    job = read({"id": "a", "input": {"action": "ensure", "files": [{"name": name, "b64": "aGk="} for name in names]}})
    for file in job.files if job else ():
        parts = file.name.split("/")
        assert all(part and not part.startswith(".") and len(part.encode()) <= 255 for part in parts)
        assert not set(file.name) & set("\0\n\\:")

"""Bad input gets an INVALID_INPUT that names the field; nothing else is ever started for it."""

from __future__ import annotations

import base64
import json

import pytest

from worker.errors import Code, WorkerError
from worker.job import MAX_INPUT_BYTES, parse_job

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def parse(**fields):
    return parse_job({"id": "j", "input": {"prompt": PROMPT, **fields}}, 570)


def refused(event) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        parse_job(event, 570)
    return caught.value


def test_the_defaults_of_the_contract():
    job = parse()
    assert (job.id, job.action, job.prompt, job.timeout_s) == ("j", "run", PROMPT, 570)
    assert (job.extra_data, job.targets, job.repo_list, job.skip_repo_list, job.prune) == ({}, None, "", False, None)
    assert not job.official


def test_a_prompt_may_be_a_string_of_json():
    assert parse(prompt=json.dumps(PROMPT)).prompt == PROMPT


def test_a_repo_list_may_be_text_or_lines():
    assert parse(repo_list=["a", "b"]).repo_list == parse(repo_list="a\nb").repo_list == "a\nb"


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ([1], "input", "a list"),
        ("x" * 50_000_000, "input", "a string"),
        (None, "input", "missing"),
        ({}, "prompt", "missing"),
        ({"prompt": {}}, "prompt", "no nodes"),
        ({"prompt": []}, "prompt", "a list"),
        ({"prompt": "not json"}, "prompt", "not JSON"),
        ({"prompt": "[1]"}, "prompt", "a list"),
        ({"prompt": '{"1": NaN}'}, "prompt", "NaN"),
        ({"prompt": "1" * 5000}, "prompt", "4300 digits"),
        ({"prompt": '{"1": {"class_type": "A", "inputs": {"x": 1e999}}}'}, "prompt.1.inputs.x", "inf"),
        ({"prompt": '{"1": {"class_type": "A", "inputs": {"x": "\\ud800"}}}'}, "prompt.1.inputs.x", "surrogate"),
        ({"prompt": "x" * 50_000_000}, "prompt", "50.0 MB"),
        ({"prompt": {"1": {"class_type": "A", "inputs": {"x": float("nan")}}}}, "prompt.1.inputs.x", "nan"),
        ({"prompt": {"1": {"class_type": "A", "inputs": {"x": "\ud800"}}}}, "prompt.1.inputs.x", "surrogate"),
        ({"prompt": {"\udfff": 1}}, "prompt", "surrogate"),
        ({"prompt": {"nodes": [], "links": [], "last_node_id": 3}}, "prompt", "Export (API)"),
        ({"prompt": {"prompt": PROMPT}}, "prompt", "/prompt request"),
        ({"prompt": {"1": 5}}, "prompt.1", "must be a node"),
        ({"prompt": {"1": {"inputs": {}}}}, "prompt.1.class_type", "node class"),
        ({"prompt": {"1": {"class_type": "A"}}}, "prompt.1.inputs", "missing"),
        ({"prompt": PROMPT, "promt": 1}, "promt", "not a field"),
        ({"action": "dance"}, "action", "run, ensure, inspect"),
        ({"prompt": PROMPT, "timeout_s": -1}, "timeout_s", "seconds"),
        ({"prompt": PROMPT, "timeout_s": True}, "timeout_s", "seconds"),
        ({"prompt": PROMPT, "prune": "yes"}, "prune", "true or false"),
        ({"prompt": PROMPT, "extra_data": []}, "extra_data", "an object"),
        ({"prompt": PROMPT, "partial_execution_targets": "2"}, "partial_execution_targets", "list"),
        ({"prompt": PROMPT, "repo_list": 5}, "repo_list", "text"),
        ({"prompt": PROMPT, "files": [{"name": "../x.png", "b64": "eA=="}]}, "files[0].name", "plain relative"),
        ({"prompt": PROMPT, "files": [{"name": "/x.png", "b64": "eA=="}]}, "files[0].name", "plain relative"),
        ({"prompt": PROMPT, "files": [{"name": "C:\\x.png", "b64": "eA=="}]}, "files[0].name", "plain relative"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "b64": "%%%"}]}, "files[0].b64", "base64"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "b64": ""}]}, "files[0].b64", "base64"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "url": "ftp://h/x"}]}, "files[0].url", "https://"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "url": "https://h/\nx"}]}, "files[0].url", "https://"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "url": 5}]}, "files[0].url", "https://"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "url": "https://h/x", "b64": "eA=="}]}, "files[0].url", "both"),
        ({"prompt": PROMPT, "files": [{"name": "x.py", "b64": "eA=="}]}, "files[0].name", "a .py file"),
        ({"prompt": PROMPT, "files": [{"name": ".x/y.png", "b64": "eA=="}]}, "files[0].name", "plain relative"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "b64": "eA=="}] * 2}, "files[1].name", "another file's"),
        ({"prompt": PROMPT, "files": [{"name": "x.png", "b64": "eA=="}] * 501}, "files", "501"),
        ({"prompt": PROMPT, "metadata": "yes"}, "metadata", "true or false"),
        ({"prompt": PROMPT, "result": "s3"}, "result", "an object"),
        ({"prompt": PROMPT, "result": {"to": "ftp"}}, "result.to", "base64, s3, auto"),
        ({"prompt": PROMPT, "result": {"format": "png"}}, "result.format", "webp"),
        ({"prompt": PROMPT, "result": {"quality": 0}}, "result.quality", "1 to 100"),
        ({"prompt": PROMPT, "result": {"quality": True}}, "result.quality", "1 to 100"),
        ({"prompt": PROMPT, "result": {"size": 1}}, "result.size", "not a field"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_refused_by_name(fields, field, said):
    error = refused({"id": "j", "input": fields})
    assert error.code is Code.INVALID_INPUT
    assert error.details["field"] == field
    assert said in str(error)
    str(error).encode()  # what was refused must not make the answer itself unsendable


def test_a_deeply_nested_input_is_refused_rather_than_overflowing():
    nested: dict = {}
    for _ in range(100_000):
        nested = {"a": nested}
    assert refused({"input": {"prompt": nested}}).code is Code.INVALID_INPUT
    assert refused({"input": {"prompt": '{"a":' * 100_000 + "1" + "}" * 100_000}}).code is Code.INVALID_INPUT


def test_a_link_to_a_node_that_is_not_there_names_both_nodes():
    error = refused({"input": {"prompt": {"2": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}}})
    assert error.code is Code.PROMPT_INVALID
    assert "node 2 (SaveImage) links its input images to node 9" in str(error)


def test_an_input_just_under_the_limit_passes():
    size = MAX_INPUT_BYTES - 1000
    assert parse(extra_data={"x": "y" * size}).extra_data["x"]


def test_files_are_decoded_with_or_without_a_data_uri():
    encoded = base64.b64encode(b"\x89PNG").decode()
    job = parse(
        files=[{"name": "sub/a.png", "b64": encoded}, {"name": "b.png", "b64": f"data:image/png;base64,{encoded}"}]
    )
    assert [(file.name, file.data) for file in job.files] == [("sub/a.png", b"\x89PNG"), ("b.png", b"\x89PNG")]


def test_a_data_uri_may_stand_as_the_url_and_the_mask_editors_names_are_understood():
    job = parse(
        files=[
            {"name": "clipspace/mask.png [input]", "url": "data:image/png;base64,iVBORw=="},
            {"name": "a.txt", "url": "data:text/plain,a%20b"},
            {"name": "far.mp4", "url": "https://example.com/far.mp4?x=1"},
        ]
    )
    assert [(file.name, file.data, file.url) for file in job.files] == [
        ("clipspace/mask.png", b"\x89PNG", None),
        ("a.txt", b"a b", None),
        ("far.mp4", b"", "https://example.com/far.mp4?x=1"),
    ]


BUCKET = {
    "accessId": "AK-test",
    "accessSecret": "SK-test",
    "bucketName": "pics",
    "endpointUrl": "https://s3.example.com",
}


def test_runpods_s3config_is_read_and_never_shown():
    job = parse_job({"input": {"prompt": PROMPT}, "s3Config": BUCKET}, 570)
    assert job.bucket is not None
    assert (job.bucket.base, job.bucket.bucket) == ("https://s3.example.com/pics", "pics")
    assert job.bucket.keys.secret == "SK-test"
    assert "SK-test" not in repr(job)
    assert "AK-test" not in repr(job)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"accessSecret": None}, "s3Config.accessSecret"),
        ({"accessId": "a b"}, "s3Config.accessId"),
        ({"bucketName": 5}, "s3Config.bucketName"),
        ({"bucketName": None}, "s3Config.endpointUrl"),
        ({"endpointUrl": "s3.example.com"}, "s3Config.endpointUrl"),
    ],
)
def test_a_bad_s3config_names_its_field_and_shows_no_secret(change, field):
    error = refused({"input": {"prompt": PROMPT}, "s3Config": {**BUCKET, **change}})
    assert error.details["field"] == field
    assert "SK-test" not in str(error)


def test_a_job_in_the_official_workers_shape_is_understood():
    fields = {
        "workflow": PROMPT,
        "images": [{"name": "a.png", "image": base64.b64encode(b"x").decode()}],
        "comfy_org_api_key": "k",
    }
    job = parse_job({"input": fields}, 570)
    assert job.official
    assert job.prompt == PROMPT
    assert job.files[0].name == "a.png"
    assert job.extra_data == {"api_key_comfy_org": "k"}


def test_inspect_needs_no_prompt():
    assert parse_job({"input": {"action": "inspect"}}, 570).prompt == {}

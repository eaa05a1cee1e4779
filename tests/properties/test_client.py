"""The client: whatever an endpoint answers or a graph holds, a person gets pictures or a sentence."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.jobs import RemoteJob, Request
from client.remote_sink import RejectedError, plain_name
from client.results.link_download import ResultLink, ResultLinkError, is_allowed_address
from client.results.saver import ResultSaver
from client.runpod.status import JobReport, phase_message, read_status
from client.sending.estimate import execution_order, position, samplers, updated_ms_per_step
from client.sending.prompt import (
    PromptError,
    check_prompt,
    drop_local_nodes,
    is_link,
    take_repo_list,
    targets_of,
    without_secrets,
    workflow_of,
)
from tests.properties.strategies import JSON, TEXT, broken

# --- what the endpoint says -----------------------------------------------------------------------------------------

ENTRY = {"filename": "a_00001_.png", "type": "output", "subfolder": "sub", "node_id": "9", "b64": "aGk=", "bytes": 2}
OUTPUT = {"images": [ENTRY], "files": [], "warnings": ["w"], "timings": {"run_s": 1.5}}
WRAPPED = json.dumps({"error_type": "x", "error_message": "broke", "error_traceback": "a\nb"})
DETAILS = {"node_id": "3", "class_type": "KSampler", "traceback": ["a", "b"]}
STATUSES = broken(
    {"status": "IN_QUEUE"},
    {"status": "IN_PROGRESS", "output": {"phase": "models", "models": [{"bytes": 1, "total": 2}], "message": "m"}},
    {"status": "COMPLETED", "executionTime": 1200, "output": OUTPUT},
    {"status": "FAILED", "error": "NODE_FAILED: node 3 (KSampler) failed", "output": {"details": DETAILS}},
    {"status": "FAILED", "error": WRAPPED},
    {"status": "FAILED", "error": "X", "output": {"details": [5]}},
    {"status": "COMPLETED", "output": {"error": "X", "error_code": "INTERNAL", "details": DETAILS}},
    {"status": "FAILED", "error": '{"a":' * 3_000},
).filter(lambda body: isinstance(body, dict))
STATES = ("queued", "running", "done", "failed", "cancelled", "unknown")


@given(STATUSES)
def test_any_status_of_an_endpoint_is_one_of_the_six_states_and_a_failure_has_words(body):
    report = read_status(body)
    assert report.state in STATES
    assert isinstance(report.progress, dict)
    assert isinstance(report.output, dict)
    assert (report.failure is not None) == (report.state == "failed")
    if report.failure:
        assert report.failure.message
        assert all(isinstance(line, str) for line in report.failure.trace)
        json.dumps(report.failure.__dict__)


@given(STATUSES)
def test_the_speed_learned_from_any_answer_is_a_number_or_nothing(body):
    report: JobReport = read_status(body)
    plan = samplers({"1": {"class_type": "KSampler", "inputs": {"steps": 20}}})
    if report.run_ms:
        after = updated_ms_per_step(100.0, report.run_ms, plan)
        assert after is not None
        assert 0 <= after < float("inf")


@given(broken({"phase": "models", "message": "m", "models": [{"bytes": 1, "total": 2}]}))
def test_any_progress_is_one_line(progress):
    if isinstance(progress, dict):
        assert len(phase_message(progress)) < 400


# --- what the endpoint sends ----------------------------------------------------------------------------------------


def png() -> str:
    held = io.BytesIO()
    Image.new("RGB", (2, 2)).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


PICTURE = {**ENTRY, "b64": png(), "metadata": {"seed": 1}, "parameters": "steps: 4"}
TEXT_FILE = {**ENTRY, "filename": "note.txt", "type": "temp", "node_id": "10"}
ANSWERS = broken({"images": [PICTURE, {**PICTURE, "node_id": "10"}], "files": [TEXT_FILE], "warnings": ["w"]})
PROMPT = {
    "8": {"class_type": "VAEDecode", "inputs": {}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
    "10": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Every file is synced to its disk, which a busy machine takes long for."""


def save_path(prefix, folder, width, height):
    """As ComfyUI's own: a prefix may have folders, and one that leaves the output folder is refused."""
    path = Path(folder, prefix)
    if Path(folder).resolve() not in path.resolve().parents:
        raise Exception("outside")
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path.parent), path.name, 1, str(Path(prefix).parent).replace(".", "", 1), prefix


@given(ANSWERS.filter(lambda output: isinstance(output, dict)))
def test_any_answer_is_saved_inside_its_folders_or_left_out_in_words(output):
    with tempfile.TemporaryDirectory(dir=MEMORY) as base:
        folders = {name: Path(base, name) for name in ("output", "temp")}
        job = RemoteJob("id", 1.0, "tab", "https://api.example/v2/x", Request(PROMPT, {}))
        saver = ResultSaver(
            folders, save_path, Path(base, "remote_results"), lambda job: json.dumps(job.files) and None
        )
        try:
            warnings = saver.save(job, output)
        except ResultLinkError:
            return
        assert all(isinstance(text, str) for text in warnings)
        for file in job.files:
            assert (folders[file["type"]] / file["subfolder"] / file["filename"]).resolve().is_relative_to(base)
        json.dumps(job.outputs)
        assert not list(Path(base).rglob(".part-*"))


@given(JSON, st.sampled_from([".png", ""]))
def test_any_name_becomes_a_plain_one_on_every_system(name, extension):
    plain = plain_name(name, extension)
    assert plain
    assert len(plain.encode()) <= 255
    assert not set(plain) & set('/\\:*?"<>|\0\n')
    assert plain[0] != "."
    assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)


ADDRESSES = st.one_of(
    TEXT, st.sampled_from(["https://a.example/x", "http://[", "https://a:b/", "http://127.0.0.1:1/x"])
)


@given(broken({"url": "https://a.example/x?sig=1", "bytes": 5}), ADDRESSES)
def test_any_link_is_https_to_a_host_or_refused(entry, url):
    for asked in ({**(entry if isinstance(entry, dict) else {}), "url": url}, entry if isinstance(entry, dict) else {}):
        try:
            link = ResultLink.of(asked, "https://api.runpod.ai/v2/x")
        except RejectedError as refused:
            assert refused.message
            continue
        assert link.address.scheme == "https"
        assert link.address.hostname


@given(st.ip_addresses())
def test_a_result_is_fetched_from_public_addresses_only(address):
    if is_allowed_address(str(address), allow_loopback=False):
        assert address.is_global
        assert not address.is_loopback


# --- what is sent ---------------------------------------------------------------------------------------------------

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {
        "class_type": "PrimitiveString",
        "inputs": {"value": "lora https://civitai.com/models/1"},
        "_meta": {"title": "repo_list"},
    },
    "3": {
        "class_type": "KSampler",
        "inputs": {"steps": ["5", 0], "start_at_step": 2, "end_at_step": 900, "model": ["1", 0]},
    },
    "4": {"class_type": "SamplerCustom", "inputs": {"sigmas": ["6", 0], "note": ["2", 0], "latent": ["3", 0]}},
    "5": {"class_type": "INTConstant", "inputs": {"value": 20}},
    "6": {"class_type": "BasicScheduler", "inputs": {"steps": 12, "model": ["4", 0]}},
    "7": {"class_type": "RemoteResults", "inputs": {"count": 1}},
    "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
    "1b": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}
WORKFLOW = {"nodes": [{"id": 2, "title": "repo_list"}, {"id": 9}]}


def prepared(prompt, workflow):
    """(what is sent, its list), or None where a person is told why not."""
    try:
        rest, repo_list = take_repo_list(check_prompt(prompt), workflow)
        return drop_local_nodes(rest), repo_list
    except PromptError as problem:
        json.dumps(problem.body())
        assert problem.message
        return None


@given(broken(GRAPH), broken(WORKFLOW))
def test_what_is_sent_holds_no_list_no_local_node_and_no_link_to_either_and_all_else_as_it_was(prompt, workflow):
    before = repr(prompt)
    sent = prepared(prompt, workflow)
    assert repr(prompt) == before
    if sent is None:
        return
    left, repo_list = sent
    assert isinstance(repo_list, str)
    gone = set(prompt) - set(left)
    for node_id, node in left.items():
        assert node["class_type"] != "RemoteResults"
        for name, value in node["inputs"].items():
            assert not (is_link(value) and value[0] in gone)
            was = prompt[node_id]["inputs"][name]
            assert repr(value) == repr(was) or (is_link(was) and was[0] in gone)
    assert prepared(left, {})


@given(
    broken(GRAPH), st.none() | st.lists(st.sampled_from([*GRAPH, "no such node"]), max_size=3), st.integers(0, 10**7)
)
def test_any_graph_has_an_order_each_node_once_and_a_position_at_any_time(prompt, targets, elapsed_ms):
    try:
        prompt = check_prompt(prompt)
    except PromptError:
        return
    order = execution_order(prompt, targets)
    assert len(set(order)) == len(order)
    assert set(order) <= set(prompt)
    plan = samplers(prompt, targets)
    assert all(sampler.steps >= 1 for sampler in plan)
    at = position(plan, elapsed_ms, 50.0)
    assert (at is None) == (not plan)
    if at:
        assert 0 <= at.step < at.steps or at.step == at.steps
    after = updated_ms_per_step(80.0, 1000.0, plan)
    assert after is not None
    assert after > 0


@given(st.permutations(list("12345")))
def test_a_node_comes_after_all_that_it_needs(names):
    chain = {name: {"class_type": "N", "inputs": {"x": [names[n - 1], 0]} if n else {}} for n, name in enumerate(names)}
    assert execution_order(dict(sorted(chain.items()))) == list(names)


@given(JSON, broken(GRAPH), broken({"extra_pnginfo": {"workflow": {}}, "auth_token_comfy_org": "secret"}))
def test_any_targets_and_extra_data_are_read_and_no_login_is_sent(value, prompt, extra_data):
    sent = without_secrets(extra_data)
    assert not {"auth_token_comfy_org", "api_key_comfy_org"} & set(sent)
    assert isinstance(workflow_of(sent), dict)
    try:
        targets = targets_of(value, prompt if isinstance(prompt, dict) else {})
    except PromptError as problem:
        assert problem.message
        return
    assert targets is None or (targets and set(targets) <= set(prompt))

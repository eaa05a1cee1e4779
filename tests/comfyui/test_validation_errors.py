"""Each of ComfyUI's validation errors becomes the code that tells a caller what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.comfyui.validation_errors import omitted_lists, validation_error
from worker.errors import Code

RECORDINGS = Path(__file__).parents[1] / "protocol" / "recordings"


def recorded(name: str) -> tuple[int, dict]:
    answer = json.loads((RECORDINGS / f"{name}.json").read_text())["http"][0]["response"]
    return answer["status"], answer["body"]


no_options: dict = {}


@pytest.mark.parametrize(
    ("scenario", "code", "details"),
    [
        ("unknown_node", Code.NODE_MISSING, {"node_id": "1", "class_type": "NoSuchNode"}),
        ("missing_model", Code.MODEL_MISSING, {"node_id": "4", "input": "ckpt_name"}),
        ("missing_input", Code.INPUT_MISSING, {"node_id": "3", "class_type": "KSampler", "input": "steps"}),
        ("value_out_of_range", Code.PROMPT_INVALID, {"node_id": "5", "class_type": "ImageCrop", "input": "width"}),
        ("no_outputs", Code.NO_OUTPUT, {}),
    ],
)
def test_a_recorded_refusal_gets_its_code_and_its_node(scenario, code, details):
    error = validation_error(*recorded(scenario), None, no_options)
    assert error is not None
    assert error.code is code
    assert details.items() <= error.details.items()


def test_a_missing_model_names_the_nearest_that_is_there():
    error = validation_error(*recorded("missing_model"), None, no_options)
    assert error is not None
    assert error.details["candidates"] == ["tiny_random_sd15.safetensors"]
    assert "tiny_random_sd15.safetensors" in str(error)


def test_200_with_node_errors_is_never_a_success():
    error = validation_error(*recorded("partial_validation"), None, no_options)
    assert error is not None
    assert error.code is Code.MODEL_MISSING


def test_trouble_outside_the_targets_asked_for_is_not_this_jobs():
    assert validation_error(*recorded("partial_validation"), ["21"], no_options) is None
    assert validation_error(*recorded("partial_validation"), ["9"], no_options) is not None


def test_a_prompt_that_runs_is_no_refusal():
    assert validation_error(200, {"prompt_id": "x", "number": 1, "node_errors": {}}, None, no_options) is None


def test_a_list_too_long_to_be_sent_is_asked_for():
    extra = {"input_name": "lora_name", "input_config": None, "received_value": "styel.safetensors"}
    node = {"errors": [{"type": "value_not_in_list", "extra_info": extra}], "class_type": "LoraLoader"}
    body = {"error": {"type": "x"}, "node_errors": {"3": node}}
    assert omitted_lists(body) == [("LoraLoader", "lora_name")]
    there = [*(f"other{n}.safetensors" for n in range(30)), "style.safetensors"]
    error = validation_error(400, body, None, {("LoraLoader", "lora_name"): there})
    assert error is not None
    assert error.details["candidates"][0] == "style.safetensors"


def test_a_missing_input_file_is_told_by_its_name():
    details = "image - Invalid image file: cat.png"
    failed = {"type": "custom_validation_failed", "details": details, "extra_info": {"input_name": "image"}}
    node = {"errors": [failed], "class_type": "LoadImage"}
    error = validation_error(400, {"error": {"type": "x"}, "node_errors": {"7": node}}, None, no_options)
    assert error is not None
    assert error.code is Code.INPUT_MISSING
    assert "'cat.png'" in str(error)


def test_a_choice_that_is_no_model_is_a_prompt_error():
    extra = {"input_name": "sampler_name", "input_config": [["euler", "dpmpp_2m"], {}], "received_value": "eular"}
    node = {"errors": [{"type": "value_not_in_list", "extra_info": extra}], "class_type": "KSampler"}
    error = validation_error(400, {"node_errors": {"3": node}}, None, no_options)
    assert error is not None
    assert error.code is Code.PROMPT_INVALID
    assert "euler" in error.hint


def test_several_errors_are_all_told_the_gravest_first():
    missing = {"errors": [{"type": "required_input_missing", "extra_info": {"input_name": "a"}}], "class_type": "A"}
    extra = {"input_name": "m", "input_config": [[], {}], "received_value": "m.safetensors"}
    model = {"errors": [{"type": "value_not_in_list", "extra_info": extra}], "class_type": "B"}
    error = validation_error(400, {"node_errors": {"1": missing, "2": model}}, None, no_options)
    assert error is not None
    assert error.code is Code.MODEL_MISSING
    assert "node 1 (A) lacks its input a" in str(error)


@pytest.mark.parametrize("body", [{}, {"error": "text"}, {"node_errors": []}, {"node_errors": {"1": None}}])
def test_an_answer_without_reasons_is_an_error_all_the_same(body):
    error = validation_error(500, body, None, no_options)
    assert error is not None
    assert error.code is Code.PROMPT_INVALID


ODD = (
    {"errors": 5},
    {"errors": [5]},
    {"errors": [{"extra_info": 5}], "dependent_outputs": 5},
    {"errors": [{"type": []}]},
)


@pytest.mark.parametrize("node", ODD)
def test_odd_node_errors_are_still_a_refusal(node):
    body = {"node_errors": {"1": node}}
    assert omitted_lists(body) == []
    assert validation_error(400, body, None, no_options).code is Code.PROMPT_INVALID
    assert validation_error(200, body, ["9"], no_options) is None

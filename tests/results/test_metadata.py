"""The generation data of an image is read back from its graph, as far as the graph has it."""

from __future__ import annotations

import json

import pytest

from tests.support.prompts import node, sampler_prompt
from worker.results.metadata import RunInfo, generation_info, image_metadata, parameters_text, png_size

SHA = "ab" * 32
MODELS = [
    {"name": "Model One.safetensors", "folder": "checkpoints", "bytes": 9, "identity": "civitai:11:12", "sha256": SHA},
    {"name": "style.safetensors", "folder": "loras", "identity": "civitai:21:22", "sha256": "cd" * 32},
]


def with_lora() -> dict:
    prompt = sampler_prompt("Model One.safetensors")
    prompt["3"]["inputs"].update(sampler_name="dpmpp_2m", scheduler="karras", cfg=7.5, model=["10", 0])
    prompt["10"] = node(
        "LoraLoader",
        model=["4", 0],
        clip=["4", 1],
        lora_name="style.safetensors",
        strength_model=0.8,
        strength_clip=1.0,
    )
    return prompt


def test_the_text_that_civitai_reads():
    info = generation_info(with_lora(), "9")
    hashes = json.dumps({"model": "ab" * 5, "lora:style": "cd" * 5})
    resources = json.dumps(
        [{"type": "checkpoint", "modelVersionId": 11}, {"type": "lora", "weight": 0.8, "modelVersionId": 21}]
    )
    assert parameters_text(info, RunInfo(MODELS), (64, 48)) == (
        "a cat\nNegative prompt: bad\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1, Size: 64x48, "
        f"Model hash: {'ab' * 5}, Model: Model One, Hashes: {hashes}, Civitai resources: {resources}, Version: ComfyUI"
    )


def test_the_object_for_programs():
    prompt = with_lora()
    found = image_metadata(
        generation_info(prompt, "9"), prompt, "9", RunInfo(MODELS, {"run_s": 1.5}, {"comfyui": "1"}), None
    )
    assert (found["positive"], found["negative"], found["seed"], found["seeds"]) == ("a cat", "bad", 1, [1])
    assert (found["steps"], found["cfg"], found["sampler"], found["width"]) == (20, 7.5, "dpmpp_2m", 64)
    assert found["prompt"] == prompt
    assert (found["timings"], found["versions"]) == ({"run_s": 1.5}, {"comfyui": "1"})
    assert found["models"][1] == {
        "name": "style.safetensors",
        "folder": "loras",
        "strength": 0.8,
        "sha256": "cd" * 32,
        "identity": "civitai:21:22",
        "link": "https://civitai.com/api/download/models/21",
    }
    json.dumps(found)


def test_a_second_pass_does_not_hide_what_began_the_image():
    prompt = with_lora()
    prompt["20"] = {
        **prompt["3"],
        "inputs": {**prompt["3"]["inputs"], "seed": 2, "denoise": 0.4, "latent_image": ["3", 0]},
    }
    prompt["8"]["inputs"]["samples"] = ["20", 0]
    info = generation_info(prompt, "9")
    assert [each["seed"] for each in info.samplers] == [1, 2]
    assert info.main["denoise"] == 1.0


def test_values_and_texts_from_other_nodes_and_both_sides_of_a_controlnet():
    prompt = with_lora()
    prompt["30"] = node("PrimitiveInt", value=77)
    prompt["31"] = node("StringConstant", string="from afar")
    prompt["32"] = node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1.0)
    prompt["3"]["inputs"].update(seed=["30", 0], positive=["32", 0], negative=["32", 1])
    prompt["6"]["inputs"]["text"] = ["31", 0]
    info = generation_info(prompt, "9")
    assert (info.main["seed"], info.positive, info.negative) == (77, "from afar", "bad")


def test_a_flux_graph_with_its_helpers():
    prompt = {
        "1": node("RandomNoise", noise_seed=5),
        "2": node("BasicGuider", model=["6", 0], conditioning=["7", 0]),
        "3": node("KSamplerSelect", sampler_name="euler"),
        "4": node("BasicScheduler", scheduler="simple", steps=4, denoise=1.0, model=["6", 0]),
        "5": node("EmptySD3LatentImage", width=1024, height=768, batch_size=1),
        "6": node("UNETLoader", unet_name="flux.safetensors", weight_dtype="default"),
        "7": node("FluxGuidance", conditioning=["8", 0], guidance=3.5),
        "8": node("CLIPTextEncodeFlux", clip_l="short", t5xxl="a long text", guidance=3.5),
        "9": node(
            "SamplerCustomAdvanced",
            noise=["1", 0], guider=["2", 0], sampler=["3", 0], sigmas=["4", 0], latent_image=["5", 0],
        ),
        "10": node("SaveImage", images=["9", 0]),
    }  # fmt: skip
    info = generation_info(prompt, "10")
    assert info.main == {
        "node_id": "9",
        "seed": 5,
        "steps": 4,
        "sampler": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    assert (info.positive, info.size) == ("short, a long text", (1024, 768))
    assert info.models == [{"name": "flux.safetensors", "folder": "diffusion_models"}]


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"9": None},
        {"9": {"inputs": None}},
        {"9": {"inputs": {"images": ["9", 0], "x": ["nowhere", 0], "seed": ["9", 0], "steps": [1]}}},
        {"9": {"inputs": {"positive": ["8", 0], "seed": 1, "steps": 2}}, "8": {"inputs": {"text": ["8", 0]}}},
        {"9": {"inputs": {"a": ["8", 0]}}, "8": {"inputs": {"b": ["9", 0], "text": {}}}},
    ],
)
def test_any_graph_is_survived(prompt):
    info = generation_info(prompt, "9")
    assert isinstance(image_metadata(info, prompt, "9", RunInfo(), None), dict)
    assert "Version: ComfyUI" in parameters_text(info, RunInfo(), None)


def test_the_size_is_read_from_the_file():
    assert png_size(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x30") == (64, 48)
    assert png_size(b"GIF8") is None

"""Samplers: the steps, the interrupts, and a picture that depends on every input."""

from __future__ import annotations

from tests.simulator.support import empty, pictures, sampling
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_the_drawn_picture_depends_on_everything_that_a_model_would_depend_on(engine: Engine) -> None:
    engine.add_model("checkpoints", "sub/other.safetensors")
    changes = ({}, {"seed": 2}, {"text": "a dog"}, {"steps": 3}, {"cfg": 8.0}, {"ckpt": "sub/other.safetensors"})
    drawn = [pictures(engine, sampling(**change))[0] for change in changes]
    assert {one.size for one in drawn} == {(128, 64)}
    assert len({one.tobytes() for one in drawn}) == len(changes)
    engine.post("/free", json={"free_memory": True})
    assert pictures(engine, sampling())[0].tobytes() == drawn[0].tobytes()


def test_image_to_image_keeps_what_denoise_leaves(engine: Engine) -> None:
    nodes = {"1": empty(128, 64, 0xFF0000), "2": node("VAEEncode", pixels=["1", 0], vae=["4", 2])}
    little = pictures(engine, {**sampling(denoise=0.05, latent=["2", 0]), **nodes})[0]
    reds = [little.getpixel((x, 32))[0] for x in range(0, 128, 16)]
    assert min(reds) > 220


def test_an_advanced_sampler_takes_only_its_part_of_the_steps(engine: Engine) -> None:
    prompt = sampling()
    inputs = {name: value for name, value in prompt["3"]["inputs"].items() if name not in {"seed", "denoise"}}
    part = {
        "add_noise": "enable",
        "noise_seed": 5,
        "start_at_step": 2,
        "end_at_step": 6,
        "return_with_leftover_noise": "enable",
    }
    prompt["3"] = node("KSamplerAdvanced", **{**inputs, "steps": 10, **part})
    run = engine.run(prompt)
    assert [(one["value"], one["max"]) for one in run.of("progress")] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_interrupt_stops_between_two_steps(engine: Engine) -> None:
    with engine.client() as client:
        client.post(sampling(steps=1000, seed=99))
        client.until(lambda frame: isinstance(frame, bytes))
        engine.post("/interrupt")
        ended = client.until(lambda frame: not isinstance(frame, bytes) and frame["type"] == "execution_interrupted")
    assert ended[-1]["data"]["node_type"] == "KSampler"

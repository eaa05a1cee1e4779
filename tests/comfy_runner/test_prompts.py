"""Errors that a prompt causes by itself, and the way the runner handles them."""

from __future__ import annotations

import asyncio
import base64
import io
import json

from PIL import Image

from tests.support.runner_bench import RunnerBench, image_prompt, node, on_bench, sampler_prompt
from worker.errors import Code


def test_the_workflow_travels_into_the_png(tmp_path):
    workflow = {"nodes": [{"id": 1}], "version": 0.4}

    async def scenario(bench):
        result = await bench.run(image_prompt(1), extra_data={"extra_pnginfo": {"workflow": workflow}})
        picture = Image.open(io.BytesIO(result.outputs[0].read()))
        assert json.loads(picture.text["workflow"]) == workflow
        assert json.loads(picture.text["prompt"]) == image_prompt(1)

    on_bench(tmp_path, scenario)


def test_the_same_prompt_again_returns_the_same_images_and_the_disk_does_not_grow(tmp_path):
    async def scenario(bench):
        first = await bench.run(image_prompt(1))
        for _ in range(5):
            assert (await bench.run(image_prompt(1))).outputs == first.outputs
        files = [path for path in bench.runner.server.folder.root.rglob("*") if path.is_file()]
        assert len(files) == 1

    on_bench(tmp_path, scenario)


def test_a_cached_prompt_whose_files_are_gone_is_made_anew(tmp_path):
    async def scenario(bench):
        first = await bench.run(image_prompt(1))
        for path in bench.runner.server.folder.root.rglob("*.png"):
            path.unlink()
        again = await bench.run(image_prompt(1))
        assert again.outputs[0].read() == first.outputs[0].read()
        assert not again.warnings

    on_bench(tmp_path, scenario)


def test_a_part_that_comfyui_threw_away_is_an_error_and_the_rest_does_not_run_on(tmp_path):
    async def scenario(bench):
        prompt = {**sampler_prompt("gone.safetensors"), **image_prompt_at("20", "21")}
        error = await bench.fail(prompt)
        assert error.code is Code.MODEL_MISSING
        assert error.details["node_id"] == "4"
        assert await bench.get("/queue") == {"queue_running": [], "queue_pending": []}
        result = await bench.run(prompt, partial_execution_targets=["21"])
        assert [output.output.node_id for output in result.outputs] == ["21"]

    on_bench(tmp_path, scenario)


def image_prompt_at(empty: str, save: str) -> dict:
    return {
        empty: node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        save: node("SaveImage", images=[empty, 0], filename_prefix="part"),
    }


def test_out_of_memory_frees_comfyui_and_the_next_job_works(tmp_path, safetensors_checkpoint):
    async def scenario(bench):
        await bench.misbehave(oom={"class": "KSampler", "count": 1})
        error = await bench.fail(sampler_prompt(safetensors_checkpoint, steps=1))
        assert error.code is Code.OUT_OF_MEMORY
        assert error.details["node_id"] == "3"
        assert (await bench.get("/simulator/log"))["requests"]["/free"] == 1
        assert (await bench.run(sampler_prompt(safetensors_checkpoint, steps=1))).outputs

    on_bench(tmp_path, scenario)


def test_an_interrupt_from_outside_is_not_a_success(tmp_path, safetensors_checkpoint):
    async def scenario(bench):
        await bench.misbehave(interrupt_self_s={"value": 0.2, "count": 1})
        error = await bench.fail(sampler_prompt(safetensors_checkpoint, steps=1000))
        assert error.code is Code.INTERRUPTED
        assert (await bench.run(image_prompt(1))).outputs

    on_bench(tmp_path, scenario)


def test_previews_come_back_with_a_warning(tmp_path):
    async def scenario(bench):
        prompt = {**image_prompt(1), "2": node("PreviewImage", images=["1", 0])}
        result = await bench.run(prompt)
        assert result.outputs[0].output.type == "temp"
        assert "SaveImage" in result.warnings[0]

    on_bench(tmp_path, scenario)


def test_an_input_file_reaches_loadimage_in_a_subfolder_too(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(buffer, "PNG")
    file = {"name": "sub/red.png", "b64": base64.b64encode(buffer.getvalue()).decode()}
    prompt = {"1": node("LoadImage", image="sub/red.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}

    async def scenario(bench):
        assert (await bench.fail(prompt)).code is Code.INPUT_MISSING
        result = await bench.run(prompt, files=[file])
        assert Image.open(io.BytesIO(result.outputs[0].read())).getpixel((3, 3)) == (255, 0, 0)

    on_bench(tmp_path, scenario)


def test_a_comfyui_that_already_runs_is_used_and_not_supervised(tmp_path, monkeypatch):
    monkeypatch.setattr("comfy_runner.UNREACHABLE_S", 1.0)
    invert = {"7": node("ImageInvert", image=["1", 0]), "2": node("SaveImage", images=["7", 0], filename_prefix="x")}

    async def scenario(bench):
        await bench.run(image_prompt(1))
        other = RunnerBench(tmp_path, {"COMFYUI_URL": bench.url})
        assert len((await other.run(image_prompt(2))).outputs) == 1  # through /view: its disk is not ours
        await bench.misbehave(stall={"s": 20, "class": "ImageInvert"})
        job = asyncio.create_task(other.fail({**image_prompt(3), **invert}))
        await bench.wait_for(bench.is_running_something)
        await asyncio.to_thread(bench.runner.stop)
        assert (await job).code is Code.COMFYUI_DIED
        await other.runner.server.api.close()

    on_bench(tmp_path, scenario)


def test_a_comfyui_that_others_use_as_well_takes_our_inputs_and_gives_us_none_of_their_workflows(tmp_path):
    prompt = {
        "1": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "2": node("SaveLatent", samples=["1", 0], filename_prefix="x"),
        "3": node("LoadImage", image="our own/red.png"),
        "4": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }
    red = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(red, "PNG")
    files = [{"name": "our own/red.png", "b64": base64.b64encode(red.getvalue()).decode()}]

    async def scenario(bench):
        first, second = ({"extra_pnginfo": {"workflow": whose}} for whose in ("of the first worker", "of the second"))
        await bench.run(prompt, files=files, extra_data=first)
        other = RunnerBench(tmp_path, {"COMFYUI_URL": bench.url})
        latent, picture = (await other.run(prompt, files=files, extra_data=second)).outputs
        assert b"of the second" in latent.read()
        assert b"of the first" not in latent.read()
        assert Image.open(io.BytesIO(picture.read())).getpixel((3, 3)) == (255, 0, 0)
        assert (tmp_path / "input" / "our own" / "red.png").read_bytes() == red.getvalue()
        await other.runner.server.api.close()
        other.runner.stop()

    on_bench(tmp_path, scenario)

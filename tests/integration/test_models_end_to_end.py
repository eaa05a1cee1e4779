"""A job brings its models, finds them under whatever name its prompt has, and leaves nothing else behind."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import pytest
import requests

from tests.support.civitai_server import CivitaiServer
from tests.support.prompts import image_prompt, node, sampler_prompt
from tests.support.safetensors_files import safetensors_bytes
from tests.support.worker_bench import WorkerBench, on_worker
from worker.models.leases import Leases


@pytest.fixture
def civitai():
    with CivitaiServer() as server:
        yield server


def link(version: int, kind: str = "ckpt") -> str:
    return f"{kind} https://civitai.com/api/download/models/{version}"


def test_the_five_lines_of_the_readme_work_as_written(tmp_path, civitai):
    """Two checkpoints, two LoRAs and a VAE as bare download links, the prompt using all kinds."""
    versions = {
        1612720: ("ckpt", "oneXL_v10.safetensors", "Checkpoint"),
        2095926: ("ckpt", "otherXL_v20.safetensors", "Checkpoint"),
        383563: ("lora", "add-detail-xl.safetensors", "LORA"),
        1285854: ("lora", "style (v2).safetensors", "LORA"),
        160240: ("vae", "sdxl_vae.safetensors", "VAE"),
    }
    for number, (_, name, kind) in versions.items():
        made = civitai.add_version([civitai.new_file(name, safetensors_bytes(5000, name))], type=kind)
        civitai.versions[number] = civitai.versions.pop(made.id)
        civitai.versions[number].id = number
    repo_list = "\n".join(link(number, kind) for number, (kind, _, _) in versions.items())
    prompt = sampler_prompt("oneXL_v10.safetensors", steps=1)
    prompt["10"] = node(
        "LoraLoader", lora_name="style (v2).safetensors", strength_model=1.0, strength_clip=1.0,
        model=["4", 0], clip=["4", 1],
    )  # fmt: skip
    prompt["11"] = node("VAELoader", vae_name="sdxl_vae.safetensors")
    prompt["3"]["inputs"]["model"], prompt["8"]["inputs"]["vae"] = ["10", 0], ["11", 0]

    async def scenario(bench):
        answer = await bench.run(prompt=prompt, repo_list=repo_list)
        assert [model["name"] for model in answer["models"]["downloaded"]] == [name for _, name, _ in versions.values()]
        assert len(answer["images"]) == 1
        assert bench.on_disk() == {
            "checkpoints/oneXL_v10.safetensors",
            "checkpoints/otherXL_v20.safetensors",
            "loras/add-detail-xl.safetensors",
            "loras/style (v2).safetensors",
            "vae/sdxl_vae.safetensors",
        }
        asked = len(civitai.requests)
        again = await bench.run(prompt=prompt, repo_list=repo_list)
        assert [model["name"] for model in again["models"]["ready"]] == [name for _, name, _ in versions.values()]
        assert not again["models"]["downloaded"]
        assert len(civitai.requests) == asked  # all there: no network

    on_worker(tmp_path, civitai, scenario)


def test_an_images_metadata_has_its_models_hash_and_link_also_when_an_earlier_job_listed_them(tmp_path, civitai):
    version = civitai.add_model("DreamPaint_v8.safetensors", safetensors_bytes(5000, "a"))
    sha256 = hashlib.sha256(safetensors_bytes(5000, "a")).hexdigest()

    async def scenario(bench):
        prompt = sampler_prompt("DreamPaint_v8.safetensors", steps=1)
        for how in (
            {"repo_list": link(version)},
            {"repo_list": ""},
            {"repo_list": link(version), "skip_repo_list": True},
        ):
            (image,) = (await bench.run(prompt=prompt, metadata=True, **how))["images"]
            (model,) = image["metadata"]["models"]
            assert model["sha256"] == sha256
            assert model["link"] == f"https://civitai.com/api/download/models/{version}"
            assert f"Model hash: {sha256[:10]}" in image["parameters"]

    on_worker(tmp_path, civitai, scenario)


def test_a_windows_path_in_the_wrong_case_finds_the_model_and_another_list_prunes_it(tmp_path, civitai):
    first = civitai.add_model("DreamPaint_v8.safetensors", safetensors_bytes(5000, "a"))
    second = civitai.add_model("other_v1.safetensors", safetensors_bytes(6000, "b"))

    async def scenario(bench):
        answer = await bench.run(prompt=sampler_prompt("SD15\\dreampaint_V8.safetensors"), repo_list=link(first))
        assert any("was read as 'DreamPaint_v8.safetensors'" in warning for warning in answer["warnings"])
        answer = await bench.run(prompt=sampler_prompt("other_v1.safetensors"), repo_list=link(second))
        assert [model["name"] for model in answer["models"]["pruned"]] == ["DreamPaint_v8.safetensors"]
        assert bench.on_disk() == {"checkpoints/other_v1.safetensors"}
        answer = await bench.run(prompt=sampler_prompt("DreamPaint_v8.safetensors"), repo_list=link(first))
        assert [model["name"] for model in answer["models"]["downloaded"]] == ["DreamPaint_v8.safetensors"]
        assert len(answer["images"]) == 1

    on_worker(tmp_path, civitai, scenario)


async def is_running_something(bench: WorkerBench) -> bool:
    if not bench.worker.runner.is_ready:
        return False
    url = f"{bench.worker.runner.server.url}/queue"
    return bool((await asyncio.to_thread(lambda: requests.get(url, timeout=10))).json()["queue_running"])


@pytest.mark.parametrize("listed", [True, False])
def test_a_jobs_models_are_claimed_while_its_prompt_runs_and_no_longer(tmp_path, civitai, listed):
    version = civitai.add_model("a.safetensors", safetensors_bytes())
    repo_list = link(version)

    async def scenario(bench):
        leases = Leases(bench.models_dir)
        await bench.run(action="ensure", repo_list=repo_list)
        fields = {"repo_list": repo_list} if listed else {}
        job = asyncio.create_task(bench.answer(prompt=sampler_prompt("a.safetensors", steps=5000), **fields))
        while not await is_running_something(bench):
            assert not job.done()
            await asyncio.sleep(0.02)
        assert {str(place) for place in leases.others().using} == {"checkpoints/a.safetensors"}
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        assert not leases.others().using
        await bench.fail(prompt={"1": node("EmptyImage", width=8, height=8, batch_size=1, color=0)}, **fields)
        assert not leases.others().using

    on_worker(tmp_path, civitai, scenario)


def test_a_model_that_is_nowhere_is_told_before_comfyui_is_asked(tmp_path, civitai):
    version = civitai.add_model("there_v1.safetensors", safetensors_bytes())

    async def scenario(bench):
        answer = await bench.fail(prompt=sampler_prompt("ther_v1.safetensors"), repo_list=link(version))
        assert answer["error"].startswith("MODEL_MISSING: node 4 (CheckpointLoaderSimple) ckpt_name")
        (missing,) = answer["details"]["missing"]
        assert missing["candidates"] == ["there_v1.safetensors"]
        assert missing["line"].startswith("ckpt https://")

    on_worker(tmp_path, civitai, scenario)


def test_a_bad_line_costs_nothing_and_deletes_nothing(tmp_path, civitai):
    version = civitai.add_model("kept_v1.safetensors", safetensors_bytes())

    async def scenario(bench):
        await bench.run(action="ensure", repo_list=link(version))
        answer = await bench.fail(prompt=image_prompt(), repo_list=f"{link(version)}\nckpt 12345")
        assert answer["error"].startswith("INVALID_REPO_LIST: ")
        assert "line 2" in answer["error"].lower()
        assert bench.on_disk() == {"checkpoints/kept_v1.safetensors"}

    on_worker(tmp_path, civitai, scenario)


def test_an_empty_list_and_a_skipped_one_leave_models_alone(tmp_path, civitai):
    version = civitai.add_model("kept_v1.safetensors", safetensors_bytes())
    other = civitai.add_model("other_v1.safetensors", safetensors_bytes(5000, "other"))

    async def scenario(bench):
        await bench.run(action="ensure", repo_list=link(version))
        await bench.run(prompt=image_prompt())
        await bench.run(prompt=image_prompt(), repo_list=link(other), skip_repo_list=True)
        assert bench.on_disk() == {"checkpoints/kept_v1.safetensors"}
        await bench.run(prompt=image_prompt(), repo_list=link(other), prune=False)
        assert bench.on_disk() == {"checkpoints/kept_v1.safetensors", "checkpoints/other_v1.safetensors"}

    on_worker(tmp_path, civitai, scenario)


def test_ensure_brings_models_without_waiting_for_comfyui_and_inspect_lists_them(tmp_path, civitai):
    version = civitai.add_model("there_v1.safetensors", safetensors_bytes(5000))

    async def scenario(bench):
        answer = await bench.run(action="ensure", repo_list=link(version))
        assert answer["images"] == []
        assert answer["timings"]["comfyui_start_s"] == 0
        assert not bench.worker.runner.is_ready
        found = await bench.run(action="inspect")
        assert found["models"]["checkpoints"][0]["name"] == "there_v1.safetensors"
        assert found["models"]["checkpoints"][0]["bytes"] == 5000
        assert found["comfyui"] is None
        assert found["disk"]["free_bytes"] > 0

    on_worker(tmp_path, civitai, scenario)


def test_models_and_comfyuis_start_overlap_in_a_cold_job(tmp_path, civitai, monkeypatch):
    monkeypatch.setenv("SIMULATOR_MISBEHAVE", '{"start_delay_s": 1.5}')
    version = civitai.add_model("slow_v1.safetensors", safetensors_bytes(200_000))
    civitai.file(version).bytes_per_s = 100_000  # sent in pieces of 64 KiB, so that it takes two seconds

    async def scenario(bench):
        timings = (await bench.run(prompt=image_prompt(), repo_list=link(version)))["timings"]
        assert timings["total_s"] < timings["models_s"] + timings["comfyui_start_s"]

    on_worker(tmp_path, civitai, scenario)


def test_a_cancelled_job_stops_its_download_and_the_next_job_works(tmp_path, civitai):
    version = civitai.add_model("slow_v1.safetensors", safetensors_bytes(200_000))
    civitai.file(version).bytes_per_s = 10_000

    async def scenario(bench):
        job = asyncio.create_task(bench.answer(prompt=image_prompt(), repo_list=link(version)))
        while not list(bench.models_dir.rglob("*.part")):
            assert not job.done()
            await asyncio.sleep(0.02)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert not list(bench.models_dir.rglob("*.part"))
        assert (await bench.run(prompt=image_prompt()))["images"]

    on_worker(tmp_path, civitai, scenario)


def test_the_deadline_bounds_the_download_too(tmp_path, civitai):
    version = civitai.add_model("slow_v1.safetensors", safetensors_bytes(200_000))
    civitai.file(version).bytes_per_s = 10_000

    async def scenario(bench):
        answer = await bench.fail(prompt=image_prompt(), repo_list=link(version), timeout_s=1)
        assert answer["error"].startswith("TIMEOUT: ")
        assert not list(bench.models_dir.rglob("*.part"))

    on_worker(tmp_path, civitai, scenario)


def test_no_token_appears_in_the_answer_the_log_or_the_manifest(tmp_path, civitai, caplog):
    caplog.set_level(logging.DEBUG)
    version = civitai.add_model("gated_v1.safetensors", safetensors_bytes(), needs_token=True)
    pasted = civitai.add_model("pasted_v1.safetensors", safetensors_bytes(5000, "p"), needs_token=True)

    async def scenario(bench):
        lines = [link(version), f"{link(pasted)}?token={civitai.token}"]
        good = await bench.run(action="ensure", repo_list=lines)
        civitai.token = "changed-meanwhile"
        bad = await bench.fail(
            action="ensure", repo_list=f"{link(version)}&fp=fp32\nckpt nonsense?token=tok-civitai-5ecret"
        )
        written = [path.read_text(errors="replace") for path in bench.models_dir.rglob("*.json")]
        assert "tok-civitai-5ecret" not in str([good, bad, caplog.text, written])

    on_worker(tmp_path, civitai, scenario, CIVITAI_TOKEN="tok-civitai-5ecret")

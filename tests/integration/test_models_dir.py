"""Models kept elsewhere (MODELS_DIR, a network volume) are found by ComfyUI all the same."""

from __future__ import annotations

from tests.support.civitai_server import CivitaiServer
from tests.support.prompts import sampler_prompt
from tests.support.safetensors_files import safetensors_bytes
from tests.support.worker_bench import on_worker


def test_a_model_fetched_into_another_folder_is_loaded(tmp_path):
    elsewhere = tmp_path / "it's a volume" / "models"

    async def scenario(bench):
        bench.models_dir = elsewhere
        answer = await bench.run(
            prompt=sampler_prompt("there_v1.safetensors", steps=1),
            repo_list=f"ckpt https://civitai.com/api/download/models/{version}",
        )
        assert len(answer["images"]) == 1
        assert bench.on_disk() == {"checkpoints/there_v1.safetensors"}

    with CivitaiServer() as civitai:
        version = civitai.add_model("there_v1.safetensors", safetensors_bytes())
        on_worker(tmp_path, civitai, scenario, MODELS_DIR=str(elsewhere))

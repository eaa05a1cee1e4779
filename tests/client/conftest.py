"""A local ComfyUI with the pack, without a browser."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.browser.local_comfy import LocalComfy
from tests.client.endpoint import KEY, Endpoint
from tests.support.simulator_process import Client

HEADER = {"X-Remote-Serverless": "1"}
PROMPT = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "sub/mine"}},
    "10": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}  # fmt: skip


class Local:
    """The local ComfyUI, and the calls that its page makes."""

    def __init__(self, comfy: LocalComfy) -> None:
        self.comfy, self.url = comfy, comfy.url

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.url + path, headers={**HEADER, **headers}, timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return requests.post(self.url + path, json=body, headers={**HEADER, **headers}, timeout=60)

    def configure(self, endpoint: Endpoint, **more: Any) -> None:
        answer = self.post("/remote/config", {"endpoint": endpoint.base, "api_key": KEY, **more})
        assert answer.ok, answer.text

    def run(self, prompt: Any = None, client_id: str = "", **more: Any) -> requests.Response:
        body = {"prompt": PROMPT if prompt is None else prompt, "client_id": client_id, "extra_data": {}, **more}
        return self.post("/remote/run", body)

    def job(self, prompt_id: str) -> dict[str, Any]:
        jobs = self.get("/remote/jobs").json()["jobs"]
        return next(job for job in jobs if job["prompt_id"] == prompt_id)

    def watch(self, prompt: Any = None, **more: Any) -> tuple[list[Any], str]:
        """Run as a page would; the events until the end, and the job's id."""
        with Client(self.comfy.engine, str(uuid.uuid4())) as page:
            prompt_id = self.run(prompt, page.id, **more).json()["prompt_id"]

            def is_end(frame: Any) -> bool:
                over = frame["type"] == "executing" and frame["data"]["node"] is None
                return bool(over and frame["data"]["prompt_id"] == prompt_id)

            return page.until(is_end), prompt_id


@pytest.fixture(scope="package")
def local_comfy(tmp_path_factory) -> Iterator[LocalComfy]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNPOD_API_KEY", raising=False)
        comfy = LocalComfy(tmp_path_factory.mktemp("local") / "ComfyUI")
    yield comfy
    comfy.stop()


@pytest.fixture
def local(local_comfy) -> Local:
    return Local(local_comfy)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def ready(local, endpoint) -> Local:
    """Configured for the test's endpoint."""
    local.configure(endpoint)
    return local

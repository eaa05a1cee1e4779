"""Jobs whose inputs are larger than a job may be: by the person's bucket, told as progress, and nothing leaks."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterator

import pytest
import requests
from PIL import Image

from client.runpod.client import RUN_LIMIT_BYTES
from tests.client.conftest import PROMPT, Local
from tests.client.endpoint import b64, completed, picture, png
from tests.client.support import configure_bucket, of, wait_state
from tests.support.disk_s3 import DiskS3
from tests.support.runpod_platform import CLIENT_KEY, RunPodPlatform, WorkerProcess
from tests.support.simulator_process import SIMULATOR, safetensors

LARGE = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 50_000
FILES = {"large.png": LARGE, "small.png": png((4, 5, 6))}


@pytest.fixture
def bucket(tmp_path) -> Iterator[DiskS3]:
    root = tmp_path / "bucket"
    root.mkdir()
    with DiskS3(root) as bucket:
        yield bucket
        bucket.open.set()


@pytest.fixture
def with_bucket(ready, bucket) -> Iterator[Local]:
    """A configured pack, its bucket, and two input files."""
    for name, data in FILES.items():
        (ready.comfy.base / "input" / name).write_bytes(data)
    configure_bucket(ready, bucket)
    yield ready
    ready.post("/remote/config", {"forget_bucket": True})


def prompt(*names: str) -> dict:
    loaders = {str(n): {"class_type": "LoadImage", "inputs": {"image": name}} for n, name in enumerate(names, 20)}
    return {**PROMPT, **loaders}


def test_the_large_file_goes_by_link_and_the_small_one_in_the_job(with_bucket, endpoint, bucket):
    endpoint.statuses = [completed(picture())]
    frames, prompt_id = with_bucket.watch(prompt("large.png", "small.png"))
    assert of(frames, "execution_success")
    (sent,) = endpoint.paths("run")
    files = {file["name"].partition("_")[2]: file for file in sent["input"]["files"]}
    assert files["small.png"]["b64"] == b64(FILES["small.png"])
    link = files["large.png"]["url"]
    assert "X-Amz-Expires=86400" in link
    assert requests.get(link, timeout=10).content == LARGE
    images = {sent["input"]["prompt"][node]["inputs"]["image"] for node in ("20", "21")}
    assert images == {file["name"] for file in sent["input"]["files"]}
    told = [job["message"] for data in of(frames, "remote_serverless.jobs") for job in data["jobs"]]
    assert any(text.startswith("Uploading large inputs:") and text.endswith("of 13 MB") for text in told)
    assert_nothing_leaks(with_bucket, bucket, frames)
    with_bucket.watch(prompt("large.png"))
    assert bucket.count("PUT") == 1, "what is there is not uploaded again"
    assert with_bucket.job(prompt_id)["state"] == "done"


def assert_nothing_leaks(local, bucket, frames) -> None:
    secret = bucket.env()["BUCKET_SECRET_ACCESS_KEY"]
    private = local.comfy.base / "user" / "__remote_serverless"
    with sqlite3.connect(private / "jobs.sqlite") as table:
        rows = str(table.execute("SELECT * FROM jobs").fetchall())
    table.close()
    pages = [local.get(path).text for path in ("/remote/config", "/remote/jobs", "/history", "/queue", "/settings")]
    for text in (rows, str(frames), local.comfy.engine.log_text(), *pages):
        assert not any(word in text for word in (secret, "disk-access", "X-Amz-"))
    holders = [path for path in local.comfy.base.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holders == [private / "bucket.json"]
    assert holders[0].stat().st_mode & 0o777 == 0o600


def test_a_job_that_fits_does_not_touch_the_bucket(with_bucket, endpoint, bucket):
    endpoint.statuses = [completed(picture())]
    with_bucket.watch(prompt("small.png"))
    assert bucket.seen == []


def test_a_bucket_that_refuses_ends_the_job_at_its_node(with_bucket, endpoint):
    configure_bucket(with_bucket, DiskS3Refusing())
    frames, prompt_id = with_bucket.watch(prompt("small.png", "large.png"))
    (error,) = of(frames, "execution_error")
    assert (error["node_id"], error["node_type"]) == ("21", "LoadImage")
    assert "The connection to the bucket broke" in error["exception_message"]
    assert with_bucket.job(prompt_id)["error_code"] == "UPLOAD_FAILED"
    assert endpoint.paths("run") == []


class DiskS3Refusing:
    """A port where nobody is."""

    def env(self) -> dict[str, str]:
        keys = {"BUCKET_ACCESS_KEY_ID": "AK", "BUCKET_SECRET_ACCESS_KEY": "SK"}
        return {"BUCKET_ENDPOINT_URL": "http://127.0.0.1:9", "BUCKET_NAME": "pics", **keys}


def test_cancel_ends_an_upload_and_nothing_is_sent(with_bucket, endpoint, bucket):
    bucket.open.clear()
    prompt_id = with_bucket.run(prompt("large.png")).json()["prompt_id"]
    assert bucket.waiting.wait(10)
    assert with_bucket.job(prompt_id)["phase"] == "uploading"
    with_bucket.post("/remote/cancel", {"prompt_ids": [prompt_id]})
    wait_state(with_bucket, prompt_id, "cancelled")
    assert endpoint.paths("run") == []


def test_a_restart_in_the_middle_of_an_upload_says_that_nothing_was_sent(with_bucket, endpoint, bucket):
    bucket.open.clear()
    prompt_id = with_bucket.run(prompt("large.png")).json()["prompt_id"]
    assert bucket.waiting.wait(10)
    with_bucket.comfy.restart()
    job = with_bucket.job(prompt_id)
    assert (job["state"], job["error_code"]) == ("failed", "INTERRUPTED")
    assert "nothing was sent" in job["error"]
    assert endpoint.paths("run") == []


def test_the_real_worker_fetches_what_was_uploaded(local, bucket, tmp_path):
    out = io.BytesIO()
    Image.frombytes("RGB", (2100, 1800), os.urandom(2100 * 1800 * 3)).save(out, "PNG", compress_level=1)
    assert len(out.getvalue()) > 11e6
    (local.comfy.base / "input" / "noise.png").write_bytes(out.getvalue())
    checkpoints = tmp_path / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "tiny.safetensors").write_bytes(safetensors())
    env = {"COMFYUI_PATH": str(SIMULATOR), "COMFYUI_ARGS": f"--base-directory '{tmp_path}'"}
    env |= {"MODELS_DIR": str(tmp_path / "models"), "PRIVATE_HOSTS": bucket.url.removeprefix("http://")}
    scaled = {"upscale_method": "nearest-exact", "width": 16, "height": 16, "crop": "disabled"}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **scaled}},
        "11": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "scaled"}},
    }
    with RunPodPlatform() as platform, WorkerProcess(platform, tmp_path / "worker.log", **env) as worker:
        local.post("/remote/config", {"endpoint": platform.base, "api_key": CLIENT_KEY})
        configure_bucket(local, bucket)
        frames, _ = local.watch(graph)
        assert of(frames, "execution_success"), worker.log
        assert "X-Amz-Signature" not in worker.log
    local.post("/remote/config", {"forget_bucket": True})


def test_too_large_is_said_before_sending(ready, endpoint):
    (ready.comfy.base / "input" / "large.png").write_bytes(png() + b"\0" * RUN_LIMIT_BYTES)
    answer = ready.run({**PROMPT, "1": {"class_type": "LoadImage", "inputs": {"image": "large.png"}}})
    assert answer.status_code == 400
    assert "10 MB" in answer.json()["error"]["message"] and "large.png" in answer.json()["error"]["message"]
    assert "enter a bucket in Remote Config" in answer.json()["error"]["message"]
    assert set(answer.json()["node_errors"]) == {"1"}
    huge = {
        **PROMPT,
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x" * RUN_LIMIT_BYTES, "clip": ["4", 1]}},
    }
    assert "workflow alone is 10.0 MB" in ready.run(huge).json()["error"]["message"]
    assert endpoint.paths("run") == []

"""Shared by tests of the client: graphs, jobs, stand-ins, and looks at a page's events."""

from __future__ import annotations

import copy
import io
from pathlib import Path

from PIL import Image

from client.jobs import RemoteJob, Request
from tests.client.conftest import PROMPT
from tests.support.simulator_process import wait_for


def node(kind, title=None, **inputs):
    return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def a_job(**more):
    return RemoteJob(
        "id-1", 1, "tab", "http://127.0.0.1/v2/ep", Request(copy.deepcopy(PROMPT), {}), runpod_id="r-1", **more
    )


def jpeg(color="red", size=(64, 48)):
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG")
    return out.getvalue()


class Silence:
    """A local ComfyUI, its events and a table that take everything."""

    def __getattr__(self, _):
        return lambda *a, **k: None


class FolderPaths:
    """As much of ComfyUI's folder_paths as the pack needs to start."""

    get_save_image_path = None

    def __init__(self, root: Path) -> None:
        self._root = root

    def get_user_directory(self) -> str:
        return str(self._root)


def wait_state(local, prompt_id, *states, timeout=15):
    wait_for(lambda: local.job(prompt_id)["state"] in states, timeout)
    return local.job(prompt_id)


def types(frames):
    return [frame["type"] for frame in frames]


def of(frames, kind):
    return [frame["data"] for frame in frames if frame["type"] == kind]


def configure_bucket(local, bucket, **more) -> None:
    env = bucket.env()
    typed = {
        "address": env["BUCKET_ENDPOINT_URL"], "name": env["BUCKET_NAME"],
        "access_key_id": env["BUCKET_ACCESS_KEY_ID"], "secret_access_key": env["BUCKET_SECRET_ACCESS_KEY"],
    }  # fmt: skip
    answer = local.post("/remote/config", {"bucket": {**typed, **more}})
    assert answer.ok, answer.text

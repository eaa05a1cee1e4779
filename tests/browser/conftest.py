"""A browser on a local ComfyUI with the pack, and behind it a loopback RunPod with the real worker.

``REMOTE_ENDPOINT=own`` puts the repository's own endpoint (``make endpoint``) in the loopback RunPod's place.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.browser.frontends import VERSIONS, static_folder
from tests.endpoint.support import EndpointProcess
from tests.support.runpod_platform import CLIENT_KEY, RunPodPlatform, WorkerProcess
from tests.support.simulator_process import SIMULATOR, safetensors

CHECKPOINT = "tiny.safetensors"
LOCAL_ONLY = "only-on-this-machine.safetensors"


class Platform(RunPodPlatform):
    """With the ``/health`` that the Test button asks."""

    def _app(self) -> web.Application:
        app = super()._app()
        app.router.add_get("/v2/ep/health", self._health)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != self._auth["Authorization"]:
            return web.Response(status=401)
        return web.json_response({"workers": {"idle": 1, "ready": 1, "running": 0}, "jobs": {"inQueue": 0}})


class OwnEndpoint:
    """The repository's own endpoint in the platform's place; what it keeps on disk is read for ``jobs``."""

    def __init__(self, process: EndpointProcess) -> None:
        self.base, self._store = process.ready().url, process.data_dir / "jobs.sqlite3"

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """Every job by its id, oldest first."""
        with contextlib.closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT id, facts, request FROM jobs ORDER BY rowid").fetchall()
        return {name: {**json.loads(request), "status": json.loads(facts)["state"]} for name, facts, request in rows}


@pytest.fixture(scope="package")
def browser_or_skip() -> None:
    """Chromium, or a clear line; in CI its lack is a failure."""
    problem = _problem()
    if problem and os.environ.get("CI"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


def _problem() -> str:
    try:
        from tests.browser import chromium
    except ImportError:
        return "selenium is missing: pip install selenium"
    return chromium.missing()


@pytest.fixture(scope="package")
def platform(browser_or_skip, tmp_path_factory) -> Iterator[Platform | OwnEndpoint]:
    """An endpoint with one worker behind it: RunPod's likeness, or with ``REMOTE_ENDPOINT=own`` this repository's."""
    base = tmp_path_factory.mktemp("worker")
    if os.environ.get("REMOTE_ENDPOINT") == "own":
        with EndpointProcess(base, key=CLIENT_KEY, SIMULATOR_STEP_MS="100") as process:
            yield OwnEndpoint(process)
            process.terminate()
        return
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / CHECKPOINT).write_bytes(safetensors())
    env = {
        "COMFYUI_PATH": str(SIMULATOR),
        "COMFYUI_ARGS": f"--base-directory '{base}'",
        "MODELS_DIR": str(base / "models"),
        "SIMULATOR_STEP_MS": "100",
    }
    with Platform() as platform, WorkerProcess(platform, base / "worker.log", **env):
        yield platform


@pytest.fixture(scope="package", params=VERSIONS)
def comfy_page(request, platform, tmp_path_factory) -> Iterator[object]:
    """A browser on one frontend, with nothing configured yet."""
    from tests.browser.comfy_page import ComfyPage
    from tests.browser.local_comfy import LocalComfy

    frontend: Path = static_folder(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNPOD_API_KEY", raising=False)
        local = LocalComfy(tmp_path_factory.mktemp("local") / "ComfyUI", frontend)
    local.add_model(CHECKPOINT)
    local.add_model(LOCAL_ONLY)
    comfy_page = ComfyPage(local, platform, str(tmp_path_factory.mktemp("profile")))
    try:
        yield comfy_page
    finally:
        comfy_page.close()
        local.stop()

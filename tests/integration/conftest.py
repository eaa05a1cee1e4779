"""The worker that a module's tests share: on the simulator, and on a real ComfyUI where COMFYUI_PATH names one."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.live_worker import LiveWorker
from tests.support.media_jobs import REAL
from tests.support.saving_pack import PACK


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], LiveWorker]]:
    """Workers by their engine's name, each started when it is first asked for."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def worker(engine: str) -> LiveWorker:
            base = tmp_path_factory.mktemp("comfyui")
            pack = base / "custom_nodes" / "pack"
            pack.mkdir(parents=True)
            (pack / "__init__.py").write_text(PACK)
            checkout = Path(os.environ["COMFYUI_PATH"]).resolve() if engine == "comfyui" else None
            return running.enter_context(LiveWorker(base, checkout))

        yield worker


@pytest.fixture(params=["simulator", *REAL])
def live(request: pytest.FixtureRequest, workers: Callable[[str], LiveWorker]) -> LiveWorker:
    """A worker on every engine there is."""
    return workers(request.param)

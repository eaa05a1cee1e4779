"""A models folder, a source that is a fake, and the managers that work on them."""

from pathlib import Path

import pytest

from model_manager import ModelManager
from tests.support.model_bench import TOKEN, FakeSource
from worker.settings import Settings


@pytest.fixture
def source():
    return FakeSource()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def manager(root, source):
    """Makes managers of one models folder, each ending the one before, as workers that start one after another do."""
    earlier = []

    def make(environ=None, **more):
        while earlier:
            earlier.pop().close()
        settings = Settings.from_environ(
            {"COMFYUI_URL": "http://127.0.0.1:1", "MODELS_DIR": str(root), "CIVITAI_TOKEN": TOKEN, **(environ or {})}
        )
        more.setdefault("volume", Path("/no/such/volume"))
        earlier.append(ModelManager(settings, source, **more))
        return earlier[-1]

    return make


@pytest.fixture
def stocked(manager, source, root):
    """A worker that brought models 1 and 2; a job that lists 2 alone would prune 1."""

    def make(environ=None, **more):
        source.add(1)
        source.add(2)
        worker = manager(environ, **more)
        worker.prepare(source.list(1, 2), {}, prune=False)
        return worker

    return make

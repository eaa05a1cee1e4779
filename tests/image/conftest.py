"""The image under test: built here, or, with TEST_IMAGE=NAME, one that buildah has already."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.image.building import CACHE, Storage, build, copy_context, make_base, make_engine, missing
from tests.image.container import Container
from tests.support.runpod_platform import RunPodPlatform

WANTED = os.environ.get("TEST_IMAGE", "")
TAG = "localhost/comfy-remote-serverless-test"


class Images:
    """The image, and further builds from changed copies of the same context."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.tag = Storage(CACHE / "storage"), TAG
        make_base(self.storage)
        self.engine = make_engine(folder / "engine")
        self.context = copy_context(folder / "context")
        self._folder = folder
        self.first = self.build(self.context, TAG)

    def build(self, context: Path, tag: str):
        return build(self.storage, context, self.engine, tag)

    def changed_context(self, name: str) -> Path:
        """A copy of the context to change."""
        return Path(shutil.copytree(self.context, self._folder / name))


@pytest.fixture(scope="session")
def images():
    if WANTED != "1":
        pytest.skip("only for an image that is built here")
    if reason := missing():
        pytest.fail(reason)
    # not pytest's tmp_path: the names of its folders change, and the cached layers go by the engine's path
    folder = Path(tempfile.gettempdir()) / "comfy-remote-serverless-image-build"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    built = Images(folder)
    assert built.first.returncode == 0, built.first.stdout[-4000:]
    yield built
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(request) -> tuple[Storage, str]:
    """Where the image under test is, and its name."""
    if WANTED != "1":
        return Storage(None), WANTED
    built = request.getfixturevalue("images")
    return built.storage, built.tag


@pytest.fixture
def platform():
    with RunPodPlatform() as found:
        yield found


@pytest.fixture
def start(image, platform, tmp_path):
    """Start the image with what RunPod puts into its environment; ended with everything of it after the test."""
    started: list[Container] = []

    def start_container(*, arguments=(), volumes=None, pid_namespace=False, **env: str) -> Container:
        given = {name: value for name, value in platform.worker_env().items() if name.startswith("RUNPOD_")}
        container = Container(
            *image,
            tmp_path / f"container{len(started)}.log",
            {**given, "COMFYUI_ARGS": "--cpu", **env},
            arguments=arguments,
            volumes=volumes,
            pid_namespace=pid_namespace,
        )
        started.append(container)
        return container

    yield start_container
    for container in started:
        container.__exit__()

"""Every test has its own environment: nothing of the machine's leaks in, nothing of the test's leaks out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.safetensors_files import safetensors_bytes

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

PREFIXES = (
    "COMFYUI_",
    "RUNPOD_",
    "SIMULATOR_",
    "CIVITAI_",
    "HF_",
    "PRUNE",
    "KEEP_",
    "BUCKET_",
    "RESULT_",
    "INPUT_",
    "PRIVATE_",
)
PROCESSES_PER_CORE, MOST_PROCESSES = 2, 8
"""Most tests wait for a process that they have started, so one per core would leave half of the machine idle. With more
than eight the longest file takes as long as the run, and a container sees more cores than it may use."""
KEPT = ("COMFYUI_PATH", "COMFYUI_PYTHON")  # they say which engine the protocol and integration suites run against


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes ``-n auto`` starts."""
    return min(PROCESSES_PER_CORE * len(os.sched_getaffinity(0)), MOST_PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return our own scheduler for ``--dist loadfile``."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support.side_by_side import SideBySide

    return SideBySide(config, log)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory):
    """What killed workers cannot remove any more lies in pytest's own folder, not all over ``/tmp``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr("tempfile.tempdir", None)  # the answer that Python remembers
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Drop what a developer may have set for runs by hand."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) and name not in KEPT:
            monkeypatch.delenv(name)


@pytest.fixture
def safetensors_checkpoint(tmp_path) -> str:
    """The name of a tiny, valid checkpoint under ``tmp_path/models``, as the simulator's loaders accept it."""
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").write_bytes(safetensors_bytes())
    return "tiny.safetensors"


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """The S3 server of all tests, which takes seconds to start; use ``s3``."""
    from tests.support.s3_server import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server) -> S3Server:
    """An S3 server with an empty bucket and no faults."""
    s3_process.clear()
    return s3_process

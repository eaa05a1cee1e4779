"""Downloads from a loopback Civitai: fixtures, a line for a new file, and an error that leaves nothing half done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.civitai_server import CivitaiServer, FakeFile
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.downloads.pool import download_all
from worker.errors import WorkerError
from worker.sites.client import SiteClient, Sites
from worker.sites.types import Downloaded
from worker.stop import Stop

MiB = 1 << 20
SMALL = safetensors_bytes(300_000)
BIG = safetensors_bytes(70 * MiB, "big")


@pytest.fixture
def server() -> Iterator[CivitaiServer]:
    """A loopback Civitai of the test's own."""
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def rig(server: CivitaiServer, tmp_path: Path) -> Rig:
    """A worker's model source on that Civitai."""
    return Rig(server, tmp_path / "models")


def add(
    server: CivitaiServer, data: bytes = SMALL, name: str = "x.safetensors", **fields: object
) -> tuple[str, FakeFile]:
    """Publish a file. Return a line for it, and the file."""
    version = server.add_model(name, data, type="LORA", **fields)
    return f"lora https://civitai.com/api/download/models/{version}", server.file(version)


def fetch(rig: Rig, text: str, **options: object) -> list[Downloaded]:
    """Download the lines with options of ``download_all``; no byte of the disk is reserved."""
    sites = Sites.from_settings(rig.settings)
    return download_all(
        rig.downloads(rig.resolve(text)),
        lambda sockets: SiteClient(sites, QUICK, sockets),
        Stop(),
        lambda files: None,
        connections=4,
        retry=QUICK,
        **{"reserve_bytes": 0, **options},
    )


def refusal(rig: Rig, text: str, **options: object) -> WorkerError:
    """Download lines of which one fails. Return its error; no ``.part`` is left, and no path of this machine shown."""
    with pytest.raises(WorkerError) as caught:
        fetch(rig, text, **options) if options else rig.fetch(text)
    assert not [name for name in rig.files() if name.endswith(".part")]
    assert str(rig.models_dir) not in str(caught.value)
    return caught.value

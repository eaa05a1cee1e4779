"""What the suites of downloads share: two files, a line for one, and a refusal that leaves nothing half done."""

from __future__ import annotations

import pytest

from tests.support.civitai_server import CivitaiServer, FakeFile
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import WorkerError

MiB = 1 << 20
SMALL = safetensors_bytes(300_000)
BIG = safetensors_bytes(70 * MiB, "big")


def add(
    server: CivitaiServer, data: bytes = SMALL, name: str = "x.safetensors", **fields: object
) -> tuple[str, FakeFile]:
    """A line for a new file, and the file."""
    version = server.add_model(name, data, type="LORA", **fields)
    return f"lora https://civitai.com/api/download/models/{version}", server.file(version)


def refusal(rig: Rig, text: str) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        rig.fetch(text)
    assert not [name for name in rig.files() if name.endswith(".part")]
    return caught.value

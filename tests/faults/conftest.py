"""A loopback Civitai for each test, and a worker's model sites on it."""

from __future__ import annotations

import pytest

from tests.support.civitai_server import CivitaiServer
from tests.support.model_rig import Rig


@pytest.fixture
def server():
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def rig(server, tmp_path):
    return Rig(server, tmp_path)

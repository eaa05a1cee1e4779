"""A loopback Civitai for each test, a worker's model source on it, and a small disk."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.downloading import rig, server

__all__ = ["rig", "server"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB; skips where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)

"""A loopback Civitai for each test, and a worker's model source on it."""

from __future__ import annotations

from tests.support.downloading import rig, server

__all__ = ["rig", "server"]

"""The scheduler of the tests under pytest-xdist: by file, so that a module's fixtures are made once."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

BROWSER = "tests/browser/"


class SideBySide(LoadFileScheduling):
    """Distributes whole files, and all browser tests to one process: two browsers at once starve each other's pages."""

    def _split_scope(self, nodeid: str) -> str:
        return BROWSER if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)

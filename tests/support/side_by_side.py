"""The scheduler of the tests under pytest-xdist: by file, so that a module's fixtures are made once."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

from tests.browser.frontends import VERSIONS


class SideBySide(LoadFileScheduling):
    """Distributes whole files, and the browser tests by frontend: a frontend has one browser for all its tests."""

    def _split_scope(self, nodeid: str) -> str:
        frontend = next((version for version in VERSIONS if f"[{version}" in nodeid), None)
        return frontend or super()._split_scope(nodeid)

"""A worker's model source on a fake Civitai, for tests of it alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker.downloads.source import WebModelSource
from worker.net.retry import Retry
from worker.settings import Settings
from worker.sites.repo_list import parse_repo_list
from worker.sites.types import Download, Downloaded, ModelFile, Report
from worker.stop import Stop

if TYPE_CHECKING:
    from tests.support.civitai_server import CivitaiServer

QUICK = Retry(scale=0.001, connect_s=2.0, read_s=0.5)
"""A policy for tests: every try of the real one, hardly any waiting."""


class Rig:
    """A worker's model source that talks to a fake, called as the model manager calls it."""

    def __init__(self, server: CivitaiServer, models_dir: Path, retry: Retry = QUICK, **environ: str) -> None:
        self.models_dir = models_dir
        named = {**server.env(), "MODELS_DIR": str(models_dir), **environ}
        self.settings = Settings.from_environ(named)
        self.source = WebModelSource(self.settings, retry=retry)

    def resolve(self, text: str, stop: Stop | None = None) -> list[ModelFile]:
        lines = parse_repo_list(text, hosts=self.settings.model_hosts, allow_pickle=self.settings.allow_pickle)
        return self.source.resolve(lines, stop or Stop())

    def downloads(self, files: list[ModelFile]) -> list[Download]:
        return [Download(file, self.models_dir / file.folder / file.filename) for file in files]

    def fetch(self, text: str, stop: Stop | None = None, report: Report = lambda files: None) -> list[Downloaded]:
        return self.source.fetch(self.downloads(self.resolve(text, stop)), stop or Stop(), report)

    def files(self) -> list[str]:
        """Return every file under the models folder, unfinished ones too."""
        return sorted(str(p.relative_to(self.models_dir)) for p in self.models_dir.rglob("*") if not p.is_dir())

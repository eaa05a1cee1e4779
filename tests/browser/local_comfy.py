"""The local ComfyUI of a browser test: the simulator with the pack in its custom_nodes and a real frontend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.browser.workflows import TEXT_NODE
from tests.support.simulator_process import Engine
from worker.comfyui.server import free_port

CLIENT = Path(__file__).resolve().parents[2] / "client"
MEDIA_NODES = Path(__file__).with_name("media_nodes.py")
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "99.0.0",
    "Comfy.UseNewMenu": "Top",
    "Comfy.Release.Status": "skip",
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.VueNodes.Enabled": False,
}


class LocalComfy:
    """One folder and one port; started, ended and started again like a person's own."""

    def __init__(self, base: Path, frontend: Path | None = None) -> None:
        self.base, self.port = base, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._frontend = ["--front-end-root", str(frontend)] if frontend else []
        packs = base / "custom_nodes"
        packs.mkdir(parents=True)
        shutil.copytree(CLIENT, packs / "any-Name_of_it", ignore=shutil.ignore_patterns("__pycache__"))
        (packs / "text_node.py").write_text(TEXT_NODE)
        shutil.copy(MEDIA_NODES, packs)
        user = base / "user" / "default"
        user.mkdir(parents=True)
        (user / "comfy.settings.json").write_text(json.dumps(QUIET))
        self.engine = self._started()

    def _started(self) -> Engine:
        engine = Engine(*self._frontend, "--port", str(self.port), base=self.base, cors=False, wait=False)
        engine.port, engine.url = self.port, self.url
        engine.wait_until_ready()
        return engine

    def restart(self) -> None:
        """End it as Ctrl+C does, and start it again."""
        self.engine.stop()
        self.engine = self._started()

    def stop(self) -> None:
        """End it; idempotent."""
        self.engine.stop()

    def add_model(self, name: str) -> None:
        """A checkpoint that only needs to be named."""
        self.engine.add_model("checkpoints", name)

    def files(self, folder: str) -> list[str]:
        """Return the files of a folder, relative to it."""
        root = self.base / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

"""One simulator with a checkpoint and two packs, for tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.simulator_process import CHECKPOINT, Engine

PACK = """
from aiohttp import web
from server import PromptServer
import folder_paths, nodes

@PromptServer.instance.routes.get("/pack/hello")
async def hello(request):
    return web.json_response({"nodes": len(nodes.NODE_CLASS_MAPPINGS), "output": folder_paths.get_output_directory()})

class Shout:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "pack", "shout", ("STRING",), True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}, "hidden": {"id": "UNIQUE_ID"}}
    @classmethod
    def IS_CHANGED(cls, text):
        return float("nan")
    @classmethod
    def VALIDATE_INPUTS(cls, text):
        return "say something" if text == "" else True
    def shout(self, text, id):
        return {"ui": {"text": [text.upper() + id]}, "result": (text.upper(),)}

class Later(Shout):
    async def shout(self, text, id):
        return {"ui": {"text": [text]}}
    VALIDATE_INPUTS = None

class Spread:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST = "pack", "spread", ("STRING",), (True,)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 2})}}
    def spread(self, count):
        return ([str(i) * 2 for i in range(count)],)

NODE_CLASS_MAPPINGS = {"Shout": Shout, "Later": Later, "Spread": Spread}
NODE_DISPLAY_NAME_MAPPINGS = {"Shout": "Shout it"}
WEB_DIRECTORY = "./web"
"""


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    base = tmp_path_factory.mktemp("simulator")
    pack = base / "custom_nodes" / "a-pack"
    (pack / "web").mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)
    (pack / "web" / "pack.js").write_text("// hello")
    (base / "custom_nodes" / "broken.py").write_text("raise RuntimeError('not today')")
    with Engine(base=base) as engine:
        engine.add_model("checkpoints", CHECKPOINT)
        yield engine

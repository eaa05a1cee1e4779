"""The folders of models."""

from __future__ import annotations

from tests.support.simulator_process import Engine


def test_models_are_listed_recursively_and_only_those(engine: Engine) -> None:
    for name in ("deep/er/a.safetensors", "b.pth", "notes.txt", "c.safetensors.part"):
        engine.add_model("upscale_models", name)
    assert engine.get("/models/upscale_models").json() == ["b.pth", "deep/er/a.safetensors"]

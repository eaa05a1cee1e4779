"""Nodes run again only when their inputs, or those of their ancestors, changed."""

from __future__ import annotations

from PIL import Image

from tests.simulator.support import empty, executed_nodes, save, upload
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_only_what_changed_is_executed_again(engine: Engine) -> None:
    prompt = {"1": empty(color=5), "2": node("ImageInvert", image=["1", 0]), "3": save("2")}
    engine.run(prompt)
    run = engine.run({**prompt, "3": save("2", prefix="other")})
    assert executed_nodes(run) == ["3"]
    assert run.of("execution_cached")[0]["nodes"] == ["1", "2"]


def test_a_renumbered_prompt_is_still_cached(engine: Engine) -> None:
    engine.run({"1": empty(color=6), "2": save("1")})
    assert executed_nodes(engine.run({"10": empty(color=6), "20": save("10")})) == []


def test_a_picture_with_other_bytes_is_loaded_again(engine: Engine) -> None:
    prompt = {"1": node("LoadImage", image="changing.png"), "2": save("1")}
    upload(engine, "changing.png", Image.new("RGB", (8, 8), "red"))
    engine.run(prompt)
    assert executed_nodes(engine.run(prompt)) == []
    upload(engine, "changing.png", Image.new("RGB", (8, 8), "blue"))
    assert executed_nodes(engine.run(prompt)) == ["1", "2"]


def test_freed_memory_forgets_results(engine: Engine) -> None:
    prompt = {"1": empty(color=8), "2": save("1")}
    engine.run(prompt)
    engine.post("/free", json={"free_memory": True})
    assert executed_nodes(engine.run(prompt)) == ["1", "2"]

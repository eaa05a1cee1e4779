"""Custom-node packs: their nodes, routes and scripts."""

from __future__ import annotations

from tests.simulator.support import executed_nodes
from tests.support.prompts import node
from tests.support.simulator_process import Engine


def test_a_packs_nodes_routes_and_scripts_are_there(engine: Engine) -> None:
    assert engine.get("/pack/hello").json()["output"] == str(engine.output)
    assert engine.get("/api/pack/hello").ok
    assert "/extensions/a-pack/pack.js" in engine.get("/extensions").json()
    assert engine.get("/extensions/a-pack/pack.js").text == "// hello"
    info = engine.get("/object_info/Shout").json()["Shout"]
    assert (info["display_name"], info["python_module"]) == ("Shout it", "custom_nodes.a-pack")


def test_a_packs_node_runs_validates_and_is_never_cached(engine: Engine) -> None:
    prompt = {"1": node("Shout", text="hey")}
    outputs = [engine.run(prompt) for _ in range(2)]
    assert [run.history["outputs"]["1"] for run in outputs] == [{"text": ["HEY1"]}] * 2
    assert [executed_nodes(run) for run in outputs] == [["1"], ["1"]]
    refused = engine.run({"1": node("Shout", text="")}).response
    assert refused.json()["node_errors"]["1"]["errors"][0]["details"] == "text - say something"


def test_a_packs_list_is_one_call_for_each_element(engine: Engine) -> None:
    run = engine.run({"1": node("Spread", count=3), "2": node("Shout", text=["1", 0])})
    assert run.history["outputs"]["2"] == {"text": ["002", "112", "222"]}


def test_a_packs_asynchronous_node_runs(engine: Engine) -> None:
    assert engine.run({"1": node("Later", text="soon")}).history["outputs"]["1"] == {"text": ["soon"]}


def test_a_pack_that_fails_is_logged_and_left_out(engine: Engine) -> None:
    assert "not today" in engine.log_text()
    assert "(IMPORT FAILED)" in engine.log_text()

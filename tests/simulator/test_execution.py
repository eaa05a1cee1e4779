"""The executing thread."""

from __future__ import annotations

from tests.simulator.support import empty, save
from tests.support.simulator_process import Engine, wait_for


def test_a_prompt_that_ends_the_executing_thread_hangs_as_it_does_in_comfyui() -> None:
    prompt = {"1": empty(), "2": save("1")}
    prompt["2"]["inputs"]["undeclared"] = ["77", 0]
    with Engine() as engine, engine.client() as client:
        client.post(prompt)
        client.until(lambda frame: frame["type"] == "execution_cached")
        wait_for(lambda: "NodeNotFoundError" in engine.log_text(), 5)
        client.post({"1": empty(), "2": save("1")})
        queue = engine.get("/queue").json()
    assert (len(queue["queue_running"]), len(queue["queue_pending"])) == (1, 1)

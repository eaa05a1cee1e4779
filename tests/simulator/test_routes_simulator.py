"""The simulator's own routes: counters; test_faults.py sets faults through them."""

from __future__ import annotations

from tests.simulator.support import empty, save
from tests.support.simulator_process import Engine


def test_the_counters_count(engine: Engine) -> None:
    with engine.client() as client:
        client.run({"1": empty(), "2": save("1")})  # so that a path was requested before, and has its counter
    before = engine.counters()
    with engine.client() as client:
        client.run({"1": empty(), "2": save("1")})
        after = engine.counters()
    assert after["requests"]["/prompt"] == before["requests"]["/prompt"] + 1
    assert after["prompts_executed"] == before["prompts_executed"] + 1
    assert (after["sockets_opened"], after["sockets_open"]) == (
        before["sockets_opened"] + 1,
        before["sockets_open"] + 1,
    )

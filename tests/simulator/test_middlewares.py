"""The steps around every request: the origin check."""

from __future__ import annotations

from tests.support.simulator_process import Engine


def test_without_the_cors_flag_a_page_from_elsewhere_is_refused() -> None:
    with Engine(cors=False) as engine:
        assert engine.get("/prompt", headers={"Origin": "http://elsewhere.example"}).status_code == 403
        assert engine.get("/prompt", headers={"Origin": engine.url}).status_code == 200

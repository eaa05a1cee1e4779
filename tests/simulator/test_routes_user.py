"""The frontend's settings and files."""

from __future__ import annotations

from tests.support.simulator_process import Engine


def test_the_page_says_what_this_is_and_settings_are_kept(engine: Engine) -> None:
    assert engine.get("/").ok
    engine.post("/settings", json={"a": 1})
    engine.post("/settings/b", json=2)
    assert engine.get("/settings").json() == {"a": 1, "b": 2}
    engine.post("/userdata/workflows%2Fmine.json", data="{}")
    assert engine.get("/userdata?dir=workflows").json() == ["mine.json"]
    assert engine.get("/userdata/workflows%2Fmine.json").text == "{}"
    assert engine.post("/userdata/..%2F..%2Fout.json", data="{}").status_code == 403

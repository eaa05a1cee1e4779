"""Names of saved pictures."""

from __future__ import annotations

from tests.simulator.support import empty, save
from tests.support.simulator_process import Engine


def test_numbers_go_on_from_the_highest_there_is(engine: Engine) -> None:
    folder = engine.output / "numbers"
    folder.mkdir()
    for name in ("a_00007_.png", "a_9.png", "ab_00050_.png", "a_x_00090_.png"):
        (folder / name).touch()
    run = engine.run({"1": empty(batch_size=2, color=3), "2": save("1", prefix="numbers/a")})
    assert [image["filename"] for image in run.images] == ["a_00008_.png", "a_00009_.png"]
    assert {image["subfolder"] for image in run.images} == {"numbers"}


def test_tokens_in_a_name_are_filled_in(engine: Engine) -> None:
    image = engine.run({"1": empty(72, 40), "2": save("1", prefix="t/%width%x%height%-%year%/b%batch_num%")}).images[0]
    assert image["filename"] == "b0_00001_.png"
    assert image["subfolder"].startswith("t/72x40-20")

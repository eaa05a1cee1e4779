"""Each fault that the simulator offers really happens, and is over when it should be."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.simulator.support import sampling
from tests.support.prompts import node
from tests.support.simulator_process import CHECKPOINT, Client, Engine, is_end, wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    with Engine() as engine:
        engine.add_model("checkpoints", CHECKPOINT)
        yield engine


@pytest.fixture
def engine(running: Engine) -> Iterator[Engine]:
    yield running
    running.misbehave({})
    # A prompt that goes on without its socket would meet the next test's fault.
    wait_for(lambda: not running.get("/prompt").json()["exec_info"]["queue_remaining"], 10)


_colour = iter(range(1, 0xFFFFFF))


def small() -> dict[str, Any]:
    """A prompt that no cache knows."""
    empty = node("EmptyImage", width=16, height=16, batch_size=1, color=next(_colour))
    return {"1": empty, "2": node("SaveImage", images=["1", 0], filename_prefix="small")}


def received_until_drop(client: Client) -> tuple[list[str], BaseException]:
    types: list[str] = []
    while True:
        try:
            frame = client.receive()
        except (OSError, websocket.WebSocketException) as error:
            return types, error
        types.append("binary" if isinstance(frame, bytes) else frame["type"])


@pytest.mark.parametrize(
    ("how", "kind"),
    [("fin", websocket.WebSocketException), ("rst", ConnectionResetError), ("close_frame", ConnectionError)],
)
def test_a_socket_is_dropped_in_three_ways_and_the_prompt_goes_on(
    engine: Engine, how: str, kind: type[BaseException]
) -> None:
    engine.misbehave({"drop_socket": {"how": how, "at": "executing", "count": 1}})
    with engine.client() as client:
        prompt_id = client.post(small()).json()["prompt_id"]
        types, error = received_until_drop(client)
    assert types[-1] == "executing"
    assert isinstance(error, kind)
    assert engine.wait_history(prompt_id)["status"]["completed"]
    assert is_end(engine.run(small()).frames[-1])


@pytest.mark.parametrize(("at", "last"), [("execution_start", "execution_start"), ("before_success", "progress_state")])
def test_a_socket_is_dropped_at_the_moment_that_is_named(engine: Engine, at: str, last: str) -> None:
    engine.misbehave({"drop_socket": {"how": "fin", "at": at, "count": 1}})
    with engine.client() as client:
        client.post(small())
        assert received_until_drop(client)[0][-1] == last


def test_a_socket_is_dropped_after_so_many_frames(engine: Engine) -> None:
    engine.misbehave({"drop_socket": {"how": "fin", "after_frames": 4, "count": 1}})
    with engine.client() as client:
        client.post(small())
        types, _ = received_until_drop(client)
    assert len(types[types.index("execution_start") :]) == 4


def test_a_prompt_finishes_while_sockets_are_refused(engine: Engine) -> None:
    engine.misbehave({"drop_socket": {"how": "fin", "at": "before_success", "refuse_s": 0.4, "count": 1}})
    with engine.client() as client:
        prompt_id = client.post(small()).json()["prompt_id"]
        received_until_drop(client)
    assert engine.get("/ws").status_code == 503
    assert engine.wait_history(prompt_id)["status"]["completed"]
    wait_for(lambda: engine.get("/ws").status_code != 503, 5)
    assert is_end(engine.run(small()).frames[-1])


def test_events_are_lost_for_as_many_prompts_as_asked(engine: Engine) -> None:
    engine.misbehave({"lose_events": {"types": ["executed", "execution_success", "preview"], "count": 1}})
    first, second = engine.run(sampling(seed=1)), engine.run(sampling(seed=2))
    assert not {"executed", "execution_success", "binary"} & set(first.types)
    assert {"executed", "execution_success", "binary"} <= set(second.types)


def test_all_events_are_lost(engine: Engine) -> None:
    engine.misbehave({"lose_events": "all"})
    with engine.client() as client:
        engine.wait_history(client.post(small()).json()["prompt_id"])
        engine.misbehave({})
        frames = client.until(lambda frame: True) + client.run(small()).frames
    assert [frame["type"] for frame in frames].count("execution_start") == 1


def test_a_node_stalls_and_does_not_hear_an_interrupt(engine: Engine) -> None:
    engine.misbehave({"stall": {"s": 0.3, "class": "SaveImage", "count": 1}})
    started = time.monotonic()
    with engine.client() as client:
        client.post(small())
        client.until(lambda frame: frame["type"] == "executing" and frame["data"]["node"] == "2")
        engine.post("/interrupt")
        ended = client.until(is_end)
    assert time.monotonic() - started >= 0.3
    assert "execution_interrupted" in [frame["type"] for frame in ended]


def test_history_comes_late(engine: Engine) -> None:
    engine.misbehave({"history_delay_s": {"value": 0.3, "count": 1}})
    run = engine.run(small())
    prompt_id = run.response.json()["prompt_id"]
    assert engine.history(prompt_id) is None
    assert engine.wait_history(prompt_id)["status"]["completed"]


def test_a_path_answers_500_as_often_as_asked(engine: Engine) -> None:
    engine.misbehave({"http_500": {"/history": 2}})
    assert [engine.get(path).status_code for path in ("/history/x", "/api/history", "/history/x")] == [500, 500, 200]


def test_a_path_hangs(engine: Engine) -> None:
    engine.misbehave({"http_hang": {"/queue": 30}})
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{engine.url}/queue", timeout=0.2)
    assert engine.get("/prompt").ok


def test_memory_runs_out_once(engine: Engine) -> None:
    engine.misbehave({"oom": {"count": 1}})
    error = engine.run(sampling(seed=3)).of("execution_error")[0]
    assert (error["node_type"], error["exception_type"]) == ("KSampler", "torch.OutOfMemoryError")
    assert error["exception_message"].startswith("Allocation on device \nThis error means you ran out of memory")
    assert engine.run(sampling(seed=3)).history["status"]["completed"]


def test_a_named_node_fails_with_a_named_message(engine: Engine) -> None:
    engine.misbehave({"node_error": {"SaveImage": "the disk is on fire"}})
    error = engine.run(small()).of("execution_error")[0]
    assert (error["exception_message"], error["exception_type"]) == ("the disk is on fire\n", "RuntimeError")


def test_noise_is_broadcast(engine: Engine) -> None:
    engine.misbehave({"noisy": True})
    with engine.client() as client:
        client.until(lambda frame: frame["type"] == "crystools.monitor")


def test_it_interrupts_itself(engine: Engine) -> None:
    engine.misbehave({"interrupt_self_s": {"value": 0.1, "count": 1}})
    assert "execution_interrupted" in engine.run(sampling(seed=4, steps=1000)).types


def test_an_unknown_fault_is_refused_and_an_empty_object_heals(engine: Engine) -> None:
    assert engine.post("/simulator/misbehave", json={"nonsense": 1}).status_code == 400
    assert engine.misbehave({"stall": 1}) == {"stall": {"s": 1}}
    assert engine.misbehave({}) == {}


@pytest.mark.parametrize(
    ("at", "seen", "unseen"),
    [
        ("on_prompt", "status", "execution_start"),
        ("executing", "executing", "executed"),
        ("after", "execution_success", "nothing"),
    ],
)
def test_it_dies_at_the_moment_that_is_named(at: str, seen: str, unseen: str) -> None:
    with Engine(misbehave={"die": {"at": at}}) as engine:
        with engine.client() as client:
            assert client.post(small()).ok
            types, _ = received_until_drop(client)
        assert engine.process.wait(5) == 1
    assert seen in types
    assert unseen not in types


def test_it_dies_at_start_as_a_broken_installation_does() -> None:
    with Engine(misbehave={"die": "at_start"}, wait=False) as engine:
        assert engine.process.wait(10) == 1
        assert "ModuleNotFoundError" in engine.log_text()


def test_it_starts_late() -> None:
    with Engine(misbehave={"start_delay_s": 0.5}) as engine:
        assert time.monotonic() - engine.started_at > 0.5


def test_it_dies_only_once_when_its_counts_outlive_it(tmp_path: Path) -> None:
    state = {"SIMULATOR_MISBEHAVE_STATE": str(tmp_path / "state.json")}
    faults = {"die": {"at": "executing", "count": 1}}
    with Engine(misbehave=faults, env=state) as engine, engine.client() as client:
        client.post(small())
        assert engine.process.wait(5) == 1
    with Engine(misbehave=faults, env=state) as engine:
        assert engine.run(small()).history["status"]["completed"]


def test_it_ignores_sigterm_once() -> None:
    with Engine(misbehave={"ignore_sigterm": {"value": True, "count": 1}}) as engine:
        engine.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Ignoring SIGTERM" in engine.log_text(), 5)
        assert engine.get("/prompt").ok

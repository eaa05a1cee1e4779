"""Replays what a client once said to ComfyUI 0.3.64, and compares every answer and every frame with the recording."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.normalised import normalised, received_frame, recorded_frame, steps_folded
from tests.support.prompts import node
from tests.support.simulator_process import Client, Engine, is_end

RECORDINGS = Path(__file__).parent / "recordings"
BROKEN_PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
HEADERS = ("Content-Type", "Content-Disposition", "Access-Control-Allow-Origin")


def load(scenario: str) -> dict[str, Any]:
    return dict(json.loads((RECORDINGS / f"{scenario}.json").read_text()))


def recorded_names(recording: dict[str, Any]) -> dict[str, str]:
    first = recording["http"][0]
    names = {first["request"].get("body", {}).get("client_id", "-"): "CLIENT"}
    answer = first["response"]["body"]
    return {**names, answer["prompt_id"]: "PROMPT"} if "prompt_id" in answer else names


def response_of(answer: Any) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = f"<{len(answer.content)} bytes>"
    return {"status": answer.status_code, "headers": dict(answer.headers), "body": body}


def compare(recorded: dict[str, Any], received: dict[str, Any], ours: dict[str, str], theirs: dict[str, str]) -> None:
    assert received["status"] == recorded["status"]
    assert normalised(received["body"], ours) == normalised(recorded["body"], theirs)
    for name in HEADERS:
        expected = normalised(recorded["headers"].get(name), theirs)
        # Who has nothing to say may still say that it is nothing.
        if expected is not None or recorded["body"] != "<0 bytes>":
            assert normalised(received["headers"].get(name), ours) == expected


def forget(engine: Engine) -> None:
    """Run something else: results are kept for the next prompt only."""
    colour = uuid.uuid4().int % 0xFFFFFF
    engine.run(
        {
            "f": node("EmptyImage", width=8, height=8, batch_size=1, color=colour),
            "g": node("PreviewImage", images=["f", 0]),
        }
    )


def replay(client: Client, recording: dict[str, Any], interrupt: bool = False) -> list[Any]:
    """Post the recorded prompt, compare all HTTP answers, and answer the frames, ours and then the recorded."""
    engine, first = client.engine, recording["http"][0]
    body = {**first["request"]["body"], "client_id": client.id}
    posted = engine.post("/prompt", json=body)
    theirs = recorded_names(recording)
    ours = {client.id: "CLIENT", posted.json().get("prompt_id", "-"): "PROMPT"}
    compare(first["response"], response_of(posted), ours, theirs)
    if not posted.ok:
        return [[], []]
    frames = []
    if interrupt:
        frames = client.until(lambda frame: isinstance(frame, bytes))
        client.until(lambda frame: isinstance(frame, bytes))
        assert engine.post("/interrupt").status_code == 200
    frames += client.until(is_end)
    history = engine.get(f"/history/{posted.json()['prompt_id']}")
    for exchange in recording["http"][1:]:
        path = exchange["request"]["path"]
        if path.startswith("/history/"):
            compare(exchange["response"], response_of(history), ours, theirs)
    _compare_views(engine, recording, history.json()[posted.json()["prompt_id"]], theirs)
    ours_then_theirs = [received_frame(frame, ours) for frame in frames]
    return [ours_then_theirs, [recorded_frame(frame, theirs) for frame in recording["websocket"]]]


def _compare_views(engine: Engine, recording: dict[str, Any], history: dict[str, Any], theirs: dict[str, str]) -> None:
    views = [one["response"] for one in recording["http"] if one["request"]["path"].startswith("/view")]
    images = [image for output in history["outputs"].values() for image in output["images"]]
    for recorded, image in zip(views, images, strict=False):
        compare(recorded, response_of(engine.get("/view", params=image)), {}, theirs)


@pytest.mark.parametrize("scenario", ["success_two_images", "preview_image", "partial_validation", "execution_error"])
def test_a_prompt_that_runs_is_answered_and_followed_as_recorded(engine: Engine, scenario: str) -> None:
    engine.upload("broken.png", BROKEN_PNG, overwrite="true")
    forget(engine)
    with engine.client() as client:
        ours, theirs = replay(client, load(scenario))
    assert ours == theirs


@pytest.mark.parametrize(
    "scenario", ["unknown_node", "no_outputs", "missing_model", "missing_input", "value_out_of_range"]
)
def test_a_prompt_that_is_refused_is_told_what_was_recorded(engine: Engine, scenario: str) -> None:
    with engine.client() as client:
        client.receive()
        if scenario in {"missing_input", "missing_model"}:
            _without_other_errors(engine, scenario)
        else:
            replay(client, load(scenario))


def _without_other_errors(engine: Engine, scenario: str) -> None:
    # Where the checkpoint itself is absent, the prompt is wrong in one more place than it was.
    recording = load(scenario)
    posted = engine.post("/prompt", json=recording["http"][0]["request"]["body"])
    received, recorded = response_of(posted), recording["http"][0]["response"]
    expected = recorded["body"]["node_errors"]
    received["body"]["node_errors"] = {one: received["body"]["node_errors"][one] for one in expected}
    compare(recorded, received, {}, {})


def test_a_refused_prompt_says_nothing_on_the_websocket(engine: Engine) -> None:
    with engine.client() as client:
        client.receive()
        assert client.post({"1": node("NoSuchNode")}).status_code == 400
        frames = client.run(
            {
                "1": node("EmptyImage", width=8, height=8, batch_size=1, color=1),
                "2": node("PreviewImage", images=["1", 0]),
            }
        ).types
    assert frames[:3] == ["status", "status", "execution_start"]


def test_the_same_prompt_again_names_the_earlier_files_and_executes_nothing(engine: Engine) -> None:
    recording = load("fully_cached")
    with engine.client() as client:
        before = client.run(recording["http"][0]["request"]["body"]["prompt"])
    with engine.client() as client:
        ours, theirs = replay(client, recording)
        assert ours == theirs
    again = engine.run(recording["http"][0]["request"]["body"]["prompt"])
    assert again.images == before.images


def test_a_sampler_tells_its_steps_and_shows_previews_as_recorded(sampling_engine: Engine) -> None:
    forget(sampling_engine)
    with sampling_engine.client() as client:
        ours, theirs = replay(client, load("sampler_with_previews"))
    assert ours == theirs


def test_an_interrupted_sampler_ends_as_recorded(sampling_engine: Engine) -> None:
    forget(sampling_engine)
    recording = load("interrupted")
    sampling_engine.run(load("sampler_with_previews")["http"][0]["request"]["body"]["prompt"])
    with sampling_engine.client() as client:
        ours, theirs = replay(client, recording, interrupt=True)
    assert steps_folded(ours) == steps_folded(theirs)


def test_an_uploaded_picture_is_answered_as_recorded(engine: Engine) -> None:
    answer = engine.upload("broken.png", BROKEN_PNG, overwrite="true")
    compare(load("upload_image")["http"][0]["response"], response_of(answer), {}, {})


def test_freeing_memory_is_answered_as_recorded(engine: Engine) -> None:
    answer = engine.post("/free", json={"unload_models": True, "free_memory": True})
    compare(load("free")["http"][0]["response"], response_of(answer), {}, {})


def _exchange(path: str) -> dict[str, Any]:
    return dict(next(one["response"] for one in load("other_endpoints")["http"] if one["request"]["path"] == path))


@pytest.mark.parametrize(
    "path", ["/queue", "/prompt", "/object_info/SaveImage", "/models", "/history/unknown-id", "/view?filename=nope.png"]
)
def test_a_plain_question_is_answered_as_recorded(engine: Engine, path: str) -> None:
    compare(_exchange(path), response_of(engine.get(path)), {}, {})


def test_a_loader_describes_itself_as_recorded_but_for_the_names_of_files(engine: Engine) -> None:
    path = "/object_info/CheckpointLoaderSimple"
    ours, theirs = engine.get(path).json(), _exchange(path)["body"]
    for one in (ours, theirs):
        names, options = one["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
        assert all(isinstance(name, str) for name in names)
        one["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] = ["NAMES", options]
    assert ours == theirs


def test_system_stats_have_the_recorded_shape(engine: Engine) -> None:
    ours, theirs = engine.get("/system_stats").json(), _exchange("/system_stats")["body"]
    assert set(theirs["system"]) <= set(ours["system"])
    assert set(theirs["devices"][0]) == set(ours["devices"][0])
    assert ours["system"].get("simulator", False) is engine.is_simulator

"""ComfyUI's rules that the recordings do not show, each seen on a real 0.3.64."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.prompts import node
from tests.support.simulator_process import Engine, Run

EMPTY = node("EmptyImage", width=64, height=64, batch_size=1, color=0)


def save(source: str = "1", slot: int = 0, prefix: str = "rules") -> dict[str, Any]:
    return node("SaveImage", images=[source, slot], filename_prefix=prefix)


def refusal(engine: Engine, prompt: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = engine.post("/prompt", json={"prompt": prompt, **more})
    assert answer.status_code == 400
    return dict(answer.json())


def only_problem(body: dict[str, Any], node_id: str) -> dict[str, Any]:
    assert list(body["node_errors"]) == [node_id]
    problems = body["node_errors"][node_id]["errors"]
    assert len(problems) == 1
    return dict(problems[0])


def test_a_node_without_a_class_is_an_invalid_prompt(engine: Engine) -> None:
    error = refusal(engine, {"1": {"inputs": {}}})["error"]
    assert error["type"] == "invalid_prompt"
    assert error["message"] == "Cannot execute because a node is missing the class_type property."


def test_a_link_to_a_node_that_is_not_there_is_an_exception_during_validation(engine: Engine) -> None:
    body = refusal(engine, {"2": save("99")})
    problem = only_problem(body, "2")
    assert (problem["type"], problem["details"]) == ("exception_during_validation", "'99'")
    assert problem["extra_info"]["exception_type"] == "KeyError"
    assert body["error"]["details"] == "Exception when validating node: '99'"


def test_such_a_link_further_up_is_blamed_on_the_node_that_has_it(engine: Engine) -> None:
    problem = only_problem(refusal(engine, {"1": node("ImageInvert", image=["99", 0]), "2": save()}), "1")
    assert problem["type"] == "exception_during_inner_validation"
    assert problem["extra_info"]["linked_node"] == ["1", 0]
    assert set(problem["extra_info"]) == {
        "input_name",
        "input_config",
        "exception_message",
        "exception_type",
        "traceback",
        "linked_node",
    }


def test_a_link_to_an_output_that_is_not_there_is_an_exception_during_validation(engine: Engine) -> None:
    problem = only_problem(refusal(engine, {"1": EMPTY, "2": save(slot=5)}), "2")
    assert (problem["type"], problem["details"]) == ("exception_during_validation", "tuple index out of range")


def test_a_link_of_one_element_is_a_bad_link(engine: Engine) -> None:
    prompt = {"1": EMPTY, "2": node("SaveImage", images=["1"], filename_prefix="x")}
    problem = only_problem(refusal(engine, prompt), "2")
    assert (problem["type"], problem["extra_info"]["received_value"]) == ("bad_linked_input", ["1"])


def test_a_link_of_another_type_is_a_mismatch(engine: Engine) -> None:
    prompt = {"1": node("EmptyLatentImage", width=64, height=64, batch_size=1), "2": save()}
    problem = only_problem(refusal(engine, prompt), "2")
    assert problem["type"] == "return_type_mismatch"
    assert problem["details"] == "images, received_type(LATENT) mismatch input_type(IMAGE)"


@pytest.mark.parametrize(
    ("width", "kind"), [("abc", "invalid_input_type"), (None, "invalid_input_type"), (99999, "value_bigger_than_max")]
)
def test_a_value_that_does_not_fit_is_named(engine: Engine, width: Any, kind: str) -> None:
    prompt = {"1": {**EMPTY, "inputs": {**EMPTY["inputs"], "width": width}}, "2": save()}
    problem = only_problem(refusal(engine, prompt), "1")
    assert (problem["type"], problem["extra_info"]["received_value"]) == (kind, width)


def test_a_value_of_the_wrong_kind_that_can_be_converted_is(engine: Engine) -> None:
    prompt = {"1": node("EmptyImage", width="64", height=64.7, batch_size=True, color=0), "2": save()}
    run = engine.run(prompt)
    assert run.history["prompt"][2]["1"]["inputs"] == {"width": 64, "height": 64, "batch_size": 1, "color": 0}


def test_a_missing_picture_fails_custom_validation(engine: Engine) -> None:
    problem = only_problem(refusal(engine, {"1": node("LoadImage", image="nope.png"), "2": save()}), "1")
    assert problem["type"] == "custom_validation_failed"
    assert problem["details"] == "image - Invalid image file: nope.png"
    assert problem["extra_info"] == {"input_name": "image"}


def test_a_long_list_of_choices_is_not_repeated(engine: Engine) -> None:
    sampler = node("KSampler", seed=1, steps=0, cfg=1, sampler_name="nope", scheduler="normal", denoise=1)
    prompt = {"5": sampler, "6": node("VAEDecode", samples=["5", 0]), "2": save("6")}
    problems = refusal(engine, prompt)["node_errors"]["5"]["errors"]
    found = next(one for one in problems if one["type"] == "value_not_in_list")
    assert found["details"].startswith("sampler_name: 'nope' not in (list of length ")
    assert found["extra_info"]["input_config"] is None
    missing = {one["details"] for one in problems if one["type"] == "required_input_missing"}
    assert missing == {"model", "positive", "negative", "latent_image"}


def test_a_missing_input_of_the_output_itself_is_in_the_details(engine: Engine) -> None:
    error = refusal(engine, {"2": node("SaveImage", filename_prefix="x")})["error"]
    assert error["details"] == "Required input is missing: images"


def test_a_cycle_is_refused_without_a_reason(engine: Engine) -> None:
    prompt = {"1": node("ImageInvert", image=["3", 0]), "3": node("ImageInvert", image=["1", 0]), "2": save("3")}
    body = refusal(engine, prompt)
    assert (body["error"]["type"], body["node_errors"]) == ("prompt_outputs_failed_validation", {})


@pytest.mark.parametrize("body", [{}, []])
def test_a_post_without_a_prompt_says_so(engine: Engine, body: Any) -> None:
    answer = engine.post("/prompt", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "no_prompt")


@pytest.mark.parametrize("text", ["nonsense", '{"prompt": null}', '{"prompt": "x"}'])
def test_what_is_no_prompt_at_all_is_an_internal_error(engine: Engine, text: str) -> None:
    assert engine.post("/prompt", data=text, headers={"Content-Type": "application/json"}).status_code == 500


def test_an_input_that_the_node_does_not_declare_is_ignored(engine: Engine) -> None:
    prompt = {"1": EMPTY, "2": node("SaveImage", images=["1", 0], filename_prefix="x", bogus=5)}
    assert engine.run(prompt).history["status"]["completed"]


def test_two_equal_nodes_are_executed_once(engine: Engine) -> None:
    empty = node("EmptyImage", width=48, height=64, batch_size=1, color=3)
    batch = node("ImageBatch", image1=["1", 0], image2=["7", 0])
    run = engine.run({"1": empty, "7": empty, "3": batch, "2": save("3")})
    assert [one["node"] for one in run.of("executing")] == ["7", "3", "2", None]
    assert run.of("executed")[0] | {"prompt_id": ""} == {
        "node": "1",
        "display_node": "1",
        "output": None,
        "prompt_id": "",
    }


def test_only_the_targets_of_a_partial_execution_run(engine: Engine) -> None:
    prompt = {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=9),
        "2": save(),
        "3": node("PreviewImage", images=["1", 0]),
    }
    run = engine.run(prompt, partial_execution_targets=["3"])
    assert list(run.history["outputs"]) == ["3"]
    assert run.history["prompt"][4] == ["3"]
    assert refusal(engine, prompt, partial_execution_targets=["9"])["error"]["type"] == "prompt_no_outputs"


def test_a_prompt_keeps_the_id_number_and_data_it_came_with_but_not_the_secrets(engine: Engine) -> None:
    extra = {"extra_pnginfo": {"workflow": {"a": 1}}, "api_key_comfy_org": "secret"}
    chosen = "11111111-2222-4333-8444-555555555555"
    run = engine.run({"1": EMPTY, "2": save()}, prompt_id=chosen, number=-3.5, extra_data=extra)
    assert run.response.json() == {"prompt_id": chosen, "number": -3.5, "node_errors": {}}
    assert run.history["prompt"][:2] == [-3.5, chosen]
    kept = run.history["prompt"][3]
    assert kept["extra_pnginfo"] == {"workflow": {"a": 1}}
    assert "api_key_comfy_org" not in kept


def test_saving_outside_the_output_folder_fails_the_node(engine: Engine) -> None:
    run = engine.run({"1": EMPTY, "2": save(prefix="../../x")})
    error = run.of("execution_error")[0]
    assert error["exception_type"] == "Exception"
    assert error["exception_message"].startswith("**** ERROR: Saving image outside the output folder is not allowed.")
    assert run.history["status"]["status_str"] == "error"


def test_a_new_style_choice_is_not_checked_before_it_runs(engine: Engine) -> None:
    loader = node("UpscaleModelLoader", model_name="no.pth")
    upscale = node("ImageUpscaleWithModel", upscale_model=["4", 0], image=["1", 0])
    error = engine.run({"1": EMPTY, "4": loader, "3": upscale, "2": save("3")}).of("execution_error")[0]
    assert (error["node_id"], error["exception_type"]) == ("4", "FileNotFoundError")
    assert error["exception_message"] == "Model in folder 'upscale_models' with filename 'no.pth' not found.\n"


def test_a_client_that_asks_for_it_is_told_the_servers_features(engine: Engine) -> None:
    with engine.client() as client:
        client.receive()
        client.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        answer = client.receive()
    assert answer == {"type": "feature_flags", "data": engine.get("/features").json()}
    assert answer["data"]["supports_preview_metadata"] is True


def test_a_client_that_can_read_them_gets_previews_with_metadata(sampling_engine: Engine) -> None:
    with sampling_engine.client() as client:
        client.receive()
        client.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        client.receive()
        run = client.run(sampler(steps=2, seed=1234))
    frames = [frame for frame in run.frames if isinstance(frame, bytes)]
    assert len(frames) == 2
    length = int.from_bytes(frames[0][4:8], "big")
    about = json.loads(frames[0][8 : 8 + length])
    assert frames[0][:4] == b"\0\0\0\4"
    assert frames[0][8 + length :][:3] == b"\xff\xd8\xff"
    assert (about["node_id"], about["image_type"]) == ("3", "image/jpeg")
    assert run.types[run.types.index("binary") : run.types.index("binary") + 2] == ["binary", "progress"]


def sampler(steps: int, seed: int) -> dict[str, Any]:
    return {
        "3": node(
            "KSampler",
            seed=seed,
            steps=steps,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["4", 0],
            positive=["6", 0],
            negative=["6", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="tiny_random_sd15.safetensors"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": save("8"),
    }


def test_who_comes_back_is_told_the_node_that_runs(sampling_engine: Engine) -> None:
    with sampling_engine.client("comes-back") as client:
        prompt_id = client.post(sampler(steps=400, seed=77)).json()["prompt_id"]
        client.until(lambda frame: isinstance(frame, bytes))
    with sampling_engine.client("comes-back") as client:
        greeting = [client.receive(), client.receive()]
        sampling_engine.post("/interrupt", json={"prompt_id": "somebody else's"})
        client.until(lambda frame: isinstance(frame, bytes))
        sampling_engine.post("/interrupt", json={"prompt_id": prompt_id})
        client.until(lambda frame: not isinstance(frame, bytes) and frame["type"] == "execution_interrupted")
    assert [one["type"] for one in greeting] == ["status", "executing"]
    assert greeting[1]["data"] == {"node": "3"}


def test_a_waiting_prompt_can_be_seen_and_taken_out(sampling_engine: Engine) -> None:
    with sampling_engine.client() as client:
        running = client.post(sampler(steps=400, seed=78)).json()["prompt_id"]
        client.until(lambda frame: isinstance(frame, bytes))
        waiting = client.post({"1": EMPTY, "2": save()}).json()["prompt_id"]
        queue = sampling_engine.get("/queue").json()
        sampling_engine.post("/queue", json={"delete": [waiting]})
        after = sampling_engine.get("/queue").json()
        sampling_engine.post("/interrupt")
        client.until(lambda frame: not isinstance(frame, bytes) and frame["type"] == "execution_interrupted")
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert [item[1] for item in queue["queue_pending"]] == [waiting]
    assert (len(queue["queue_pending"][0]), after["queue_pending"]) == (5, [])


def test_history_can_be_limited_and_deleted(engine: Engine) -> None:
    runs = [engine.run({"1": EMPTY, "2": save()}) for _ in range(2)]
    ids = [run.response.json()["prompt_id"] for run in runs]
    assert list(engine.get("/history?max_items=1").json()) == ids[1:]
    engine.post("/history", json={"delete": [ids[0]]})
    assert engine.history(ids[0]) is None
    engine.post("/history", json={"clear": True})
    assert engine.get("/history").json() == {}


def test_every_route_is_also_under_api(engine: Engine) -> None:
    assert engine.get("/api/prompt").json() == engine.get("/prompt").json()
    assert engine.get("/api/features").json() == engine.get("/features").json()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("?filename=", 400),
        ("?filename=../x.png", 400),
        ("?filename=/x.png", 400),
        ("?filename=there.txt&type=bogus", 400),
        ("?filename=there.txt&type=input&subfolder=../..", 403),
        ("?filename=nope.txt&type=input", 404),
        ("?filename=there.txt&type=input", 200),
        ("?filename=there.txt [input]", 200),
    ],
)
def test_view_gives_only_what_is_inside_its_folders(engine: Engine, query: str, status: int) -> None:
    engine.upload("there.txt", b"here", overwrite="true")
    answer = engine.get("/view" + query)
    assert answer.status_code == status
    assert status != 200 or answer.content == b"here"


def test_view_converts_on_request(engine: Engine) -> None:
    image = engine.run({"1": EMPTY, "2": save()}).images[0]
    kinds = [
        engine.get("/view", params={**image, **more}).headers["Content-Type"]
        for more in ({"preview": "webp;50"}, {"preview": "jpeg"}, {"channel": "rgb"}, {"channel": "a"})
    ]
    assert kinds == ["image/webp", "image/jpeg", "image/png", "image/png"]


def test_an_upload_of_the_same_bytes_is_one_file_and_of_others_another(engine: Engine) -> None:
    def name(data: bytes, **fields: str) -> str:
        return str(engine.upload("upload.txt", data, **fields).json()["name"])

    assert [name(b"one"), name(b"one"), name(b"two"), name(b"two")] == ["upload.txt"] * 2 + ["upload (1).txt"] * 2
    assert name(b"three", overwrite="1") == "upload.txt"
    assert (engine.input / "upload.txt").read_bytes() == b"three"


def test_an_upload_can_name_a_subfolder_and_a_type_but_not_leave(engine: Engine) -> None:
    inside = engine.upload("a.txt", b"x", subfolder="sub/dir", type="temp")
    assert inside.json() == {"name": "a.txt", "subfolder": "sub/dir", "type": "temp"}
    assert engine.upload("a.txt", b"x", subfolder="../..").status_code == 400
    assert engine.upload("../a.txt", b"x").status_code == 400
    assert engine.post("/upload/image", files={"other": ("a.txt", b"x")}).status_code == 400


def test_an_unknown_model_folder_is_not_found_and_a_known_one_is_a_list(engine: Engine) -> None:
    assert engine.get("/models/nope").status_code == 404
    assert isinstance(engine.get("/models/loras").json(), list)
    assert isinstance(engine.get("/embeddings").json(), list)


def test_every_origin_may_ask_when_told_so(engine: Engine) -> None:
    answer = engine.get("/prompt", headers={"Origin": "http://elsewhere.example"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_a_run_reports_its_nodes_in_the_order_they_ran(engine: Engine) -> None:
    run: Run = engine.run(
        {
            "1": node("EmptyImage", width=40, height=64, batch_size=1, color=5),
            "2": save(),
            "3": node("PreviewImage", images=["1", 0]),
        }
    )
    assert run.of("executing")[0]["node"] == "1"
    assert set(run.history["outputs"]) == {"2", "3"}

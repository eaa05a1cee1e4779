"""A job's whole life against an endpoint that says what the test tells it to, and against the real worker."""

from __future__ import annotations

import base64
import json

import pytest

from client.runpod.client import RUN_LIMIT_BYTES
from tests.client.conftest import PROMPT
from tests.client.endpoint import KEY, Endpoint, b64, completed, picture, png
from tests.support.runpod_platform import CLIENT_KEY, RunPodPlatform, WorkerProcess
from tests.support.simulator_process import SIMULATOR, Client, safetensors, wait_for


def wait_state(local, prompt_id, *states, timeout=15):
    wait_for(lambda: local.job(prompt_id)["state"] in states, timeout)
    return local.job(prompt_id)


def types(frames):
    return [frame["type"] for frame in frames]


def of(frames, kind):
    return [frame["data"] for frame in frames if frame["type"] == kind]


# -- what is sent --


def test_what_the_ui_would_post_is_sent_without_the_repo_list_node(ready, endpoint):
    endpoint.statuses = [completed(picture())]
    title = {"_meta": {"title": "repo_list"}}
    prompt = {
        **PROMPT,
        "20": {"class_type": "AnyTextNode", "inputs": {"text": "ckpt https://civitai.com/models/1\n"}, **title},
        "21": {"class_type": "RemoteResults", "inputs": {"count": 1}},
        "22": {"class_type": "PreviewImage", "inputs": {"images": ["21", 0]}},
    }
    workflow = {"id": "w-1", "nodes": []}
    extra = {"extra_pnginfo": {"workflow": workflow}, "auth_token_comfy_org": "secret"}
    answer = ready.run(prompt, extra_data=extra, partial_execution_targets=["9"], remote={"skip_repo_list": True})
    assert set(answer.json()) == {"prompt_id", "number", "node_errors"}
    (sent,) = endpoint.paths("run")
    assert sent["input"] == {
        "action": "run",
        "repo_list": "ckpt https://civitai.com/models/1\n",
        "prompt": PROMPT,
        "extra_data": {"extra_pnginfo": {"workflow": workflow}},
        "skip_repo_list": True,
        "files": [],
        "partial_execution_targets": ["9"],
    }
    assert endpoint.seen[0][2]["Authorization"] == f"Bearer {KEY}"
    assert wait_state(ready, answer.json()["prompt_id"], "done")["workflow_id"] == "w-1"


def test_input_files_travel_with_the_job(ready, endpoint):
    (ready.comfy.base / "input" / "in.png").write_bytes(png((1, 2, 3)))
    (ready.comfy.base / "output" / "in.png").write_bytes(png((3, 2, 1)))
    prompt = {
        **PROMPT,
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "in.png [output]"}},
    }
    ready.run(prompt)
    (sent,) = endpoint.paths("run")
    files = {file["name"]: base64.b64decode(file["b64"]) for file in sent["input"]["files"]}
    assert sorted(files.values()) == sorted([png((1, 2, 3)), png((3, 2, 1))])
    assert {sent["input"]["prompt"][node]["inputs"]["image"] for node in "12"} == set(files)


def test_too_large_is_said_before_sending(ready, endpoint):
    (ready.comfy.base / "input" / "large.png").write_bytes(png() + b"\0" * RUN_LIMIT_BYTES)
    answer = ready.run({**PROMPT, "1": {"class_type": "LoadImage", "inputs": {"image": "large.png"}}})
    assert answer.status_code == 400
    assert "10 MB" in answer.json()["error"]["message"] and "large.png" in answer.json()["error"]["message"]
    assert "enter a bucket in Remote Config" in answer.json()["error"]["message"]
    assert set(answer.json()["node_errors"]) == {"1"}
    huge = {
        **PROMPT,
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x" * RUN_LIMIT_BYTES, "clip": ["4", 1]}},
    }
    assert "workflow alone is 10.0 MB" in ready.run(huge).json()["error"]["message"]
    assert endpoint.paths("run") == []


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [(401, {}, "API key"), (404, {}, "does not exist"), (413, {}, "larger"), (400, {}, "400"), (502, {}, "502"),
     (302, {"Location": "http://example.com"}, "redirect"), (200, {}, "not RunPod's JSON")],
)  # fmt: skip
def test_a_refusal_of_run_is_said_at_once(ready, endpoint, status, headers, says):
    endpoint.refuse["run"] = [(status, headers, "nonsense")]
    answer = ready.run()
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_slow_down_is_obeyed(ready, endpoint):
    endpoint.refuse["run"] = [(429, {"Retry-After": "1"}, ""), (429, {}, "")]
    assert ready.run().ok
    assert len(endpoint.paths("run")) == 3


def test_no_endpoint_and_nobody_there(local, endpoint):
    local.post("/remote/config", {"endpoint": ""})
    assert "Remote Config" in local.run().json()["error"]["message"]
    local.post("/remote/config", {"endpoint": "http://127.0.0.1:9/v2/nobody", "api_key": KEY})
    said = local.run().json()["error"]["message"]
    assert "Nothing answers at http://127.0.0.1:9. Is `make endpoint` running?" in said
    assert local.post("/remote/test", {}).json()["message"] == said


def test_the_test_button_says_what_is_so(local, endpoint):
    typed = {"endpoint": endpoint.base + "/run", "api_key": KEY}
    assert "1 starting" in local.post("/remote/test", typed).json()["message"]
    assert "refused the API key" in local.post("/remote/test", {**typed, "api_key": "other-key"}).json()["message"]
    assert "endpoint's id" in local.post("/remote/test", {**typed, "endpoint": "ftp://x"}).json()["message"]


# -- how it looks --


def test_a_silent_worker_is_estimated_and_learned_from(ready, endpoint):
    ready.configure(endpoint, ms_per_step=300)
    running = {"status": "IN_PROGRESS"}
    endpoint.statuses = [{"status": "IN_QUEUE"}, *[running] * 4, completed(picture(), timings={"run_s": 2.0})]
    frames, _ = ready.watch()
    assert types(frames)[-2:] == ["execution_success", "executing"]
    steps = [data["value"] for data in of(frames, "progress")]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] >= 1
    assert all(data["max"] == 4 and data["node"] == "3" for data in of(frames, "progress"))
    messages = [job["message"] for data in of(frames, "remote_serverless.jobs") for job in data["jobs"]]
    assert any(message == "Waiting for a worker" for message in messages)
    assert ready.get("/remote/config").json()["learned_ms_per_step"] is not None
    ready.configure(endpoint, ms_per_step=None)


def test_the_workers_own_progress_is_shown(ready, endpoint):
    def progress(**more):
        return {
            "status": "IN_PROGRESS",
            "output": {"phase": "running", "message": "KSampler 2/4", "percent": 50, **more},
        }

    nodes = {"3": {"value": 2, "max": 4, "state": "running", "prompt_id": "of-the-worker"}}
    cold = {"status": "IN_PROGRESS", "output": {"phase": "starting", "message": "ComfyUI is starting"}}
    done = {"3": {"value": 4, "max": 4, "state": "finished"}, "8": {"value": 0, "max": 1, "state": "running"}}
    endpoint.statuses = [cold, progress(nodes=nodes), progress(nodes=done), completed(picture())]
    frames, prompt_id = ready.watch()
    states = of(frames, "progress_state")
    assert states[0]["nodes"]["3"] == {
        "value": 2, "max": 4, "state": "running", "node_id": "3", "display_node_id": "3", "real_node_id": "3",
        "parent_node_id": None, "prompt_id": prompt_id,
    }  # fmt: skip
    assert states[1]["nodes"]["3"]["state"] == "finished"
    assert all(node["state"] == "finished" for node in states[-1]["nodes"].values())
    assert set(states[-1]["nodes"]) == set(PROMPT)
    messages = [job["message"] for data in of(frames, "remote_serverless.jobs") for job in data["jobs"]]
    assert "ComfyUI is starting" in messages and "KSampler 2/4" in messages


def test_pictures_reach_save_and_preview_under_the_graphs_own_name(ready, endpoint):
    endpoint.statuses = [completed(picture(color=(1, 1, 1)), picture(color=(2, 2, 2)))]
    frames, _ = ready.watch()
    shown = {data["node"]: data["output"]["images"] for data in of(frames, "executed")}
    assert shown["9"] == shown["10"]
    assert [image["subfolder"] for image in shown["9"]] == ["sub", "sub"]
    names = [image["filename"] for image in shown["9"]]
    assert all(name.startswith("mine_0") for name in names)
    for name, color in zip(names, ((1, 1, 1), (2, 2, 2)), strict=True):
        assert (ready.comfy.base / "output" / "sub" / name).read_bytes() == png(color)
        assert (ready.comfy.base / "remote_results" / name).read_bytes() == png(color)


def test_the_official_workers_answer_is_understood(ready, endpoint):
    entry = {"filename": "ComfyUI_00001_.png", "type": "base64", "data": b64(png((5, 5, 5)))}
    endpoint.statuses = [{"status": "COMPLETED", "output": {"images": [entry]}}]
    frames, _ = ready.watch()
    assert {data["node"] for data in of(frames, "executed")} == {"9", "10"}


def test_the_counter_counts_remote_jobs(ready, endpoint):
    before = ready.get("/prompt").json()["exec_info"]["queue_remaining"]
    prompt_id = ready.run().json()["prompt_id"]
    assert ready.get("/prompt").json()["exec_info"]["queue_remaining"] == before + 1
    endpoint.statuses = [completed(picture())]
    wait_state(ready, prompt_id, "done")
    assert ready.get("/prompt").json()["exec_info"]["queue_remaining"] == before


def test_one_job_is_in_front_of_two(ready, endpoint):
    endpoint.statuses = [{"status": "IN_QUEUE"}]
    with Client(ready.comfy.engine) as page:
        ids = [ready.run(client_id=page.id).json()["prompt_id"] for _ in range(2)]
        endpoint.statuses = [{"status": "IN_PROGRESS"}] * 6 + [completed(picture())]

        def second_is_over(frame):
            return frame["type"] == "execution_success" and frame["data"]["prompt_id"] == ids[1]

        frames = page.until(second_is_over)
    told = [data["prompt_id"] for kind in ("progress_state",) for data in of(frames, kind)]
    changes = [one for one, other in zip(told, [None, *told], strict=False) if one != other]
    assert len(changes) <= 4  # each is told of in one piece, not alternately


def test_a_job_whose_endpoint_is_gone_does_not_stand_before_one_that_runs(ready, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    with Client(ready.comfy.engine) as page, Endpoint() as gone:
        ready.configure(gone)
        gone.statuses = endpoint.statuses
        lost = ready.run(client_id=page.id).json()["prompt_id"]
        wait_state(ready, lost, "running")
        ready.configure(endpoint)
        runs = ready.run(client_id=page.id).json()["prompt_id"]
        wait_state(ready, runs, "running")
        gone.__exit__()

        def is_of_the_second(frame):
            return frame["type"] == "progress_state" and frame["data"]["prompt_id"] == runs

        page.until(is_of_the_second)
        endpoint.statuses = [completed(picture())]
        wait_state(ready, runs, "done")
        ready.post("/remote/cancel", {"prompt_ids": [lost]})


# -- ends --


@pytest.mark.parametrize(
    ("status", "says", "code"),
    [
        ({"status": "FAILED", "error": "OUT_OF_MEMORY: node 3 (KSampler) needs more"}, "needs more", "OUT_OF_MEMORY"),
        ({"status": "FAILED", "error": '{"error_message": "boom", "error_traceback": "a\\nb"}'}, "boom", ""),
        ({"status": "FAILED"}, "gave no reason", ""),
        ({"status": "TIMED_OUT"}, "time limit", "TIMEOUT"),
        ({"status": "COMPLETED"}, "no images", "NO_OUTPUT"),
        ({"status": "COMPLETED", "output": {"images": []}}, "no images", "NO_OUTPUT"),
        ({"status": "COMPLETED", "output": {"error": "INPUT_MISSING: x"}}, "INPUT_MISSING", "INPUT_MISSING"),
        (
            {"status": "COMPLETED", "output": {"images": [{"b64": "AAAA"}]}},
            "none of its results could be saved",
            "NO_OUTPUT",
        ),
    ],
)
def test_every_bad_end_is_told_in_words(ready, endpoint, status, says, code):
    endpoint.statuses = [status]
    frames, prompt_id = ready.watch()
    (error,) = of(frames, "execution_error")
    assert says in error["exception_message"]
    job = ready.job(prompt_id)
    assert (job["state"], job["error_code"]) == ("failed", code)
    assert {"node_id", "node_type", "traceback", "executed", "current_inputs", "current_outputs"} <= set(error)


@pytest.mark.parametrize(
    "status",
    [
        {"error": "MODEL_MISSING: x", "output": {"details": {"node_id": "4", "class_type": "CheckpointLoaderSimple"}}},
        {"error": "MODEL_MISSING: node 4 (CheckpointLoaderSimple) names 'x', which this worker does not have."},
        {"error": "NODE_MISSING: node 4 is a CheckpointLoaderSimple, which this ComfyUI does not have."},
    ],
)  # fmt: skip
def test_the_node_to_blame_is_named(ready, endpoint, status):
    endpoint.statuses = [{"status": "FAILED", **status}]
    frames, _ = ready.watch()
    (error,) = of(frames, "execution_error")
    assert (error["node_id"], error["node_type"]) == ("4", "CheckpointLoaderSimple")
    assert of(frames, "progress_state")[-1]["nodes"]["4"]["state"] == "error"


def test_cancel(ready, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    prompt_id = ready.run().json()["prompt_id"]
    wait_state(ready, prompt_id, "running")
    assert ready.post("/remote/cancel", {"prompt_ids": [prompt_id]}).json() == {"cancelled": [prompt_id]}
    wait_state(ready, prompt_id, "cancelled")
    assert len(endpoint.paths("cancel")) == 1
    assert ready.post("/remote/cancel", {"prompt_ids": [prompt_id]}).json() == {"cancelled": []}
    assert ready.post("/remote/cancel", {}).status_code == 400


def test_trouble_on_the_way_does_not_end_a_job(ready, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}, completed(picture())]
    endpoint.refuse["status"] = [(502, {}, ""), (200, {}, "<html>")]
    prompt_id = ready.run().json()["prompt_id"]
    assert wait_state(ready, prompt_id, "done", timeout=20)["error"] == ""


def test_a_restart_loses_nothing_and_saves_once(ready, endpoint):
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    prompt_id = ready.run().json()["prompt_id"]
    wait_state(ready, prompt_id, "running")
    before = len(ready.comfy.files("output"))
    ready.comfy.restart()
    assert ready.job(prompt_id)["state"] == "running"
    endpoint.statuses = [completed(picture(color=(7, 7, 7)))]
    wait_state(ready, prompt_id, "done")
    ready.comfy.restart()
    assert len(ready.comfy.files("output")) == before + 1
    assert len(endpoint.paths("run")) == 1


def test_a_page_that_comes_back_gets_its_jobs_and_pictures(ready, endpoint):
    extra = {"extra_pnginfo": {"workflow": {"id": "w-back"}}}
    endpoint.statuses = [{"status": "IN_PROGRESS"}]
    running = ready.run(client_id="gone", extra_data=extra).json()["prompt_id"]
    wait_state(ready, running, "running")
    with Client(ready.comfy.engine, "new") as page:
        ready.post("/remote/attach", {"client_id": "new", "workflow_id": "w-back"})
        frames = page.until(lambda frame: frame["type"] == "execution_start")
        assert frames[-1]["data"]["prompt_id"] == running
    wait_for(lambda: ready.job(running)["client_id"] == "new", 5)
    endpoint.statuses = [completed(picture())]
    wait_state(ready, running, "done")
    with Client(ready.comfy.engine, "third") as page:
        ready.post("/remote/attach", {"client_id": "third", "workflow_id": "another"})
        ready.post("/remote/attach", {"client_id": "third", "workflow_id": "w-back"})
        frames = page.until(lambda frame: frame["type"] == "executed" and frame["data"]["node"] == "9")
        assert frames[-1]["data"]["prompt_id"] == running


def test_with_the_real_worker(local, tmp_path):
    checkpoints = tmp_path / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "tiny.safetensors").write_bytes(safetensors())
    env = {"COMFYUI_PATH": str(SIMULATOR), "COMFYUI_ARGS": f"--base-directory '{tmp_path}'"}
    env |= {"MODELS_DIR": str(tmp_path / "models"), "SIMULATOR_STEP_MS": "5"}
    (local.comfy.base / "input" / "mine.png").write_bytes(png((9, 8, 7)))
    scaled = {"upscale_method": "nearest-exact", "width": 16, "height": 16, "crop": "disabled"}
    prompt = {
        **PROMPT,
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **scaled}},
        "11": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "scaled"}},
    }
    with RunPodPlatform() as platform, WorkerProcess(platform, tmp_path / "worker.log", **env):
        local.post("/remote/config", {"endpoint": platform.base, "api_key": CLIENT_KEY})
        frames, prompt_id = local.watch(prompt)
        shown = {data["node"]: data["output"]["images"] for data in of(frames, "executed")}
        assert set(shown) == {"9", "10", "11"}
        assert local.job(prompt_id)["state"] == "done"
        missing = {**PROMPT, "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "no.safetensors"}}}
        frames, _ = local.watch(missing)
        (error,) = of(frames, "execution_error")
        assert error["node_id"] == "4"
        unknown = {**PROMPT, "6": {"class_type": "NoSuchNode", "inputs": {}}}
        frames, _ = local.watch(unknown)
        (error,) = of(frames, "execution_error")
        assert (error["node_id"], error["node_type"]) == ("6", "NoSuchNode")


def test_what_remote_config_asks_for_is_sent_and_comes_to_lie_beside_the_picture(ready, endpoint):
    ready.configure(endpoint, sidecars=True, result_format="webp")
    about = {"metadata": {"seed": 7}, "parameters": "a cat\nSteps: 4"}
    endpoint.statuses = [completed(picture(color=(3, 1, 3), **about))]
    frames, _ = ready.watch()
    (sent,) = endpoint.paths("run")
    assert sent["input"]["metadata"] is True and sent["input"]["result"] == {"format": "webp"}
    (image,) = next(data for data in of(frames, "executed") if data["node"] == "9")["output"]["images"]
    path = ready.comfy.base / "output" / "sub" / image["filename"]
    assert path.with_suffix(".txt").read_text() == "a cat\nSteps: 4"
    assert json.loads(path.with_suffix(".json").read_text()) == {"seed": 7}
    assert ready.post("/remote/config", {"result_format": "bmp"}).status_code == 400
    ready.configure(endpoint, sidecars=False, result_format="original")


def test_a_job_that_only_shows_a_text_is_done(ready, endpoint):
    text = {"type": "text", "node_id": "7", "filename": "node_7_00001_.txt", "b64": b64(b"a poem"), "text": "a poem"}
    endpoint.statuses = [{"status": "COMPLETED", "output": {"images": [], "files": [text]}}]
    frames, prompt_id = ready.watch()
    assert [data["output"] for data in of(frames, "executed")] == [{"text": ["a poem"]}]
    assert ready.job(prompt_id)["state"] == "done"

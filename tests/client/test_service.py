"""A job's whole life against an endpoint that says what the test tells it to, and against the real worker."""

from __future__ import annotations

import base64
import json

from tests.client.conftest import PROMPT
from tests.client.endpoint import KEY, Endpoint, completed, picture, png
from tests.client.support import of, wait_state
from tests.support.runpod_platform import CLIENT_KEY, RunPodPlatform, WorkerProcess
from tests.support.simulator_process import SIMULATOR, Client, safetensors, wait_for


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

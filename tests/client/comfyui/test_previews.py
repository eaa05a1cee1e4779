"""A saved picture is shown small before the job's end, and makes way for the real one."""

from __future__ import annotations

import pytest

from client.comfyui.previews import MAX_JPEG_CHARS
from tests.client.endpoint import b64, completed, picture
from tests.client.support import jpeg, of, wait_state
from tests.support.simulator_process import Client, wait_for

QUEUED = {"status": "IN_QUEUE"}


def update(*thumbnails, **more):
    nodes = {"3": {"value": 2, "max": 4, "state": "running"}}
    output = {"phase": "running", "message": "KSampler 2/4", "nodes": nodes, "thumbnails": list(thumbnails), **more}
    return {"status": "IN_PROGRESS", "output": output}


def thumbnail(node="9", index=0, data=None, **more):
    return {"node": node, "index": index, "jpeg_b64": b64(jpeg() if data is None else data), **more}


def temp_files(local):
    return [name for name in local.comfy.files("scratch/temp") if "remote_" in name]


@pytest.fixture
def page(ready):
    for name in temp_files(ready):
        (ready.comfy.base / "scratch/temp" / name).unlink()
    with Client(ready.comfy.engine) as page:
        yield page


def is_executed(frame):
    return frame["type"] == "executed"


def test_it_is_shown_at_once_from_the_temp_folder_and_gone_with_the_job(ready, endpoint, page):
    endpoint.push(QUEUED, update(thumbnail()), update(thumbnail()))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    event = page.until(is_executed)[-1]["data"]
    (shown,) = event["output"]["images"]
    assert (event["node"], event["display_node"], event["prompt_id"]) == ("9", "9", prompt_id)
    assert (shown["type"], shown["subfolder"]) == ("temp", "")
    assert ready.comfy.engine.get("/view", params=shown).content == jpeg()
    endpoint.push(completed(picture()))
    frames = page.until(lambda frame: frame["type"] == "execution_success")
    final = [data for data in of(frames, "executed") if data["node"] == "9"]
    assert [data["output"]["images"][0]["type"] for data in final] == ["output"], "told twice, it was shown once"
    wait_for(lambda: temp_files(ready) == [], 10)


def test_each_of_a_batch_and_each_node_has_its_own(ready, endpoint, page):
    both = [thumbnail(index=0), thumbnail(index=1, data=jpeg("blue"))]
    endpoint.push(QUEUED, update(*both), update(thumbnail("10", data=jpeg("green"))))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    first = page.until(is_executed)[-1]["data"]
    second = page.until(is_executed)[-1]["data"]
    assert [len(event["output"]["images"]) for event in (first, second)] == [2, 1]
    seen = [ready.comfy.engine.get("/view", params=image).content for image in first["output"]["images"]]
    assert (seen, second["node"]) == ([jpeg(), jpeg("blue")], "10")
    endpoint.push(completed(picture()))
    wait_state(ready, prompt_id, "done")


def test_a_page_that_comes_back_gets_it_again(ready, endpoint):
    endpoint.push(QUEUED, update(thumbnail()))
    prompt_id = ready.run(client_id="gone").json()["prompt_id"]
    wait_for(lambda: bool(temp_files(ready)), 10)
    with Client(ready.comfy.engine, "back") as page:
        ready.post("/remote/attach", {"client_id": "back", "workflow_id": "w"})
        (event,) = of(page.until(is_executed), "executed")
    assert (event["node"], event["prompt_id"]) == ("9", prompt_id)
    endpoint.push(completed(picture()))
    wait_state(ready, prompt_id, "done")


@pytest.mark.parametrize("end", [{"status": "FAILED", "error": "NODE_FAILED: node 3"}, {"status": "CANCELLED"}])
def test_where_no_real_picture_comes_it_goes_on_being_shown(ready, endpoint, page, end):
    endpoint.push(QUEUED, update(thumbnail()))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    (shown,) = page.until(is_executed)[-1]["data"]["output"]["images"]
    endpoint.push(end)
    wait_state(ready, prompt_id, "failed", "cancelled")
    assert ready.comfy.engine.get("/view", params=shown).content == jpeg()


@pytest.mark.parametrize(
    "bad",
    [
        thumbnail(data=b"\xff\xd8 no JPEG"),
        thumbnail(data=b"GIF89a" + bytes(100)),
        thumbnail(data=jpeg()[:200]),
        thumbnail(data=jpeg(size=(3000, 3000))),
        {"node": "9", "index": 0, "jpeg_b64": "A" * (MAX_JPEG_CHARS + 4)},
        {"node": "9", "index": 0, "jpeg_b64": "no base64!"},
        thumbnail(node="../../9"),
        thumbnail(index=-1),
        thumbnail(index="0"),
        thumbnail(index=10**9),
        {"node": "9"},
        "text",
        None,
    ],
    ids=lambda bad: str(bad)[:60],
)
def test_what_is_no_small_jpeg_of_a_node_of_ours_is_passed_over(ready, endpoint, page, bad):
    endpoint.push(QUEUED, update(bad), update(thumbnail("10")))
    prompt_id = ready.run(client_id=page.id).json()["prompt_id"]
    events = of(page.until(is_executed), "executed")
    assert [event["node"] for event in events] == ["10"]
    assert len(temp_files(ready)) == 1
    endpoint.push(completed(picture()))
    assert wait_state(ready, prompt_id, "done")["error"] == ""


def test_no_list_is_no_harm(ready, endpoint):
    endpoint.push(QUEUED, update(thumbnails="x"), update(thumbnails={"a": 1}), completed(picture()))
    assert wait_state(ready, ready.run().json()["prompt_id"], "done")["error"] == ""

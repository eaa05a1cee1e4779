"""The pack's hold on the ComfyUI around it, one call each; whole runs are in test_service.py and tests/browser."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

from client.comfyui.server import LocalComfyUI
from client.jobs import DONE, FAILED, RemoteJob, Request
from tests.client.support import FolderPaths, jpeg


class Server:
    """As much of ComfyUI's PromptServer as the host uses."""

    def __init__(self, **features):
        self.sent, self.sockets, self.number = [], {"tab": object()}, 7
        self.sockets_metadata = {"tab": {"feature_flags": features}}
        self.prompt_queue = SimpleNamespace(mutex=threading.Lock(), history={}, get_current_queue=lambda: self.queue)
        self.queue = ([(0, "id", {}, {"client_id": "tab"})], [])

    def send_sync(self, *message):
        self.sent.append(message)

    def get_queue_info(self):
        return {"exec_info": {"queue_remaining": 2}}


def local_comfyui(server, tmp_path, classes=dict):
    return LocalComfyUI(server, FolderPaths(tmp_path), classes)


def test_an_older_comfyui_keeps_secrets_beside_its_users(tmp_path):
    assert local_comfyui(Server(), tmp_path).private_folder == tmp_path / "__remote_serverless"


def test_a_preview_goes_in_the_way_that_the_tab_understands(tmp_path):
    old, new = Server(), Server(supports_preview_metadata=True)
    local_comfyui(old, tmp_path).send_preview(b"jpeg", "3", "id", "tab")
    assert old.sent == [(1, b"\x00\x00\x00\x01jpeg", "tab")]
    local_comfyui(new, tmp_path).send_preview(jpeg(size=(4, 4)), "3", "id", "tab")
    ((kind, (picture, about), _),) = new.sent
    assert (kind, picture[1].size, about["node_id"], about["prompt_id"]) == (4, (4, 4), "3", "id")


@pytest.mark.parametrize("picture", [b"no picture", jpeg(size=(2100, 2000))], ids=["broken", "too large"])
def test_a_preview_that_is_none_is_left_out(tmp_path, picture):
    server = Server(supports_preview_metadata=True)
    local_comfyui(server, tmp_path).send_preview(picture, "3", "id", "tab")
    assert server.sent == []


def test_numbers_and_counts_are_shared_with_the_local_queue(tmp_path):
    server = Server()
    held = local_comfyui(server, tmp_path)
    assert (held.next_number(), server.number) == (7, 8)
    held.include_in_queue_count(lambda: 3)
    assert server.get_queue_info()["exec_info"]["queue_remaining"] == 5
    assert held.runs_locally("tab")
    assert not held.runs_locally("other")
    assert held.is_connected("tab")


@pytest.mark.parametrize("state", [DONE, FAILED])
def test_a_finished_job_stands_in_comfyuis_history(tmp_path, state):
    server = Server()
    job = RemoteJob(
        "id", 1, "tab", "https://api.example/v2/x", Request({"9": {}}, {"a": 1}), state=state, error="broke"
    )
    job.outputs = {"9": {"images": []}}
    local_comfyui(server, tmp_path).add_to_history(job)
    entry = server.prompt_queue.history["id"]
    assert entry["status"]["completed"] == (state == DONE)
    assert (entry["outputs"], list(entry["meta"])) == (job.outputs, ["9"])
    assert ("broke" in json.dumps(entry)) == (state == FAILED)


@pytest.mark.parametrize("queue", [{}, {"history": {}}, {"mutex": threading.Lock()}])
def test_a_history_that_is_kept_otherwise_is_left_alone(tmp_path, queue):
    server = Server()
    server.prompt_queue = SimpleNamespace(**queue)
    local_comfyui(server, tmp_path).add_to_history(RemoteJob("id", 1, "tab", "", Request({}, {})))
    assert vars(server.prompt_queue) == queue
    assert queue.get("history", {}) == {}


def test_a_node_that_only_the_worker_has_or_that_is_broken_has_no_inputs(tmp_path):
    classes = {"Odd": SimpleNamespace(INPUT_TYPES=lambda: 5)}
    assert local_comfyui(Server(), tmp_path, lambda: classes).input_types("Odd") == {}
    assert local_comfyui(Server(), tmp_path, lambda: classes).input_types("Gone") == {}

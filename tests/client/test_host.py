"""The pack's hold on the ComfyUI around it, one call each; whole runs are in test_jobs.py and tests/browser."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from PIL import Image

from client import install as setup
from client.comfyui.access import HttpError, guarded
from client.comfyui.server import LocalComfyUI
from client.jobs import DONE, FAILED, RemoteJob, Request


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


class Paths:
    """As much of folder_paths."""

    get_save_image_path = None

    def __init__(self, root):
        self._root = root

    def get_user_directory(self):
        return str(self._root)


def local_comfyui(server, tmp_path, classes=dict):
    return LocalComfyUI(server, Paths(tmp_path), classes)


def jpeg(size=(4, 4)):
    held = io.BytesIO()
    Image.new("RGB", size).save(held, "JPEG")
    return held.getvalue()


def test_an_older_comfyui_keeps_secrets_beside_its_users(tmp_path):
    assert local_comfyui(Server(), tmp_path).private_folder == tmp_path / "__remote_serverless"


def test_a_preview_goes_in_the_way_that_the_tab_understands(tmp_path):
    old, new = Server(), Server(supports_preview_metadata=True)
    local_comfyui(old, tmp_path).send_preview(b"jpeg", "3", "id", "tab")
    assert old.sent == [(1, b"\x00\x00\x00\x01jpeg", "tab")]
    local_comfyui(new, tmp_path).send_preview(jpeg(), "3", "id", "tab")
    ((kind, (picture, about), _),) = new.sent
    assert (kind, picture[1].size, about["node_id"], about["prompt_id"]) == (4, (4, 4), "3", "id")


@pytest.mark.parametrize("picture", [b"no picture", jpeg((2100, 2000))], ids=["broken", "too large"])
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


def test_a_history_that_is_kept_otherwise_is_left_alone(tmp_path):
    server = Server()
    server.prompt_queue = SimpleNamespace()
    local_comfyui(server, tmp_path).add_to_history(RemoteJob("id", 1, "tab", "", Request({}, {})))


def test_a_node_that_only_the_worker_has_or_that_is_broken_has_no_inputs(tmp_path):
    classes = {"Odd": SimpleNamespace(INPUT_TYPES=lambda: 5)}
    assert local_comfyui(Server(), tmp_path, lambda: classes).input_types("Odd") == {}
    assert local_comfyui(Server(), tmp_path, lambda: classes).input_types("Gone") == {}


# -- guards --


def answered(handler, *, remote="127.0.0.1", own_machine_only=False, **headers):
    headers = {"Host": "127.0.0.1", "X-Remote-Serverless": "1", **headers}

    async def ask():
        request = make_mocked_request("GET", "/remote/x?a=1", headers=headers).clone(remote=remote)
        return await guarded(handler, own_machine_only=own_machine_only)(request)

    return asyncio.run(ask())


async def echo(fields):
    return fields


def test_a_fault_of_the_pack_is_an_answer_and_a_line_in_the_log(caplog):
    async def broken(fields):
        raise KeyError("secret")

    async def busy(fields):
        raise HttpError(409, {"error": "busy"})

    response = answered(broken)
    assert (response.status, "secret" in response.text, "failed" in caplog.text) == (500, False, True)
    assert answered(busy).status == 409
    assert json.loads(answered(echo).text) == {"a": "1"}


@pytest.mark.parametrize(
    ("remote", "status"), [("127.0.0.1", 200), ("::ffff:127.0.0.1", 200), ("8.8.8.8", 403), ("?", 403)]
)
def test_settings_are_for_the_own_machine(monkeypatch, remote, status):
    assert answered(echo, remote=remote, own_machine_only=True).status == status
    monkeypatch.setenv("REMOTE_SERVERLESS_ALLOW_REMOTE_CONFIG", "1")
    assert answered(echo, remote=remote, own_machine_only=True).status == 200


# -- setup --


def test_where_there_is_no_comfyui_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(setup, "PromptServer", None)
    assert setup.install_pack() is None


def test_a_second_copy_says_so_and_does_nothing(monkeypatch, caplog):
    routes = web.RouteTableDef()
    routes.post("/remote/run")(echo)
    monkeypatch.setattr(setup, "PromptServer", SimpleNamespace(instance=SimpleNamespace(routes=routes)))
    setup.install_pack()
    assert "installed twice" in caplog.text


def test_a_disk_that_refuses_is_said(monkeypatch, tmp_path, caplog):
    (tmp_path / "__remote_serverless").write_text("a file where a folder belongs")
    server = SimpleNamespace(routes=web.RouteTableDef())
    monkeypatch.setattr(setup, "PromptServer", SimpleNamespace(instance=server))
    monkeypatch.setattr(setup, "folder_paths", Paths(tmp_path))
    setup.install_pack()
    assert "cannot write its settings and jobs" in caplog.text

"""The pack's installation into ComfyUI, and where it does nothing."""

from __future__ import annotations

from types import SimpleNamespace

from aiohttp import web

from client import install as setup
from tests.client.support import FolderPaths


def test_where_there_is_no_comfyui_nothing_is_installed(monkeypatch):
    started = []
    monkeypatch.setattr(setup, "PromptServer", None)
    monkeypatch.setattr(setup, "LocalComfyUI", lambda *found: started.append(found))
    setup.install_pack()
    assert started == []


def test_a_second_copy_says_so_and_does_nothing(monkeypatch, caplog):
    routes = web.RouteTableDef()
    routes.post("/remote/run")(lambda request: None)
    monkeypatch.setattr(setup, "PromptServer", SimpleNamespace(instance=SimpleNamespace(routes=routes)))
    setup.install_pack()
    assert "installed twice" in caplog.text


def test_a_disk_that_refuses_is_said(monkeypatch, tmp_path, caplog):
    (tmp_path / "__remote_serverless").write_text("a file where a folder belongs")
    server = SimpleNamespace(routes=web.RouteTableDef())
    monkeypatch.setattr(setup, "PromptServer", SimpleNamespace(instance=server))
    monkeypatch.setattr(setup, "folder_paths", FolderPaths(tmp_path))
    setup.install_pack()
    assert "cannot write its settings and jobs" in caplog.text

"""The Remote Sink: the README's curl, names, contents, sizes, the file on its own, and its node."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import threading
import zlib

import pytest
import requests
from PIL import Image

from client import remote_sink
from client.remote_sink import (
    RejectedError,
    RemoteResults,
    check_picture,
    newest,
    plain_name,
    save_pictures,
    write_once,
)
from tests.browser.local_comfy import CLIENT
from tests.client.endpoint import b64, png
from tests.support.simulator_process import Engine


def test_the_curl_of_the_readme(local):
    command = f'curl -s -X POST {local.url}/remote/save -H "Content-Type: application/json" -d "{{\\"images\\": []}}"'
    assert subprocess.check_output(command, shell=True, text=True) == '{"saved":[]}'


def test_pictures_are_saved_under_their_names(local):
    body = {
        "images": [{"b64": b64(png()), "filename": "one.png"}, {"b64": "data:image/png;base64," + b64(png((0, 9, 0)))}]
    }
    answer = requests.post(local.url + "/api/remote/save", json=body, timeout=10)
    first, second = answer.json()["saved"]
    folder = local.comfy.base / "remote_results"
    assert first == "one.png"
    assert (folder / first).read_bytes() == png()
    assert second.startswith("remote_") and second.endswith(".png")


@pytest.mark.parametrize(
    "name",
    ["../../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "C:\\evil.png", "a/../../evil.png", "evil.png\x00.html",
     ".evil.png", "evil.svg", "evil.html", "....//evil.png"],
)  # fmt: skip
def test_a_name_never_leaves_the_folder(name, tmp_path):
    folder = tmp_path / "in" / "here"
    (saved,) = save_pictures([{"b64": b64(png()), "filename": name}], folder)
    assert (folder / saved).read_bytes() == png()
    assert saved.endswith(".png") and not saved.startswith(".")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [saved]


@pytest.mark.parametrize("name", ["CON.png", "", None, 7, "\n", "   ", "💥" * 200, "a" * 5000])
def test_odd_names_become_good_ones(name):
    assert 4 < len(plain_name(name, ".png").encode()) <= 128


def test_names_never_collide_even_at_once(tmp_path):
    saved: list[str] = []

    def save() -> None:
        saved.extend(save_pictures([{"b64": b64(png()), "filename": "same.png"}] * 5, tmp_path))

    threads = [threading.Thread(target=save) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(saved)) == len(list(tmp_path.iterdir())) == 40


def test_a_disk_without_links_is_no_problem(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(remote_sink.os, "link", refuse)
    assert write_once(tmp_path / "a.png", b"one") is True
    assert write_once(tmp_path / "a.png", b"two") is False
    assert (tmp_path / "a.png").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "data",
    [b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", b"<!doctype html><script>1</script>",
     b"", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", b"II*\x00", b"GIF89a", b"\xff\xd8\xff"],
)  # fmt: skip
def test_only_pictures_are_taken(local, data):
    body = {"images": [{"b64": b64(data) or "AA==", "filename": "x.png"}]}
    answer = requests.post(local.url + "/remote/save", json=body, timeout=10)
    assert answer.status_code == 415
    assert answer.json()["error"]


def test_every_allowed_format(tmp_path):
    for kind, extension in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 7)).save(buffer, kind)
        assert check_picture(buffer.getvalue()) == (extension, 9, 7)


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RejectedError, match="pixels"):
        check_picture(bomb())


def test_one_bad_picture_saves_none(local):
    before = local.comfy.files("remote_results")
    body = {"images": [{"b64": b64(png())}, {"b64": b64(bomb())}]}
    assert requests.post(local.url + "/remote/save", json=body, timeout=10).status_code == 413
    assert local.comfy.files("remote_results") == before


def test_a_body_of_200_mb_is_refused(local):
    chunk = b"A" * 2**20

    def body():
        yield b'{"images": [{"b64": "'
        for _ in range(200):
            yield chunk

    try:
        answer = requests.post(
            local.url + "/remote/save", data=body(), headers={"Content-Type": "application/json"}, timeout=30
        )
        assert answer.status_code == 413
    except requests.ConnectionError:
        pass  # it hung up on us, which is a refusal too
    assert requests.post(local.url + "/remote/save", json={"images": []}, timeout=10).json() == {"saved": []}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"images": 7}',
        b'{"images": [7]}',
        b'{"images": [{"b64": 7}]}',
        b'{"images": [{"b64": "?"}]}',
        b"[" * 100_000,
    ],
)
def test_nonsense_is_refused_in_words(local, body):
    answer = requests.post(
        local.url + "/remote/save", data=body, headers={"Content-Type": "application/json"}, timeout=10
    )
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_the_file_alone_is_a_sink(tmp_path):
    (tmp_path / "custom_nodes").mkdir()
    shutil.copy(CLIENT / "remote_sink.py", tmp_path / "custom_nodes" / "remote_sink.py")
    with Engine(base=tmp_path, cors=False) as engine:
        assert engine.post("/remote/save", json={"images": [{"b64": b64(png())}]}).json()["saved"]
        assert "RemoteResults" in engine.get("/object_info/RemoteResults").json()
        assert engine.get("/remote/jobs").status_code == 404


def test_the_file_beside_the_pack_opens_the_route_once(tmp_path):
    packs = tmp_path / "custom_nodes"
    shutil.copytree(CLIENT, packs / "pack", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CLIENT / "remote_sink.py", packs / "remote_sink.py")
    with Engine(base=tmp_path, cors=False) as engine:
        assert engine.post("/remote/save", json={"images": []}).json() == {"saved": []}
        assert "open already" in engine.log_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_sink, "results_folder", lambda: tmp_path / "remote_results")
    return tmp_path / "remote_results"


def put(folder, name, size, when):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, "red").save(folder / name)
    os.utime(folder / name, (when, when))


def test_the_newest_pictures_come_first_and_nothing_else(folder):
    for number, name in enumerate(("a.png", "b.jpeg", "c.webp", ".part-x.png")):
        put(folder, name, (2, 2), 100 + number)
    (folder / "note.txt").write_text("x")
    assert [path.name for path in newest(2)] == ["c.webp", "b.jpeg"]
    assert len(newest(9)) == 3


def test_it_runs_again_only_when_there_is_a_newer_picture(folder):
    put(folder, "a.png", (2, 2), 100)
    before = RemoteResults.IS_CHANGED(1)
    assert RemoteResults.IS_CHANGED(1) == before
    put(folder, "b.png", (2, 2), 101)
    assert RemoteResults.IS_CHANGED(1) != before


def test_later_pictures_are_fitted_to_the_first_ones_size(folder, monkeypatch):
    batches = []
    monkeypatch.setattr(remote_sink, "_batch", batches.append)  # the tensor itself needs torch, as ComfyUI has it
    put(folder, "old.png", (8, 2), 100)
    put(folder, "new.png", (4, 4), 101)
    assert RemoteResults().load(5)[1] == 2
    assert [picture.size for picture in batches[0]] == [(4, 4), (4, 4)]


def test_no_results_yet_is_said(folder):
    with pytest.raises(FileNotFoundError, match="Run a workflow with Remote: ON first"):
        RemoteResults().load(1)
    assert RemoteResults.INPUT_TYPES()["required"]["count"][0] == "INT"

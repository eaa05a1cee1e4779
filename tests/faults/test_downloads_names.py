"""The name that a file gets: as published, inside its folder, and never in place of other bytes."""

from __future__ import annotations

import os
import threading

import pytest

from tests.faults.downloading import BIG, SMALL, add
from tests.support.civitai_server import Canned
from tests.support.model_rig import Rig
from worker.errors import WorkerError
from worker.sites.types import Download
from worker.stop import Stop


def test_a_folders_mtime_changes_so_that_comfyui_lists_the_file(server, rig):
    folder = rig.models_dir / "loras"
    folder.mkdir()
    os.utime(folder, (1, 1))
    rig.fetch(add(server)[0])
    assert folder.stat().st_mtime > 1


def test_cjk_and_dollar_names_arrive_as_published(server, rig):
    for name in ("模型 v1.safetensors", "a$b & [c] (1).safetensors", "é" * 109 + ".safetensors"):
        (done,) = rig.fetch(add(server, name=name)[0])
        assert done.path.name == name
    assert len(rig.files()) == 3


def test_path_tricks_in_names_stay_inside_the_folder(server, rig):
    for name in ("../../escape.safetensors", "..\\escape2.safetensors", "/etc/escape3.safetensors"):
        (done,) = rig.fetch(add(server, name=name)[0])
        assert done.path.parent == rig.models_dir / "loras"
    assert rig.files() == [f"loras/escape{n}.safetensors" for n in ("", "2", "3")]


def test_the_same_file_put_there_meanwhile_counts_as_done(server, rig):
    text, _ = add(server)
    downloads = rig.downloads(rig.resolve(text))
    downloads[0].path.parent.mkdir()
    downloads[0].path.write_bytes(SMALL)
    before = downloads[0].path.stat().st_ino
    (done,) = rig.source.fetch(downloads, Stop(), lambda files: None)
    assert done.path.stat().st_ino == before
    assert rig.files() == ["loras/x.safetensors"]


@pytest.mark.parametrize("size", [len(SMALL), 5])
def test_other_bytes_under_the_name_are_never_replaced(server, rig, size):
    text, _ = add(server)
    downloads = rig.downloads(rig.resolve(text))
    downloads[0].path.parent.mkdir()
    downloads[0].path.write_bytes(bytes(size))
    with pytest.raises(WorkerError, match="another worker gave the name") as caught:
        rig.source.fetch(downloads, Stop(), lambda files: None)
    assert caught.value.details["taken"] == "loras/x.safetensors"
    assert downloads[0].path.read_bytes() == bytes(size)
    assert rig.files() == ["loras/x.safetensors"]


def test_two_processes_may_bring_the_same_file(server, rig):
    text, file = add(server, BIG)
    file.bytes_per_s = 100e6
    downloads = rig.downloads(rig.resolve(text))
    results: list[object] = []

    def bring() -> None:
        results.extend(rig.source.fetch(downloads, Stop(), lambda files: None))

    threads = [threading.Thread(target=bring) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert rig.files() == ["loras/x.safetensors"]


def test_one_file_for_two_places(server, rig):
    text, _ = add(server)
    (file,) = rig.resolve(text)
    wanted = [Download(file, rig.models_dir / folder / "x.safetensors") for folder in ("loras", "checkpoints")]
    assert [done.path for done in rig.source.fetch(wanted, Stop(), lambda files: None)] == [w.path for w in wanted]


def test_a_named_host_is_downloaded_from(server, tmp_path):
    file = server.add_hub_file("org/repo", "x.safetensors", SMALL)
    file.always = Canned(200, SMALL, {"Content-Type": "application/octet-stream"})
    host = server.hf_url.removeprefix("http://")
    rig = Rig(server, tmp_path, MODEL_HOSTS=host)
    (done,) = rig.fetch(f"vae http://{host}/org/repo/resolve/main/x.safetensors?v=1 as y.safetensors")
    assert done.path == tmp_path / "vae" / "y.safetensors"
    assert done.file.identity == f"http:http://{host}/org/repo/resolve/main/x.safetensors?v=1"
    assert not done.file.published
    assert done.file.aliases == ("x.safetensors",)

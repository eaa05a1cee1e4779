"""The ``.part`` and its final name: full or read-only disks, names that are taken, and what dead downloads leave."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.civitai_server import CivitaiServer
from tests.support.downloading import SMALL, MiB, add, fetch, refusal
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until
from worker.downloads.part_files import PartFile, PathTakenError, part_name, sweep_parts
from worker.errors import Code, WorkerError
from worker.stop import Stop

DATA = safetensors_bytes(3 * MiB)


def line(server: CivitaiServer, data: bytes = DATA, name: str = "x.safetensors", **fields: object) -> str:
    return add(server, data, name, **fields)[0]


@pytest.mark.parametrize("network_volume", [False, True])
def test_a_size_that_only_the_server_knew_is_checked_when_it_answers(server, small_disk, network_volume):
    rig = Rig(server, small_disk)
    text = line(server, safetensors_bytes(6 * MiB), size_kb=1.0)
    error = refusal(rig, text, network_volume=network_volume)
    assert error.code is Code.DISK_FULL
    assert "x.safetensors has 6.3 MB, free are 4.2 MB" in error.message
    assert rig.files() == []


def test_a_stream_of_unknown_length_fills_the_disk(server, small_disk):
    rig = Rig(server, small_disk)
    text = line(server, safetensors_bytes(6 * MiB), size_kb=1.0)
    file = next(iter(server.versions.values())).files[0]
    file.ignore_range, file.send_length = True, False
    assert refusal(rig, text, reserve_bytes=0).code is Code.DISK_FULL
    assert rig.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_is_full_on_the_way(server, rig, monkeypatch, number, call):
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    error = refusal(rig, line(server))
    assert error.code is Code.DISK_FULL
    assert ("quota" in error.message) == (number == errno.EDQUOT)
    assert rig.files() == []


def test_a_file_system_without_preallocation_gets_a_length(server, rig, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert rig.fetch(line(server))[0].path.read_bytes() == DATA


def test_a_network_volume_is_synced_and_not_preallocated(server, rig, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("preallocated"))
    monkeypatch.setattr(os, "fsync", synced.append)
    assert fetch(rig, line(server), network_volume=True)
    assert len(synced) == 1


def test_a_local_disk_is_not_synced(server, rig, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("synced"))
    assert rig.fetch(line(server))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_can_not_be_written(server, rig, monkeypatch, number):
    real = os.open

    def refuse(path: object, flags: int, *more: object) -> int:
        if str(path).endswith(".part"):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *more)

    text = line(server)
    monkeypatch.setattr(os, "open", refuse)
    error = refusal(rig, text)
    assert error.code is Code.DOWNLOAD_FAILED
    assert "the models folder `loras` cannot be written" in error.message
    assert "MODELS_DIR" in error.hint


def test_an_unwritable_folder_for_real(server, small_disk):
    rig = Rig(server, small_disk / "models")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "cannot be written" in refusal(rig, line(server), reserve_bytes=0).message


def test_without_hard_links_the_file_is_renamed(server, rig, monkeypatch):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "")

    monkeypatch.setattr(os, "link", unsupported)
    (done,) = rig.fetch(line(server))
    assert done.path.read_bytes() == DATA
    (again,) = rig.fetch(line(server))
    assert again.path == done.path
    done.path.write_bytes(b"other")
    assert "another worker gave the name" in refusal(rig, line(server)).message
    assert done.path.read_bytes() == b"other"


def test_a_reader_of_the_old_file_is_never_disturbed(tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"old")
    part = PartFile(target)
    part.write(b"new", 0)
    with pytest.raises(PathTakenError):
        part.move_into_place(3, "0" * 64, fsync=False)
    assert target.read_bytes() == b"old"


def test_a_dropped_file_frees_its_space_at_once_though_somebody_still_holds_it(tmp_path):
    part = PartFile(tmp_path / "x.safetensors")
    part.reserve(MiB, network_volume=False)
    assert os.fstat(part._fd).st_blocks
    part.drop()
    assert os.fstat(part._fd).st_blocks == 0


def test_a_file_that_was_placed_keeps_its_bytes_when_its_download_is_given_up(tmp_path):
    part = PartFile(tmp_path / "x.safetensors")
    part.write(b"whole", 0)
    part.move_into_place(5, "0" * 64, fsync=False)
    part.drop()
    assert (tmp_path / "x.safetensors").read_bytes() == b"whole"


def test_a_directory_or_a_dangling_link_under_the_name_is_left_alone(tmp_path):
    for make in (Path.mkdir, lambda path: path.symlink_to(tmp_path / "nowhere")):
        target = tmp_path / f"{make}.safetensors".replace("/", "_")[-60:]
        make(target)
        part = PartFile(target)
        with pytest.raises(PathTakenError):
            part.move_into_place(0, "0" * 64, fsync=False)
        part.drop()
        assert os.path.lexists(target)


def test_part_names_fit_and_do_not_end_like_models():
    for name in ("x.safetensors", "模" * 80 + ".safetensors", "y" * 255):
        part = part_name(name)
        assert len(part.encode()) <= 255
        assert part.startswith(".")
        assert part.endswith(".part")
    assert part_name("x") != part_name("x")


def test_the_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    script = (
        "import sys; from pathlib import Path; from worker.downloads.part_files import PartFile; "
        "part = PartFile(Path(sys.argv[1]) / 'dead.safetensors'); print(part.path.name)"
    )
    ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    dead = tmp_path / ran.stdout.strip()
    own = PartFile(tmp_path / "own.safetensors").path
    pid, start = own.name.rsplit("-", 3)[1:3]
    reused = tmp_path / own.name.replace(f"-{pid}-{start}-", f"-{pid}-{int(start) + 5}-")
    others_new = tmp_path / ".x.safetensors.otherhost-1-5-0123abcd.part"
    others_old = tmp_path / ".x.safetensors.otherhost-2-5-0123abcd.part"
    foreign = [tmp_path / name for name in (".download.part", "x.safetensors.part", ".x.crdownload", "x.safetensors")]
    for path in (reused, others_new, others_old, *foreign):
        path.write_bytes(b"x")
    for path in (own, others_old, *foreign):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert dead.exists()
    assert set(sweep_parts(tmp_path)) == {dead, reused, others_old}
    assert sorted(tmp_path.iterdir()) == sorted([own, others_new, *foreign])
    assert sweep_parts(tmp_path / "missing") == []
    assert "removed 3 unfinished downloads" in caplog.text


def test_a_killed_process_leaves_only_a_part_that_is_swept(server, rig):
    text = line(server, safetensors_bytes(20 * MiB))
    server.file(next(iter(server.versions))).bytes_per_s = 5e6
    script = (
        "import sys; from pathlib import Path; from tests.support.model_rig import Rig\n"
        "class Fake:\n"
        "    def env(self): return {'CIVITAI_URL': sys.argv[1]}\n"
        "Rig(Fake(), Path(sys.argv[2])).fetch(sys.argv[3])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url, rig.models_dir, text])
    folder = rig.models_dir / "loras"
    wait_until(lambda: folder.is_dir() and list(folder.glob(".*.part")))
    assert sweep_parts(folder) == []
    process.kill()
    process.wait()
    assert len(sweep_parts(folder)) == 1
    assert rig.files() == []


def test_a_folders_mtime_changes_so_that_comfyui_lists_the_file(server, rig):
    folder = rig.models_dir / "loras"
    folder.mkdir(parents=True)
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
    downloads[0].path.parent.mkdir(parents=True)
    downloads[0].path.write_bytes(SMALL)
    before = downloads[0].path.stat().st_ino
    (done,) = rig.source.fetch(downloads, Stop(), lambda files: None)
    assert done.path.stat().st_ino == before
    assert rig.files() == ["loras/x.safetensors"]


@pytest.mark.parametrize("size", [len(SMALL), 5])
def test_other_bytes_under_the_name_are_never_replaced(server, rig, size):
    text, _ = add(server)
    downloads = rig.downloads(rig.resolve(text))
    downloads[0].path.parent.mkdir(parents=True)
    downloads[0].path.write_bytes(bytes(size))
    with pytest.raises(WorkerError, match="another worker gave the name") as caught:
        rig.source.fetch(downloads, Stop(), lambda files: None)
    assert caught.value.details["taken"] == "loras/x.safetensors"
    assert downloads[0].path.read_bytes() == bytes(size)
    assert rig.files() == ["loras/x.safetensors"]

"""Disks that are full or cannot be written, and what dead downloads leave behind."""

from __future__ import annotations

import errno
import gc
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.civitai_server import CivitaiServer
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.downloads.part_files import PartFile, PathTakenError, part_name, sweep_parts
from worker.downloads.pool import check_free_space, download_all
from worker.errors import Code, WorkerError
from worker.sites.client import SiteClient, Sites
from worker.stop import Stop

MiB = 1 << 20
DATA = safetensors_bytes(3 * MiB)


@pytest.fixture
def rig(server, tmp_path):
    return Rig(server, tmp_path / "models")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB; skips where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def add(server: CivitaiServer, data: bytes = DATA, name: str = "x.safetensors", **fields: object) -> str:
    version = server.add_model(name, data, type="LORA", **fields)
    return f"lora https://civitai.com/api/download/models/{version}"


def fetch(rig: Rig, text: str, **options: object):
    sites = Sites.from_settings(rig.settings)
    return download_all(
        rig.downloads(rig.resolve(text)),
        lambda sockets: SiteClient(sites, QUICK, sockets),
        Stop(),
        lambda files: None,
        connections=4,
        retry=QUICK,
        **{"reserve_bytes": 0, **options},
    )


def refusal(rig: Rig, text: str, **options: object) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        fetch(rig, text, **options)
    assert not [name for name in rig.files() if name.endswith(".part")]
    assert str(rig.models_dir) not in str(caught.value)
    return caught.value


def test_the_sum_of_all_sizes_is_checked_before_the_first_byte(server, small_disk):
    rig = Rig(server, small_disk)
    error = refusal(rig, f"{add(server)}\n{add(server, name='y.safetensors')}")
    assert error.code is Code.DISK_FULL
    assert error.message == "the models need 6.3 MB and the disk has 4.2 MB free"
    assert error.details == {"needed_bytes": 6 * MiB, "free_bytes": 4 * MiB}
    assert not server.seen("storage")


def test_the_reserve_counts(server, small_disk):
    rig = Rig(server, small_disk)
    assert refusal(rig, add(server), reserve_bytes=2 * MiB).code is Code.DISK_FULL
    assert fetch(rig, add(server), reserve_bytes=0)[0].path.read_bytes() == DATA


@pytest.mark.parametrize("network_volume", [False, True])
def test_a_size_that_only_the_server_knew_is_checked_when_it_answers(server, small_disk, network_volume):
    rig = Rig(server, small_disk)
    text = add(server, safetensors_bytes(6 * MiB), size_kb=1.0)
    error = refusal(rig, text, network_volume=network_volume)
    assert error.code is Code.DISK_FULL
    assert "x.safetensors has 6.3 MB, free are 4.2 MB" in error.message
    assert rig.files() == []


def test_a_stream_of_unknown_length_fills_the_disk(server, small_disk):
    rig = Rig(server, small_disk)
    text = add(server, safetensors_bytes(6 * MiB), size_kb=1.0)
    file = next(iter(server.versions.values())).files[0]
    file.ignore_range, file.send_length = True, False
    assert refusal(rig, text).code is Code.DISK_FULL
    assert rig.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_is_full_on_the_way(server, rig, monkeypatch, number, call):
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    error = refusal(rig, add(server))
    assert error.code is Code.DISK_FULL
    assert ("quota" in error.message) == (number == errno.EDQUOT)
    assert rig.files() == []


def test_a_file_system_without_preallocation_gets_a_length(server, rig, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert fetch(rig, add(server))[0].path.read_bytes() == DATA


def test_a_network_volume_is_synced_and_not_preallocated(server, rig, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("preallocated"))
    monkeypatch.setattr(os, "fsync", synced.append)
    assert fetch(rig, add(server), network_volume=True)
    assert len(synced) == 1


def test_a_local_disk_is_not_synced(server, rig, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("synced"))
    assert fetch(rig, add(server))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_can_not_be_written(server, rig, monkeypatch, number):
    real = os.open

    def refuse(path: object, flags: int, *more: object) -> int:
        if str(path).endswith(".part"):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *more)

    text = add(server)
    monkeypatch.setattr(os, "open", refuse)
    error = refusal(rig, text)
    assert error.code is Code.DOWNLOAD_FAILED
    assert "the models folder `loras` cannot be written" in error.message
    assert "MODELS_DIR" in error.hint


def test_without_hard_links_the_file_is_renamed(server, rig, monkeypatch):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "")

    monkeypatch.setattr(os, "link", unsupported)
    (done,) = fetch(rig, add(server))
    assert done.path.read_bytes() == DATA
    (again,) = fetch(rig, add(server))
    assert again.path == done.path
    done.path.write_bytes(b"other")
    assert "another worker gave the name" in refusal(rig, add(server)).message
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


def test_an_unwritable_folder_for_real(server, small_disk):
    rig = Rig(server, small_disk / "models")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "cannot be written" in refusal(rig, add(server)).message


def test_room_is_counted_for_each_disk_and_unknown_sizes_are_left_out(server, rig):
    server_version = add(server, size_kb=0.0)
    check_free_space(rig.downloads(rig.resolve(server_version)), reserve_bytes=0)
    with pytest.raises(WorkerError):
        check_free_space(rig.downloads(rig.resolve(server_version)), reserve_bytes=1 << 60)


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
    mine = PartFile(tmp_path / "mine.safetensors").path
    pid, start = mine.name.rsplit("-", 3)[1:3]
    reused = tmp_path / mine.name.replace(f"-{pid}-{start}-", f"-{pid}-{int(start) + 5}-")
    others_new = tmp_path / ".x.safetensors.otherhost-1-5-0123abcd.part"
    others_old = tmp_path / ".x.safetensors.otherhost-2-5-0123abcd.part"
    foreign = [tmp_path / name for name in (".download.part", "x.safetensors.part", ".x.crdownload", "x.safetensors")]
    for path in (reused, others_new, others_old, *foreign):
        path.write_bytes(b"x")
    for path in (mine, others_old, *foreign):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert dead.exists()
    assert set(sweep_parts(tmp_path)) == {dead, reused, others_old}
    assert sorted(tmp_path.iterdir()) == sorted([mine, others_new, *foreign])
    assert sweep_parts(tmp_path / "missing") == []
    assert "removed 3 unfinished downloads" in caplog.text


def test_a_killed_process_leaves_only_a_part_that_is_swept(server, rig):
    text = add(server, safetensors_bytes(20 * MiB))
    server.file(next(iter(server.versions))).bytes_per_s = 5e6
    script = (
        "import sys; from pathlib import Path; from tests.support.model_rig import Rig\n"
        "class Fake:\n"
        "    def env(self): return {'CIVITAI_URL': sys.argv[1]}\n"
        "Rig(Fake(), Path(sys.argv[2])).fetch(sys.argv[3])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url, rig.models_dir, text])
    folder = rig.models_dir / "loras"
    until = time.monotonic() + 20
    while not (folder.is_dir() and list(folder.glob(".*.part"))) and time.monotonic() < until:
        time.sleep(0.01)
    assert sweep_parts(folder) == []
    process.kill()
    process.wait()
    assert len(sweep_parts(folder)) == 1
    assert rig.files() == []


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_download_no_descriptor_holds_a_models_disk_space(server, rig, fails):
    """A model that is pruned gives its space back at once, not when Python next looks for cycles."""
    text = f"{add(server)}\n{add(server, data=safetensors_bytes(2 * MiB, 'y'), name='y.safetensors')}"
    if fails:
        text += f"\n{add(server, name='z.safetensors', sha256='0' * 64)}"
    gc.disable()
    try:
        if fails:
            assert refusal(rig, text).code is Code.MODEL_CORRUPT
        else:
            assert len(fetch(rig, text)) == 2
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    finally:
        gc.enable()
    assert [path for path in opened if path.startswith(str(rig.models_dir))] == []

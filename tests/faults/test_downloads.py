"""Transfers that go wrong on the way, and what of them reaches the models folder: whole files or nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.support.civitai_server import QUICK, Canned, CivitaiServer, FakeFile, Rig
from tests.support.safetensors_files import header_only, noise, safetensors_bytes
from worker.cancel import Stop, Stopped
from worker.errors import Code, WorkerError
from worker.model_types import Download

MiB = 1 << 20
SMALL = safetensors_bytes(300_000)
BIG = safetensors_bytes(70 * MiB, "big")


@pytest.fixture
def server():
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def rig(server, tmp_path):
    return Rig(server, tmp_path)


def add(
    server: CivitaiServer, data: bytes = SMALL, name: str = "x.safetensors", **fields: object
) -> tuple[str, FakeFile]:
    """A line for a new file, and the file."""
    version = server.add_model(name, data, type="LORA", **fields)
    return f"lora https://civitai.com/api/download/models/{version}", server.file(version)


def refusal(rig: Rig, text: str) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        rig.fetch(text)
    assert not [name for name in rig.files() if name.endswith(".part")]
    return caught.value


def test_many_files_of_all_sizes_arrive_whole(server, rig):
    sizes = [128, 4096, MiB, 3 * MiB + 1, 64 * MiB, 64 * MiB + 1]
    files = [safetensors_bytes(size, str(size)) for size in sizes]
    lines = [add(server, data, f"m{len(data)}.safetensors")[0] for data in files]
    reports = []
    results = rig.sites.fetch(rig.downloads(rig.resolve("\n".join(lines))), Stop(), reports.append)
    assert [result.path.read_bytes() == data for result, data in zip(results, files, strict=True)] == [True] * 6
    assert [result.sha256 for result in results] == [hashlib.sha256(data).hexdigest() for data in files]
    assert [result.size for result in results] == sizes
    last = reports[-1]
    assert [(p.name, p.bytes, p.total) for p in last] == [(f"m{size}.safetensors", size, size) for size in sizes]
    assert len(rig.files()) == 6


def test_nothing_to_fetch_is_reported_once(rig):
    reports = []
    assert rig.sites.fetch([], Stop(), reports.append) == []
    assert reports == [[]]


def test_a_folders_mtime_changes_so_that_comfyui_lists_the_file(server, rig):
    folder = rig.models_dir / "loras"
    folder.mkdir()
    os.utime(folder, (1, 1))
    rig.fetch(add(server)[0])
    assert folder.stat().st_mtime > 1


@pytest.mark.parametrize("cuts", [[100_000], [0, 1, 100_000, 299_999], [10] * 5])
def test_a_cut_body_goes_on_where_it_stopped(server, rig, cuts):
    text, file = add(server)
    file.cut_after = list(cuts)
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL
    assert sum(request.sent for request in server.seen("storage")) < 2 * len(SMALL)


def test_a_big_file_survives_many_kinds_of_trouble_at_once(server, rig):
    text, file = add(server, BIG)
    file.cut_after = [MiB, 5 * MiB, 0, 100]
    file.storage_answers = [Canned(503), Canned(429, b"", {"Retry-After": "1"})]
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == BIG


def test_a_body_that_is_always_cut_fails(server, rig):
    text, file = add(server)
    file.cut_after = [0] * 50
    error = refusal(rig, text)
    assert error.code is Code.DOWNLOAD_FAILED
    assert "closed before the file was whole" in error.message


def test_a_stalled_body_is_tried_again(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=0.2))
    text, file = add(server)
    file.stall_after = [50_000, 200_000]
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL


def test_a_body_that_always_stalls_fails(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=0.1, tries=2))
    text, file = add(server)
    file.stall_after = [0] * 10
    assert "stalled" in refusal(rig, text).message


def test_wrong_bytes_are_downloaded_once_more(server, rig, caplog):
    caplog.set_level(logging.INFO)
    text, file = add(server)
    file.wrong_times = 1
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL
    assert "it is downloaded once more" in caplog.text


def test_bytes_that_stay_wrong_are_refused_with_both_digests(server, rig):
    text, file = add(server)
    file.wrong_times = 2
    error = refusal(rig, text)
    wrong = SMALL[:-1] + bytes([SMALL[-1] ^ 0xFF])
    assert error.code is Code.MODEL_CORRUPT
    assert hashlib.sha256(wrong).hexdigest() in error.message
    assert hashlib.sha256(SMALL).hexdigest() in error.message
    assert rig.files() == []


@pytest.mark.parametrize("data", [SMALL[:-1], SMALL + b"x", header_only({"a": 5}), noise(5000, "noise")])
def test_a_broken_file_without_a_published_hash_is_refused(server, rig, data):
    text, _ = add(server, data, sha256=None)
    error = refusal(rig, text)
    assert error.code is Code.MODEL_CORRUPT
    assert rig.files() == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"PK\x03\x04" + noise(5000, "zip"), Code.MODEL_UNSAFE),
        (b"\x80\x02" + noise(5000, "pickle"), Code.MODEL_UNSAFE),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", Code.DOWNLOAD_FAILED),
        (b'{"error": "Unauthorized"}', Code.DOWNLOAD_FAILED),
        (b"GGUF" + noise(5000, "gguf"), Code.MODEL_CORRUPT),
    ],
)
def test_other_contents_under_a_models_name_are_refused_even_with_the_right_hash(server, rig, data, code):
    text, _ = add(server, data)
    assert refusal(rig, text).code is code
    assert rig.files() == []


def test_a_wrong_published_size_does_no_harm(server, rig, caplog):
    text, _ = add(server, size_kb=123.0)
    (done,) = rig.fetch(text)
    assert done.size == len(SMALL)
    assert "has 300000 bytes where its site says 125952" in caplog.text


def test_a_server_that_ignores_ranges_is_streamed(server, rig):
    text, file = add(server, BIG)
    file.ignore_range = True
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == BIG
    assert len(server.seen("storage")) == 1


def test_without_ranges_a_cut_file_begins_anew(server, rig):
    text, file = add(server)
    file.ignore_range = True
    file.cut_after = [100_000, 200_000]
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL
    assert [request.sent for request in server.seen("storage")] == [100_000, 200_000, 300_000]


def test_a_file_without_a_length_is_whole_when_its_header_says_so(server, rig):
    text, file = add(server, sha256=None)
    file.ignore_range, file.send_length = True, False
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL


def test_a_file_without_a_length_that_is_cut_is_noticed(server, rig):
    text, file = add(server, sha256=None)
    file.ignore_range, file.send_length = True, False
    file.cut_after = [100_000]
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == SMALL
    file.cut_after = [100_000] * 5
    done.path.unlink()
    error = refusal(rig, text)
    assert error.code is Code.MODEL_CORRUPT
    assert "200000 bytes are missing" in error.message


def test_a_pickle_without_length_hash_and_size_is_refused(server, tmp_path):
    rig = Rig(server, tmp_path, ALLOW_PICKLE="1")
    text, file = add(server, b"\x80\x02" + noise(50_000, "p"), "x.ckpt", sha256=None, size_kb=0.0)
    file.ignore_range, file.send_length = True, False
    assert "nothing tells whether the file is whole" in refusal(rig, text).message
    file.send_length = True
    (done,) = rig.fetch(text)
    assert done.path.name == "x.ckpt"


def test_a_signed_link_that_expires_is_renewed_once(server, rig):
    text, file = add(server, BIG)
    file.link_requests = 2
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == BIG
    walks = [request for request in server.seen("api") if request.path.startswith("/api/download/")]
    assert len(walks) == 2


def test_a_signed_link_that_keeps_expiring_fails(server, rig):
    text, file = add(server)
    file.storage_answers = [Canned(403, b"<Error>Request has expired</Error>")] * 9
    error = refusal(rig, text)
    assert error.code is Code.DOWNLOAD_FAILED
    assert "refused its signed link (403" in error.message
    walks = [request for request in server.seen("api") if request.path.startswith("/api/download/")]
    assert len(walks) == 2


def test_a_file_that_changes_on_the_way_begins_anew(server, rig):
    text, file = add(server, BIG, sha256=None)
    file.bytes_per_s = 200e6
    other = safetensors_bytes(66 * MiB, "other")

    def change() -> None:
        while not server.seen("storage"):
            time.sleep(0.001)
        file.data = other

    threading.Thread(target=change, daemon=True).start()
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() in (BIG, other)
    assert len(rig.files()) == 1


def test_429_of_the_storage_lowers_the_files_connections_and_passes(server, rig):
    text, file = add(server, BIG)
    file.storage_answers = [Canned(429)] * 3
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == BIG


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


def test_finished_files_stay_when_another_fails(server, rig):
    good, _ = add(server, name="good.safetensors")
    bad, file = add(server, name="bad.safetensors")
    file.stall_after = [1000]  # so that the good one is done by then
    file.storage_answers = []
    file.always = None

    def spoil() -> None:
        while "loras/good.safetensors" not in rig.files():
            time.sleep(0.005)
        file.storage_answers = [Canned(418)] * 9

    threading.Thread(target=spoil, daemon=True).start()
    error = refusal(rig, f"{bad}\n{good}")
    assert "line 1 " in error.message
    assert rig.files() == ["loras/good.safetensors"]


def test_the_earliest_line_that_failed_is_the_error(server, rig):
    files = [add(server, name=f"m{n}.safetensors") for n in range(5)]
    for _, file in files[1:]:
        file.always = Canned(410)
    error = refusal(rig, "\n".join(text for text, _ in files))
    assert error.code is Code.MODEL_NOT_FOUND
    assert error.details["line"] in (2, 3, 4, 5)
    assert error.details["status"] == 410


@pytest.mark.parametrize("unlimited", [False, True])
def test_cancelling_ends_within_a_second_and_leaves_nothing(server, tmp_path, unlimited):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=30.0))
    lines = []
    for n in range(6):
        text, file = add(server, BIG, f"m{n}.safetensors")
        lines.append(text)
        if unlimited:
            file.bytes_per_s = 3e6
        else:
            file.stall_after = [500_000] * 99
    stop = Stop()
    downloads = rig.downloads(rig.resolve("\n".join(lines)))
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Stopped):
        rig.sites.fetch(downloads, stop, lambda files: None)
    ended = time.monotonic()
    assert rig.files() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("download-", "hash"))]
    assert time.monotonic() - ended < 0.5


def test_cancelling_takes_no_time(server, rig):
    text, file = add(server)
    file.stall_after = [1000] * 9
    stop = Stop()
    seen: list[float] = []

    def cancel() -> None:
        time.sleep(0.2)
        seen.append(time.monotonic())
        stop.set()

    rig = Rig(server, rig.models_dir, retry=replace(QUICK, read_s=30.0))
    downloads = rig.downloads(rig.resolve(text))
    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Stopped):
        rig.sites.fetch(downloads, stop, lambda files: None)
    assert time.monotonic() - seen[0] < 0.5


def test_the_jobs_deadline_ends_a_download(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=30.0))
    text, file = add(server)
    file.stall_after = [1000] * 9
    downloads = rig.downloads(rig.resolve(text))
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        rig.sites.fetch(downloads, Stop(time.monotonic() + 0.3), lambda files: None)
    assert caught.value.code is Code.TIMEOUT
    assert time.monotonic() - started < 1.0
    assert rig.files() == []


def test_cancelling_ends_a_look_up_as_well(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, scale=1.0))
    text, _file = add(server)
    version = next(iter(server.versions.values()))
    version.metadata_always = Canned(500)
    stop = Stop()
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        rig.resolve(text, stop)
    assert time.monotonic() - started < 0.8


def test_the_same_file_put_there_meanwhile_counts_as_done(server, rig):
    text, _ = add(server)
    downloads = rig.downloads(rig.resolve(text))
    downloads[0].path.parent.mkdir()
    downloads[0].path.write_bytes(SMALL)
    before = downloads[0].path.stat().st_ino
    (done,) = rig.sites.fetch(downloads, Stop(), lambda files: None)
    assert done.path.stat().st_ino == before
    assert rig.files() == ["loras/x.safetensors"]


@pytest.mark.parametrize("size", [len(SMALL), 5])
def test_other_bytes_under_the_name_are_never_replaced(server, rig, size):
    text, _ = add(server)
    downloads = rig.downloads(rig.resolve(text))
    downloads[0].path.parent.mkdir()
    downloads[0].path.write_bytes(bytes(size))
    with pytest.raises(WorkerError, match="another worker gave the name") as caught:
        rig.sites.fetch(downloads, Stop(), lambda files: None)
    assert caught.value.details["taken"] == "loras/x.safetensors"
    assert downloads[0].path.read_bytes() == bytes(size)
    assert rig.files() == ["loras/x.safetensors"]


def test_two_processes_may_bring_the_same_file(server, rig):
    text, file = add(server, BIG)
    file.bytes_per_s = 100e6
    downloads = rig.downloads(rig.resolve(text))
    results: list[object] = []

    def bring() -> None:
        results.extend(rig.sites.fetch(downloads, Stop(), lambda files: None))

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
    assert [done.path for done in rig.sites.fetch(wanted, Stop(), lambda files: None)] == [w.path for w in wanted]


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


def test_progress_is_told_often_enough_but_not_more(server, rig, caplog):
    caplog.set_level(logging.INFO)
    text, file = add(server, safetensors_bytes(3 * MiB))
    file.bytes_per_s = 2.5 * MiB
    reports: list[tuple[float, int]] = []
    rig.fetch(text, report=lambda files: reports.append((time.monotonic(), files[0].bytes)))
    assert 2 <= len(reports) <= 4
    assert reports[-1][1] == 3 * MiB
    assert reports[1][0] - reports[0][0] >= 0.4
    assert "x.safetensors is there: 3.1 MB" in caplog.text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_elsewhere_a_line_now_and_then(server, rig, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("worker.download_progress.LOG_EVERY_S", 0.2)
    text, file = add(server, safetensors_bytes(MiB))
    file.bytes_per_s = 2 * MiB
    (done,) = rig.fetch(text)
    assert "of 1.0 MB at" in caplog.text
    done.path.unlink()
    caplog.clear()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    rig.fetch(text)
    assert "models:" in terminal.getvalue()
    assert "1.05M" in terminal.getvalue()
    assert "MB at" not in caplog.text

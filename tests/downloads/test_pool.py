"""All downloads of one job: one pool of connections, one error, and nothing half done when it ends."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import replace

import pytest

from tests.support.civitai_server import Canned
from tests.support.downloading import BIG, SMALL, MiB, add, fetch, refusal
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until
from worker.downloads.pool import check_free_space, download_all
from worker.errors import Code, WorkerError
from worker.net.connections import Sockets
from worker.sites.client import FinalResponse, SiteClient, Sites
from worker.sites.types import Download, RepoLine
from worker.stop import Stop, StoppedError

DATA = safetensors_bytes(3 * MiB)


def test_many_files_of_all_sizes_arrive_whole(server, rig):
    sizes = [128, 4096, MiB, 3 * MiB + 1, 64 * MiB, 64 * MiB + 1]
    files = [safetensors_bytes(size, str(size)) for size in sizes]
    lines = [add(server, data, f"m{len(data)}.safetensors")[0] for data in files]
    reports = []
    results = rig.source.fetch(rig.downloads(rig.resolve("\n".join(lines))), Stop(), reports.append)
    assert [result.path.read_bytes() == data for result, data in zip(results, files, strict=True)] == [True] * 6
    assert [result.sha256 for result in results] == [hashlib.sha256(data).hexdigest() for data in files]
    assert [result.size for result in results] == sizes
    last = reports[-1]
    assert [(p.name, p.bytes, p.total) for p in last] == [(f"m{size}.safetensors", size, size) for size in sizes]
    assert len(rig.files()) == 6


def test_nothing_to_fetch_is_reported_once(rig):
    reports = []
    assert rig.source.fetch([], Stop(), reports.append) == []
    assert reports == [[]]


def test_a_finished_file_is_logged_with_its_size(server, rig, caplog):
    caplog.set_level(logging.INFO)
    rig.fetch(add(server, DATA)[0])
    assert "x.safetensors is there: 3.1 MB" in caplog.text


def test_the_sum_of_all_sizes_is_checked_before_the_first_byte(server, small_disk):
    rig = Rig(server, small_disk)
    error = refusal(rig, f"{add(server, DATA)[0]}\n{add(server, DATA, 'y.safetensors')[0]}", reserve_bytes=0)
    assert error.code is Code.DISK_FULL
    assert error.message == "the models need 6.3 MB and the disk has 4.2 MB free"
    assert error.details == {"needed_bytes": 6 * MiB, "free_bytes": 4 * MiB}
    assert not server.seen("storage")


def test_the_reserve_counts(server, small_disk):
    rig = Rig(server, small_disk)
    assert refusal(rig, add(server, DATA)[0], reserve_bytes=2 * MiB).code is Code.DISK_FULL
    assert fetch(rig, add(server, DATA)[0], reserve_bytes=0)[0].path.read_bytes() == DATA


def test_room_is_counted_for_each_disk_and_unknown_sizes_are_left_out(server, rig):
    text, _ = add(server, size_kb=0.0)
    check_free_space(rig.downloads(rig.resolve(text)), reserve_bytes=0)
    with pytest.raises(WorkerError):
        check_free_space(rig.downloads(rig.resolve(text)), reserve_bytes=1 << 60)


def test_429_of_the_storage_lowers_the_files_connections_and_passes(server, rig):
    text, file = add(server, BIG)
    file.storage_answers = [Canned(429)] * 3
    (done,) = rig.fetch(text)
    assert done.path.read_bytes() == BIG


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


def test_finished_files_stay_when_another_fails(server, rig):
    good, _ = add(server, name="good.safetensors")
    bad, file = add(server, name="bad.safetensors")
    file.stall_after = [1000]  # so that the good one is done by then
    file.storage_answers = []
    file.always = None

    def spoil() -> None:
        wait_until(lambda: "loras/good.safetensors" in rig.files())
        file.storage_answers = [Canned(418)] * 9

    threading.Thread(target=spoil, daemon=True).start()
    error = refusal(rig, f"{bad}\n{good}")
    assert "line 1 " in error.message
    assert rig.files() == ["loras/good.safetensors"]


class FailingClient(SiteClient):
    """A client in whose downloads line 3 fails first, then line 2 while the others are being ended, and no other."""

    def __init__(self, sockets: Sockets) -> None:
        super().__init__(Sites(), QUICK, sockets)
        self.sockets = sockets

    def follow(self, url: str, line: RepoLine, *_: object) -> FinalResponse:
        if line.number != 3:
            wait_until(lambda: self.sockets.closed)
        if line.number in (2, 3):
            raise WorkerError(Code.MODEL_UNSAFE, f"line {line.number} is unsafe")
        return super().follow(url, line)


def test_the_earliest_line_that_failed_is_the_error(server, rig, monkeypatch):
    monkeypatch.setattr("worker.downloads.threads.JOIN_TIMEOUT_S", 30)  # so that line 2 fails in time on any machine
    text = "\n".join(add(server, name=f"m{n}.safetensors")[0] for n in range(4))
    downloads = rig.downloads(rig.resolve(text))
    with pytest.raises(WorkerError, match="line 2 is unsafe") as caught:
        download_all(downloads, FailingClient, Stop(), lambda files: None, connections=4, retry=QUICK)
    assert caught.value.details["line"] == 2


def test_a_refused_file_is_an_error_with_its_line_and_status(server, rig):
    files = [add(server, name=f"m{n}.safetensors") for n in range(5)]
    files[2][1].always = Canned(410)
    error = refusal(rig, "\n".join(text for text, _ in files))
    assert error.code is Code.MODEL_NOT_FOUND
    assert (error.details["line"], error.details["status"]) == (3, 410)


def busy_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("download-", "hash"))]


@pytest.mark.parametrize("unlimited", [False, True])
def test_cancelling_ends_every_thread_and_leaves_nothing(server, tmp_path, unlimited):
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

    def cancel() -> None:
        wait_until(lambda: len(server.seen("storage")) >= 6)
        stop.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(StoppedError):
        rig.source.fetch(downloads, stop, lambda files: None)
    assert busy_threads() == []
    assert rig.files() == []


def test_the_jobs_deadline_ends_a_download(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=30.0))
    text, file = add(server)
    file.stall_after = [1000] * 9
    downloads = rig.downloads(rig.resolve(text))
    with pytest.raises(WorkerError) as caught:
        rig.source.fetch(downloads, Stop(time.monotonic() + 0.3), lambda files: None)
    assert caught.value.code is Code.TIMEOUT
    assert busy_threads() == []
    assert rig.files() == []


def test_two_processes_may_download_the_same_file(server, rig):
    text, file = add(server, BIG)
    file.bytes_per_s = 100e6
    downloads = rig.downloads(rig.resolve(text))
    results: list[object] = []

    def download() -> None:
        results.extend(rig.source.fetch(downloads, Stop(), lambda files: None))

    threads = [threading.Thread(target=download) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert rig.files() == ["loras/x.safetensors"]


def test_one_file_for_two_folders(server, rig):
    text, _ = add(server)
    (file,) = rig.resolve(text)
    downloads = [Download(file, rig.models_dir / folder / "x.safetensors") for folder in ("loras", "checkpoints")]
    results = rig.source.fetch(downloads, Stop(), lambda files: None)
    assert [result.path for result in results] == [download.path for download in downloads]

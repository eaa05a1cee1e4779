"""Transfers that go wrong on the way, and what of them reaches the models folder: whole files or nothing."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace

import pytest

from tests.faults.downloading import BIG, SMALL, MiB, add, refusal
from tests.support.civitai_server import Canned
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code
from worker.stop import Stop


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

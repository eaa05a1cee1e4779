"""One file's transfer: what goes wrong on the way, and contents that never get a final name."""

from __future__ import annotations

import gc
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.civitai_server import Canned
from tests.support.downloading import BIG, SMALL, MiB, add, refusal
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import header_only, noise, safetensors_bytes
from worker.downloads.transfer import span_bytes
from worker.errors import Code


@pytest.mark.parametrize(
    ("size", "request_bytes"),
    [(None, 64 * MiB), (5, 64 * MiB), (64 * MiB, 64 * MiB), (64 * MiB + 1, 32 * MiB), (4096 * MiB, 64 * MiB)],
)
def test_a_small_file_is_one_request_and_a_large_one_a_few_large_ones(size, request_bytes):
    assert span_bytes(size) == request_bytes


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


def test_one_file_costs_one_request_to_the_download_route(server, rig):
    version = server.add_model("big.safetensors", safetensors_bytes(70 * MiB))
    rig.fetch(f"ckpt https://civitai.com/api/download/models/{version}")
    downloads = [request for request in server.seen("api") if request.path.startswith("/api/download/")]
    assert len(downloads) == 1
    assert len(server.seen("storage")) >= 3


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
    assert "has 300000 bytes where its site lists 125952" in caplog.text


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
    assert "neither a length nor a hash shows that the file is whole" in refusal(rig, text).message
    file.send_length = True
    (done,) = rig.fetch(text)
    assert done.path.name == "x.ckpt"


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_download_no_descriptor_holds_a_models_disk_space(server, rig, fails):
    """A model that is pruned gives its space back at once, not when Python next looks for cycles."""
    text = f"{add(server)[0]}\n{add(server, safetensors_bytes(2 * MiB, 'y'), 'y.safetensors')[0]}"
    if fails:
        text += f"\n{add(server, name='z.safetensors', sha256='0' * 64)[0]}"
    gc.disable()
    try:
        if fails:
            assert refusal(rig, text).code is Code.MODEL_CORRUPT
        else:
            assert len(rig.fetch(text)) == 2
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    finally:
        gc.enable()
    assert [path for path in opened if path.startswith(str(rig.models_dir))] == []

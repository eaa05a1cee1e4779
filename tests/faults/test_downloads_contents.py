"""Bytes that are wrong, not a model, or of unknown length: never under a final name."""

from __future__ import annotations

import hashlib
import logging

import pytest

from tests.faults.downloading import SMALL, add, refusal
from tests.support.model_rig import Rig
from tests.support.safetensors_files import header_only, noise
from worker.errors import Code


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

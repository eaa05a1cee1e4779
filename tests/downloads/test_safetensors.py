from __future__ import annotations

import struct

import pytest

from tests.support.safetensors_files import header_only, safetensors_bytes
from worker.downloads.safetensors import SafetensorsError, check_safetensors, looks_like

TENSOR = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}


def check(tmp_path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    check_safetensors(path)


@pytest.mark.parametrize(
    "data",
    [
        safetensors_bytes(128),
        safetensors_bytes(100_000),
        header_only({}),
        header_only({"__metadata__": {"format": "pt"}, "a": TENSOR}, bytes(8)),
        header_only({"a": TENSOR, "b": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [8, 11]}}, bytes(11)),
        header_only({"a": {"dtype": "NEW_9", "shape": [3], "data_offsets": [0, 5]}}, bytes(5)),
        header_only({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, bytes(2)),
        header_only({"scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_whole_files_pass(tmp_path, data):
    check(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "has only 0 bytes"),
        (b"1234567", "has only 7 bytes"),
        (safetensors_bytes(4096)[:-1], "1 bytes are missing"),
        (safetensors_bytes(4096)[:100], "ends inside its header"),
        (safetensors_bytes(4096) + b"x", "has 4097 bytes where its header gives 4096"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page or XML"),
        (b'{"error": "Unauthorized"}', "is JSON text"),
        (b"PK\x03\x04" + bytes(100), "is a zip archive or a PyTorch pickle"),
        (b"\x80\x02}q\x00." + bytes(100), "is a pickle"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (struct.pack("<Q", 1 << 40) + b"{" + bytes(100), "something other than safetensors"),
        (struct.pack("<Q", 10) + b"{not json}", "a header that is not JSON"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "a header that is not JSON"),
        (header_only({"a": {**TENSOR, "shape": [3]}}, bytes(8)), "shape does not fit"),
        (header_only({"a": {**TENSOR, "data_offsets": [8, 0]}}, bytes(8)), "describes a tensor wrongly"),
        (header_only({"a": {**TENSOR, "data_offsets": [-8, 0]}}, bytes(8)), "describes a tensor wrongly"),
        (header_only({"a": {"dtype": "F16"}}, bytes(8)), "describes a tensor wrongly"),
        (header_only({"a": 5}, bytes(8)), "describes a tensor wrongly"),
        (header_only({"a": {**TENSOR, "shape": ["x"]}}, bytes(8)), "describes a tensor wrongly"),
    ],
)
def test_everything_else_is_named(tmp_path, data, problem):
    with pytest.raises(SafetensorsError, match=problem.replace("(", r"\(")):
        check(tmp_path, data)


def test_the_first_bytes_tell_a_page_from_a_model():
    assert looks_like(safetensors_bytes(256)[:32]) is None
    assert looks_like(b"  \n<html>" + bytes(20)) == "a web page or XML"
    assert looks_like(b"") == "something other than safetensors"


def test_a_shape_whose_product_would_take_hours_is_refused_at_once(tmp_path):
    shape = ",".join(["9" * 4000] * 3000)
    header = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % shape.encode()
    with pytest.raises(SafetensorsError, match="does not fit its bytes"):
        check(tmp_path, struct.pack("<Q", len(header)) + header + bytes(4))
    check(tmp_path, header_only({"a": {"dtype": "F32", "shape": [10**12, 10**12, 0], "data_offsets": [0, 0]}}))

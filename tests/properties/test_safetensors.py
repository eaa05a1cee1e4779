"""Safetensors: any bytes get a verdict, a whole file the right one, and no header makes the check run for ever."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import broken
from worker.downloads.safetensors import SafetensorsError, check_safetensors, looks_like

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]},
}
BODY = b"x" * 28


def whole(header, body=BODY):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("safetensors") / "a.safetensors"


def is_whole(path, data):
    """The check's verdict; any other end than a verdict is the test's failure."""
    path.write_bytes(data)
    try:
        check_safetensors(path)
    except SafetensorsError as error:
        assert str(error)
        return False
    return True


@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(whole), st.builds(whole, st.binary(), st.binary()))
)
def test_any_bytes_get_a_verdict(path, data):
    is_whole(path, data)
    looks_like(data)


@given(broken(HEADER))
def test_any_header_gets_a_verdict(path, header):
    is_whole(path, whole(header))


HUGE = "9" * 4000


@pytest.mark.parametrize(
    "shape",
    [
        f"[{','.join([HUGE] * 3_000)}]",
        f"[{','.join(['2'] * 20_000_00)}]",
        "[" * 100_000,
        f"[{HUGE}9{HUGE}]",
        "[1e999]",
    ],
    ids=["huge numbers", "very many dimensions", "deep", "too long a number", "infinity"],
)
def test_a_header_made_to_keep_the_check_busy_is_refused(path, shape):
    assert not is_whole(path, whole(b'{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,28]}}' % shape.encode()))


@st.composite
def files(draw):
    """A valid file of up to four tensors."""
    header, at = {}, 0
    for number in range(draw(st.integers(0, 4))):
        dtype, width = draw(st.sampled_from([("F32", 4), ("F16", 2), ("U8", 1), ("F8_E4M3", 1), ("NEW", 3)]))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        size = width
        for length in shape:
            size *= length
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    if draw(st.booleans()):
        header["__metadata__"] = {"a": "b"}
    return whole(header, draw(st.binary(min_size=at, max_size=at)))


@given(files())
def test_a_whole_file_is_whole(path, data):
    assert is_whole(path, data)


@given(files(), st.data())
def test_a_file_with_bytes_missing_or_added_at_its_end_is_not_whole(path, data, choice):
    cut = choice.draw(st.integers(0, len(data) - 1))
    assert not is_whole(path, data[:cut])
    assert not is_whole(path, data + b"x" * choice.draw(st.integers(1, 9)))

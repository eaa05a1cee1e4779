"""Input that no job should have: refused by name, before anything costs GPU time."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from tests.support.prompts import image_prompt, node

fault = pytest.mark.fault
LOAD = {"1": node("LoadImage", image="in.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}


def nested(depth: int) -> dict:
    found: dict = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def node_with(value: object) -> dict:
    return {"1": {"class_type": "EmptyImage", "inputs": {"width": value}}}


def file_named(name: str, b64: str = "iVBORw==") -> dict:
    return {"prompt": LOAD, "files": [{"name": name, "b64": b64}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param([image_prompt()], "input", marks=fault("input-not-object")),
        pytest.param({"prompt": "x" * 50_000_000}, "prompt", marks=fault("input-huge")),
        pytest.param({"prompt": nested(100_000)}, "input", marks=fault("input-deep")),
        pytest.param({"prompt": node_with(float("nan"))}, "prompt.1.inputs.width", marks=fault("input-nan")),
        pytest.param({"prompt": node_with("\ud800")}, "prompt.1.inputs.width", marks=fault("input-surrogate")),
        pytest.param(file_named("in.png", "%%%"), "files[0].b64", marks=fault("input-base64")),
        pytest.param(file_named("../../in.png"), "files[0].name", marks=fault("input-path")),
        pytest.param({"action": "dance"}, "action", marks=fault("input-action")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_by_the_name_of_its_field(worker, case, fields, field):
    told = case.meets(worker, fields)
    case.next_job(worker)
    assert told["details"]["field"] == field


@fault("input-symlink")
def test_a_name_through_a_symlink_does_not_leave_the_input_folder(worker, case, tmp_path):
    link = worker.folder / "input" / "link"
    link.symlink_to(tmp_path)
    told = case.meets(worker, file_named("link/in.png"))
    case.next_job(worker)
    assert "leads out of the input folder" in told["error"]
    assert list(tmp_path.iterdir()) == []
    link.unlink()


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that unpacks to ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@fault("input-bomb")
def test_a_small_file_that_unpacks_to_400_million_pixels_fails_its_node_only(worker, case):
    packed = bomb(20_000)
    assert len(packed) < 100_000
    told = case.meets(worker, file_named("in.png", base64.b64encode(packed).decode()))
    case.next_job(worker)
    assert told["details"]["node_id"] == "1"
    assert "decompression bomb" in told["error"]


@fault("input-list")
def test_a_line_that_cannot_be_read_costs_no_request(worker, case):
    asked = len(worker.civitai.requests)
    fields = {"prompt": image_prompt(), "repo_list": [worker.own, "ckpt 12345"]}
    told = case.meets(worker, fields)
    case.next_job(worker)
    assert "line 2" in told["error"].lower()
    assert all("next" in request.path or request.host == "api" for request in worker.civitai.requests[asked:])

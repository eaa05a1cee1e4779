"""Files that come badly: cut, wrong, stalled, without a length, by a link that dies, or under a name that bites."""

from __future__ import annotations

import itertools

import pytest

from tests.support.civitai_server import Canned
from tests.support.prompts import image_prompt, sampler_prompt
from tests.support.safetensors_files import safetensors_bytes

fault = pytest.mark.fault
MiB = 1 << 20
SIZE = 300_000
EXPIRED = Canned(403, b"<Error>Request has expired</Error>", {"Content-Type": "application/xml"})
_numbers = itertools.count()


def new_model(worker, size=SIZE, **faults):
    """A checkpoint that comes badly: its name, its bytes and its line."""
    name = f"transfer{next(_numbers)}.safetensors"
    data = safetensors_bytes(size, name)
    return name, data, worker.add(name, data, "ckpt", **faults)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"send_length": False, "ignore_range": True}, marks=fault("no-length")),
        pytest.param({"cut_after": [0, 100_000, 50_000]}, marks=fault("cut")),
        pytest.param({"wrong_times": 1}, marks=fault("wrong-once")),
        pytest.param({"ignore_range": True, "cut_after": [100_000, 200_000]}, marks=fault("no-ranges")),
        pytest.param({"stall_after": [50_000, 100_000]}, marks=fault("stalls")),
    ],
)
def test_a_file_arrives_whole_in_spite_of_it(worker, case, faults):
    name, data, line = new_model(worker, **faults)
    brings = {f"checkpoints/{name}": data}
    case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line], brings=brings)


@fault("link-expires")
def test_a_link_that_expires_between_two_ranges_is_renewed(worker, case):
    name, data, line = new_model(worker, size=70 * MiB, link_requests=2)
    brings = {f"checkpoints/{name}": data}
    case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line], brings=brings)


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        pytest.param({"cut_after": [0] * 50}, "closed before the file was whole", marks=fault("cut-always")),
        pytest.param({"wrong_times": 2}, "SHA-256", marks=fault("wrong-always")),
        pytest.param({"storage_answers": [EXPIRED] * 9}, "refused its signed link", marks=fault("link-dead")),
        pytest.param({"stall_after": [0] * 20}, "stalled", marks=fault("stalls-always")),
    ],
)
def test_a_file_that_never_arrives_is_an_error_and_leaves_nothing(worker, case, faults, says):
    name, _, line = new_model(worker, **faults)
    told = case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line])
    assert says in told["error"]


@pytest.mark.parametrize(
    ("published", "name"),
    [
        pytest.param("../../escape.safetensors", "escape.safetensors", marks=fault("name-escapes")),
        pytest.param("模型・모델 v1.safetensors", "模型・모델 v1.safetensors", marks=fault("name-cjk")),
    ],
)
def test_a_name_that_bites_ends_inside_its_folder(worker, case, published, name):
    data = safetensors_bytes(SIZE, name)
    line = worker.add(published, data, "ckpt")
    brings = {f"checkpoints/{name}": data}
    case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line], brings=brings)
    assert not list(worker.folder.parent.glob("**/escape.safetensors"))


@fault("name-twice")
def test_two_files_of_one_name_are_both_there(worker, case):
    contents = [safetensors_bytes(SIZE, f"namesake {n}") for n in range(2)]
    lines = [worker.add("namesake.safetensors", data) for data in contents]
    second = f"namesake.{worker.file(lines[1]).id}.safetensors"
    brings = {"loras/namesake.safetensors": contents[0], f"loras/{second}": contents[1]}
    case.runs(worker, prompt=image_prompt(0xABC201), repo_list=[worker.own, *lines], brings=brings)

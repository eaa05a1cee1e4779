"""Workers that come to an end: beyond trust, unable to start, or killed; the next one does the next job."""

from __future__ import annotations

import json
import time

import pytest

from tests.faults.assembled.on_platform import OnPlatform
from tests.support.prompts import image_prompt
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import wait_until

fault = pytest.mark.fault


def misbehaving(**faults) -> dict[str, str]:
    """Faults that are in force from ComfyUI's start on, over its restarts."""
    return {"SIMULATOR_MISBEHAVE": json.dumps(faults)}


@fault("dies-twice")
def test_a_second_death_ends_the_trust_and_another_worker_does_the_next_job(tmp_path, case, closing):
    worker = closing(OnPlatform(tmp_path / "worker", **misbehaving(die={"at": "executing"})))
    first = worker.begin({"prompt": image_prompt(0xABC501)})
    assert worker.answer_of(first)["error_code"] == "COMFYUI_DIED"
    assert not worker.platform.status(first).get("stop_pod")
    wait_until(worker.process.descendants)
    before, processes, started = worker.look(), worker.process.descendants(), time.monotonic()
    second = worker.begin({"prompt": image_prompt(0xABC502)})
    answer = worker.answer_of(second)
    seconds = time.monotonic() - started
    assert worker.platform.status(second)["stop_pod"], "the platform must hear that this worker is not to be trusted"
    seen = worker.ended(processes)
    assert seen.startswith("the worker ended with 1, 0 of its")
    case.saw(worker, before, answer, seconds, seen=seen)
    worker.start(SIMULATOR_MISBEHAVE="{}")
    case.next_job(worker)


@fault("start-fails")
def test_a_start_that_fails_twice_shows_its_last_lines_and_ends_the_worker(tmp_path, case, closing):
    worker = closing(OnPlatform(tmp_path / "worker", **misbehaving(die={"at": "at_start"})))
    before, started = worker.look(), time.monotonic()
    answer = worker.answer({"prompt": image_prompt(0xABC503)})
    seconds = time.monotonic() - started
    last = answer["details"]["comfyui_log"][-1]
    assert last == "ModuleNotFoundError: No module named 'torchsde'"
    assert worker.process.process.wait(20) == 1
    case.saw(worker, before, answer, seconds, seen=f"last line of ComfyUI's log, in the answer: “{last}”")
    worker.start(SIMULATOR_MISBEHAVE="{}")
    case.next_job(worker)


@fault("killed-downloading")
def test_a_worker_killed_at_any_byte_leaves_nothing_wrong_and_the_next_one_finishes(tmp_path, case, closing):
    worker = closing(OnPlatform(tmp_path / "worker"))
    worker.settle()
    data = safetensors_bytes(200_000, "killed")
    line = worker.add("killed.safetensors", data, "ckpt")
    fields = {"prompt": image_prompt(0xABC504), "repo_list": [worker.own, line]}
    told = []
    for byte in (1, len(data) // 2, len(data) - 1):
        before = worker.look()
        worker.file(line).stall_after = [byte]
        worker.begin(fields)
        wait_until(lambda: worker.parts() and storage_sent(worker) == byte)  # noqa: B023 - called in this round only
        worker.kill()
        left = worker.look()
        assert [name for name in left.files if name not in before.files and not name.endswith(".part")] == []
        assert all(left.files[name] == stamp for name, stamp in before.files.items() if not name.endswith(".part"))
        told.append(f"killed at byte {byte:,}: {len(worker.parts())} unfinished file left")
        worker.start()
    before, started = worker.look(), time.monotonic()
    answer = worker.answer(fields)
    brings = {"checkpoints/killed.safetensors": data}
    case.saw(worker, before, answer, time.monotonic() - started, brings=brings, seen="; ".join(told))
    case.next_job(worker)


def storage_sent(worker: OnPlatform) -> int:
    """How much of a file has gone out in the last request for one."""
    return worker.civitai.seen("storage")[-1].sent

"""A download ends early: one of several fails, the job is cancelled, or its time is over."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from tests.faults.downloading import BIG, add, refusal
from tests.support.civitai_server import Canned
from tests.support.model_rig import QUICK, Rig
from worker.errors import Code, WorkerError
from worker.stop import Stop, StoppedError


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
    with pytest.raises(StoppedError):
        rig.source.fetch(downloads, stop, lambda files: None)
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
    with pytest.raises(StoppedError):
        rig.source.fetch(downloads, stop, lambda files: None)
    assert time.monotonic() - seen[0] < 0.5


def test_the_jobs_deadline_ends_a_download(server, tmp_path):
    rig = Rig(server, tmp_path, retry=replace(QUICK, read_s=30.0))
    text, file = add(server)
    file.stall_after = [1000] * 9
    downloads = rig.downloads(rig.resolve(text))
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        rig.source.fetch(downloads, Stop(time.monotonic() + 0.3), lambda files: None)
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
    with pytest.raises(StoppedError):
        rig.resolve(text, stop)
    assert time.monotonic() - started < 0.8

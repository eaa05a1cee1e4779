"""``python -m endpoint``: its start, its end by signals, and a restart with the jobs of the last run."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.endpoint.support import STALL_1S, all_gone, is_in_progress, stalling_prompt
from tests.support.prompts import image_prompt
from tests.support.runpod_platform import REPO_ROOT, is_running
from tests.support.waiting import wait_until


def test_killed_with_9_and_started_again_no_job_is_lost(start):
    first = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = first.ready()
    done = client.submit({"prompt": image_prompt(5)})
    before = client.wait(done)
    started = client.submit({"prompt": stalling_prompt()})
    waiting = [client.submit({"prompt": image_prompt(color)}) for color in (6, 7)]
    wait_until(lambda: is_in_progress(client, started))
    family = list(first.family())
    assert len(family) >= 4, "the reaper, the worker, its ping process, ComfyUI"
    first.kill()
    wait_until(lambda: all_gone(family), 10)

    second = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = second.ready()
    assert client.status(done) == before
    status = client.wait(started)
    assert (status["status"], status["attempts"]) == ("COMPLETED", 2)
    assert status["note"].startswith("started once without an answer: the endpoint ended while the job ran")
    for job_id in waiting:
        status = client.wait(job_id)
        assert status["status"] == "COMPLETED"
        assert "attempts" not in status


def test_sigterm_lets_the_running_job_finish_and_leaves_no_process(start):
    endpoint = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = endpoint.ready()
    started, waiting = client.submit({"prompt": stalling_prompt()}), client.submit({"prompt": image_prompt(1)})
    wait_until(lambda: is_in_progress(client, started))
    family = list(endpoint.family())
    assert endpoint.terminate() == 0
    assert all_gone(family)
    client = start(SIMULATOR_MISBEHAVE=STALL_1S).ready()
    status = client.status(started)
    assert status["status"] == "COMPLETED"
    assert "attempts" not in status
    assert client.wait(waiting)["status"] == "COMPLETED"


def test_a_key_of_its_own_is_shown_once_and_kept(start, tmp_path):
    first = start(key=None)
    client = first.ready()
    assert client.health()["workers"]["ready"] == 1
    shown = re.search(r"key \(shown this once.*\): (local_[0-9a-f]{48})\n", first.out)
    assert shown[1] == client.key
    assert (tmp_path / "data" / "api_key").stat().st_mode & 0o777 == 0o600
    assert first.terminate() == 0
    second = start(key=None)
    assert second.ready().health()
    for text in (first.log, second.log, second.out):
        assert client.key not in text
    assert not is_running(first.process.pid)


def test_a_start_that_fails_says_why(live):
    port = live.url.split(":")[2].split("/")[0]
    argv = [sys.executable, "-m", "endpoint", "--data-dir", str(live.data_dir), "--port", "0"]
    said = subprocess.run(argv, check=False, cwd=REPO_ROOT, capture_output=True, text=True, timeout=30)
    assert (said.returncode, said.stderr.count("in use by another endpoint")) == (1, 1)
    argv[4] = str(live.data_dir / "other")
    said = subprocess.run([*argv[:-1], port], check=False, cwd=REPO_ROOT, capture_output=True, text=True, timeout=30)
    assert (said.returncode, said.stderr.count("address already in use")) == (1, 1)

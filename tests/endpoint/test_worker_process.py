"""Worker processes: killed, replaced, ended with all their children, and the environment that leads the SDK here."""

from __future__ import annotations

import json
import os
import signal

from tests.endpoint.support import STALL_1S, all_gone, is_in_progress, stalling_prompt
from tests.support.prompts import image_prompt
from tests.support.waiting import wait_until


def test_a_worker_killed_with_9_is_replaced_and_its_job_started_again(start):
    endpoint = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = endpoint.ready()
    job_id = client.submit({"prompt": stalling_prompt()})
    wait_until(lambda: is_in_progress(client, job_id))
    old = {pid: command for pid, command in endpoint.family().items() if "reaper.py" not in command}
    os.kill(next(iter(old)), signal.SIGKILL)
    status = client.wait(job_id)
    assert (status["status"], status["attempts"]) == ("COMPLETED", 2)
    assert "killed by SIGKILL" in status["note"]
    assert all_gone(old), "the ping process and ComfyUI went with it"

    reaper = endpoint.pid_of("reaper.py")
    family = list(endpoint.family())
    os.kill(reaper, signal.SIGKILL)
    wait_until(lambda: all_gone(family), 10)
    assert client.wait(client.submit({"prompt": image_prompt(8)}))["status"] == "COMPLETED"


def test_a_worker_beyond_trust_is_replaced(start, tmp_path):
    endpoint = start(SIMULATOR_MISBEHAVE=json.dumps({"die": {"at": "executing", "count": 2}}),
                     SIMULATOR_MISBEHAVE_STATE=str(tmp_path / "state"))  # fmt: skip
    client = endpoint.ready()
    first, second, third = (client.wait(client.submit({"prompt": image_prompt(color)})) for color in (1, 2, 3))
    assert first["error"].startswith("COMFYUI_DIED")
    assert second["error"].startswith("COMFYUI_DIED")
    assert (first["status"], second["status"], third["status"]) == ("FAILED", "FAILED", "COMPLETED")
    assert first["workerId"] == second["workerId"] != third["workerId"]


def test_a_key_in_the_sdks_own_configuration_does_not_lock_the_worker_out(start, tmp_path):
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "of-the-users-account"\n')
    client = start("--workers", "2", HOME=str(tmp_path), SIMULATOR_MISBEHAVE=STALL_1S).ready()
    wait_until(lambda: client.health()["workers"]["ready"] == 2)
    jobs = [client.submit({"prompt": stalling_prompt(color)}) for color in (1, 2)]
    workers = {client.wait(job_id)["workerId"] for job_id in jobs}
    assert {worker.partition("-")[0] for worker in workers} == {"worker1", "worker2"}

"""``python -m endpoint`` with the real worker under the real SDK on the simulator, and whatever may kill it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runpod
import websocket

from endpoint.options import parse_options
from tests.endpoint.support import (
    KEY,
    Client,
    EndpointProcess,
    all_gone,
    long_prompt,
    stalling_prompt,
)
from tests.support.prompts import image_prompt
from tests.support.runpod_platform import REPO_ROOT, is_running
from tests.support.waiting import wait_until

STALL_1S = json.dumps({"stall": {"s": 1, "class": "ImageInvert"}})


@pytest.fixture
def client(live):
    return Client(live.url)


@pytest.fixture
def start(tmp_path):
    """Start endpoints on one data folder; ended with everything of them after the test."""
    started = []

    def start_one(*args, **env) -> EndpointProcess:
        started.append(EndpointProcess(tmp_path, *args, name=f"endpoint{len(started)}", **env))
        return started[-1]

    yield start_one
    for endpoint in started:
        endpoint.kill()


def running(client, job_id) -> bool:
    status = client.status(job_id)
    assert status["status"] in ("IN_QUEUE", "IN_PROGRESS")
    return status["status"] == "IN_PROGRESS"


def test_a_picture_through_every_layer(client):
    status = client.wait(client.submit({"prompt": image_prompt(1)}))
    assert status["status"] == "COMPLETED"
    assert base64.b64decode(status["output"]["images"][0]["b64"]).startswith(b"\x89PNG")
    assert status["workerId"].startswith("worker1-")
    assert {"id", "delayTime", "executionTime"} < set(status)


def test_an_error_through_every_layer(client):
    answer = client.ask("POST", "/runsync", json={"input": {"prompt": {}, "colour": 1}})
    assert (answer["status"], answer["output"]["error_code"]) == ("FAILED", "INVALID_INPUT")
    assert answer["error"].startswith("INVALID_INPUT: `colour`")


def test_cancel_stops_comfyui_and_the_next_job_works(client):
    job_id = client.submit({"prompt": long_prompt()})
    wait_until(lambda: running(client, job_id))
    client.ask("POST", f"/cancel/{job_id}")
    assert client.wait(client.submit({"prompt": image_prompt(2)}), timeout_s=10)["status"] == "COMPLETED"
    assert client.status(job_id)["status"] == "CANCELLED"


def test_the_sdks_own_client(live, monkeypatch):
    monkeypatch.setattr(runpod, "endpoint_url_base", live.url.rpartition("/")[0])
    endpoint = runpod.Endpoint("live", api_key=KEY)
    with endpoint.rp_client.rp_session:
        job = endpoint.run({"input": {"prompt": image_prompt(3)}})
        assert job.output(timeout=20)["images"]
        assert job.status() == "COMPLETED"
        assert endpoint.run_sync({"input": {"action": "inspect"}}, timeout=20)["simulator"]
        assert endpoint.health()["workers"]["idle"] == 1
        cancelled = endpoint.run({"input": {"prompt": long_prompt()}})
        assert cancelled.cancel()["status"] == "CANCELLED"
        assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}


def test_events_from_the_real_worker(client):
    job_id = client.submit({"prompt": image_prompt(4)})
    socket = websocket.create_connection(
        f"ws{client.url[4:]}/events/{job_id}", header=[f"Authorization: Bearer {KEY}"], timeout=20
    )
    seen = [json.loads(socket.recv())]
    while seen[-1]["status"] in ("IN_QUEUE", "IN_PROGRESS"):
        seen.append(json.loads(socket.recv()))
    socket.shutdown()
    order = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    places = [order.index(frame["status"]) for frame in seen]
    assert places == sorted(places)
    assert seen[-1] == client.status(job_id)


def test_the_key_is_nowhere_but_where_it_belongs(live, client):
    client.call("GET", "/health", headers={"Authorization": "Bearer wrong"})
    assert KEY not in live.log
    assert KEY not in live.out
    for pid, command in live.family().items():
        assert KEY not in command
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), command
    assert not (live.data_dir / "api_key").exists()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v2/live\n", live.out)


def test_killed_with_9_and_started_again_no_job_is_lost(start):
    first = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = first.ready()
    done = client.submit({"prompt": image_prompt(5)})
    before = client.wait(done)
    started = client.submit({"prompt": stalling_prompt()})
    waiting = [client.submit({"prompt": image_prompt(color)}) for color in (6, 7)]
    wait_until(lambda: running(client, started))
    family = list(first.family())
    assert len(family) >= 4, "the guard, the worker, its ping process, ComfyUI"
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


def test_a_worker_killed_with_9_is_replaced_and_its_job_started_again(start):
    endpoint = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = endpoint.ready()
    job_id = client.submit({"prompt": stalling_prompt()})
    wait_until(lambda: running(client, job_id))
    old = {pid: command for pid, command in endpoint.family().items() if "guard.py" not in command}
    os.kill(next(iter(old)), signal.SIGKILL)
    status = client.wait(job_id)
    assert (status["status"], status["attempts"]) == ("COMPLETED", 2)
    assert "killed by SIGKILL" in status["note"]
    assert all_gone(old), "the ping process and ComfyUI went with it"

    guard = endpoint.pid_of("guard.py")
    family = list(endpoint.family())
    os.kill(guard, signal.SIGKILL)
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


def test_sigterm_lets_the_running_job_finish_and_leaves_no_process(start):
    endpoint = start(SIMULATOR_MISBEHAVE=STALL_1S)
    client = endpoint.ready()
    started, waiting = client.submit({"prompt": stalling_prompt()}), client.submit({"prompt": image_prompt(1)})
    wait_until(lambda: running(client, started))
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


def test_help_says_that_it_is_for_one_machine(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    assert "It is for one machine" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--id", "a/b"], ["--port", "70000"], ["--workers", "0"], ["--max-attempts", "x"]])
def test_a_bad_command_line_is_refused(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(argv)
    assert argv[0] in capsys.readouterr().err


def test_a_key_in_the_sdks_own_configuration_does_not_lock_the_worker_out(start, tmp_path):
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "of-the-users-account"\n')
    client = start("--workers", "2", HOME=str(tmp_path), SIMULATOR_MISBEHAVE=STALL_1S).ready()
    wait_until(lambda: client.health()["workers"]["ready"] == 2)
    jobs = [client.submit({"prompt": stalling_prompt(color)}) for color in (1, 2)]
    workers = {client.wait(job_id)["workerId"] for job_id in jobs}
    assert {worker.partition("-")[0] for worker in workers} == {"worker1", "worker2"}

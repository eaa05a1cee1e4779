"""The progress in a tab while a real worker works, and its delay: by websocket, and by polling as at RunPod.

The worker's ComfyUI notes when it says something, in a custom node; the tab's websocket notes when it hears it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time

import pytest

from tests.client.conftest import PROMPT
from tests.endpoint.support import EndpointProcess, simulator_env
from tests.support.runpod_platform import CLIENT_KEY, RunPodPlatform, WorkerProcess
from tests.support.simulator_process import Client

STEPS, STEP_MS = 20, 600  # a step longer than the pause between two updates, so that each one can be told
WITHIN_S = 1.0
BUSY_S = 5.0
"""A single step may take so long where other tests take the machine."""
FIRST, SECOND = "3", "13"
CLOCK = """
import json
import time
from pathlib import Path

from server import PromptServer

NODE_CLASS_MAPPINGS = {}
said, server = Path(__file__).with_name("said.jsonl"), PromptServer.instance
own = server.send_sync

def send_sync(event, data, sid=None):
    if event == "progress_state":
        with said.open("a") as file:
            file.write(json.dumps([time.time(), data["nodes"]]) + "\\n")
    own(event, data, sid)

server.send_sync = send_sync
"""


def two_samplers():
    """Two of them in a row; the first one's picture is saved while the second runs."""
    first, second = PROMPT[FIRST], dict(PROMPT[FIRST]["inputs"], latent_image=[FIRST, 0], seed=2, steps=6)
    more = {
        FIRST: {**first, "inputs": {**first["inputs"], "steps": STEPS}},
        SECOND: {**first, "inputs": second},
        "18": {**PROMPT["8"], "inputs": {"samples": [SECOND, 0], "vae": ["4", 2]}},
        "19": {**PROMPT["9"], "inputs": {"images": ["18", 0], "filename_prefix": "second"}},
    }
    return {**{node_id: node for node_id, node in PROMPT.items() if node_id != "10"}, **more}


@contextlib.contextmanager
def pushing(base):
    """An endpoint of one's own, which has a websocket for events."""
    with EndpointProcess(base, key=CLIENT_KEY, SIMULATOR_STEP_MS=str(STEP_MS)) as process:
        yield process.ready().url
        process.terminate()


@contextlib.contextmanager
def asked(base):
    """RunPod's likeness, which has none."""
    env = simulator_env(base / "comfyui", SIMULATOR_STEP_MS=str(STEP_MS))
    with RunPodPlatform() as platform, WorkerProcess(platform, base / "worker.log", **env):
        yield platform.base


class Tab(Client):
    """A page that notes when it heard what."""

    def __init__(self, engine):
        super().__init__(engine)
        self.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self.heard = []

    def receive(self):
        frame = super().receive()
        self.heard.append((time.time(), frame))
        return frame

    def places(self, wanted):
        """Return the positions of matching frames."""
        return [number for number, (_, frame) in enumerate(self.heard) if wanted(frame)]

    def steps(self, node_id):
        """When it saw which step of a node."""
        states = (
            (at, frame["data"]["nodes"].get(node_id)) for at, frame in self.heard if is_a("progress_state", frame)
        )
        return [(at, state["value"]) for at, state in states if state]


def is_a(kind, frame):
    return not isinstance(frame, bytes) and frame["type"] == kind


def preview_of(frame):
    """The node that a preview is of; previews come as kind 4: the length of the metadata, metadata, picture."""
    if not isinstance(frame, bytes) or frame[:4] != b"\0\0\0\4":
        return None
    return json.loads(frame[8 : 8 + int.from_bytes(frame[4:8], "big")])["node_id"]


def executed(node_id, kind):
    def is_it(frame):
        data = frame["data"] if is_a("executed", frame) else {}
        return data.get("node") == node_id and data["output"]["images"][0]["type"] == kind

    return is_it


@pytest.mark.parametrize("endpoint_of", [pushing, asked])
def test_each_step_is_seen_within_a_second_and_the_first_picture_while_the_second_sampler_runs(
    local, tmp_path, endpoint_of
):
    said = tmp_path / "comfyui" / "custom_nodes" / "said.jsonl"
    said.parent.mkdir(parents=True)
    said.with_name("clock.py").write_text(CLOCK)
    with endpoint_of(tmp_path) as base, Tab(local.comfy.engine) as tab:
        local.post("/remote/config", {"endpoint": base, "api_key": CLIENT_KEY, "previews": True})
        answer = local.run(two_samplers(), tab.id)
        assert answer.ok, answer.text
        tab.until(lambda frame: is_a("execution_success", frame))
        local.post("/remote/config", {"previews": False})

    steps = [value for _, value in tab.steps(FIRST)]
    assert steps == sorted(steps) and steps[-1] == STEPS
    assert len(set(steps)) > STEPS * 3 / 4, "a machine under load may tell two steps as one"
    (start,) = tab.places(lambda frame: is_a("execution_start", frame))
    previews = tab.places(lambda frame: preview_of(frame) == FIRST)
    (early,) = tab.places(executed("9", "temp"))
    second = tab.places(lambda frame: is_a("progress", frame) and frame["data"]["node"] == SECOND)
    (final,) = tab.places(executed("9", "output"))
    (last,) = tab.places(executed("19", "output"))
    assert start < previews[0] and len(previews) >= STEPS / 2
    assert previews[-1] < early < second[-1] < final < last < len(tab.heard) - 1
    late = lateness(said, tab)
    assert statistics.median(late) < WITHIN_S
    assert max(late) < BUSY_S


def lateness(said, tab):
    """For each step, how long after ComfyUI said it the tab showed it, or a later one. Seconds, one machine's clock."""
    shown = {node_id: tab.steps(node_id) for node_id in (FIRST, SECOND)}
    seen, late = set(), []
    for at, nodes in map(json.loads, said.read_text().splitlines()):
        for node_id in shown.keys() & nodes.keys():
            step = (node_id, nodes[node_id]["value"])
            if nodes[node_id]["state"] == "running" and step not in seen:
                seen.add(step)
                late.append(next(when for when, value in shown[node_id] if value >= step[1]) - at)
    assert len(seen) >= STEPS
    return late

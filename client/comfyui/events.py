"""A remote job told in ComfyUI's own events. One is in front per tab: two at once would wipe each other's outlines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..jobs import RUNNING, Job
from ..runpod.status import Failure


class Voice(Protocol):
    """The part of the host that events need."""

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        """Say something to a tab."""

    def runs_locally(self, client_id: str) -> bool:
        """Whether a tab watches a local run."""


@dataclass
class View:
    """What a tab should see of one job."""

    job: Job
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    early: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per node, small pictures of what it has saved."""
    current: str = ""

    def set(self, node_id: str, value: float, maximum: float, state: str) -> None:
        """Note a node's progress."""
        names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
        more = {"prompt_id": self.job.prompt_id, "parent_node_id": None}
        self.nodes[node_id] = {"value": value, "max": maximum, "state": state, **names, **more}


class Stage:
    """All jobs that are not over, and for each tab the one in front."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._views: dict[str, View] = {}
        self._front: dict[str, str | None] = {}
        self._lost_sight: set[str] = set()

    def enter(self, job: Job) -> None:
        """A job begins, or is picked up again."""
        self._views[job.prompt_id] = View(job)
        self.settle(job.client_id)

    def seen(self, job: Job, whether: bool) -> None:
        """Whether the endpoint still tells of a job: one that it does not may not stand before one that runs."""
        if (job.prompt_id in self._lost_sight) == whether:
            (self._lost_sight.discard if whether else self._lost_sight.add)(job.prompt_id)
            self.settle(job.client_id)

    def running(self, job: Job, node_id: str, step: float, steps: float, done: tuple[str, ...] = ()) -> None:
        """An estimate, or a worker that tells only node and step."""
        view = self._views[job.prompt_id]
        before = view.current
        for other in {*done, *((before,) if before and before != node_id else ())}:
            known = view.nodes.get(other, {"max": 1})
            view.set(other, known["max"], known["max"], "finished")
        view.set(node_id, step, max(steps, 1), "running")
        self._show(view, node_id)

    def nodes(self, job: Job, changed: dict[str, Any]) -> None:
        """The worker's own ``progress_state``: the nodes that changed since it last spoke."""
        view = self._views[job.prompt_id]
        current = view.current
        for node_id, told in changed.items():
            if isinstance(told, dict) and told.get("state") in ("running", "finished", "error", "pending"):
                value, maximum = _number(told.get("value"), 0), _number(told.get("max"), 1)
                view.set(str(node_id), value, maximum, told["state"])
                current = str(node_id) if told["state"] == "running" else current
        self._show(view, current)

    def early(self, job: Job, node_id: str, output: dict[str, Any]) -> None:
        """A node has saved pictures, and these stand for them until the job's end."""
        view = self._views[job.prompt_id]
        view.early[node_id] = output
        if not self.settle(job.client_id) and self._front.get(job.client_id) == job.prompt_id:
            self._executed(job, node_id, output)
            self._progress(view, False)  # the frontend paints no picture before something else moves

    def _show(self, view: View, current: str) -> None:
        sid = view.job.client_id
        changed = current != view.current
        view.current = current
        if self.settle(sid) or self._front.get(sid) != view.job.prompt_id:
            return
        self._progress(view, changed)

    def settle(self, sid: str) -> bool:
        """Choose the tab's front job anew; whether another one came to the front and was shown whole."""
        front = self._choose(sid)
        if front == self._front.get(sid):
            return False
        self._front[sid] = front
        if front is None:
            return False
        self.show(sid)
        return True

    def _choose(self, sid: str) -> str | None:
        """The job that is seen to run, the oldest first; none while the tab watches a local run."""
        jobs = [view.job for view in self._views.values() if view.job.client_id == sid]
        if not jobs or self._voice.runs_locally(sid):
            return None
        held = self._front.get(sid)
        lost = self._lost_sight
        return min(
            jobs, key=lambda job: (job.prompt_id in lost, job.state != RUNNING, job.prompt_id != held, job.number)
        ).prompt_id

    def show(self, sid: str) -> None:
        """Tell a tab all about its front job: a job came to the front, or the page was loaded again."""
        view = self._views.get(self._front.get(sid) or "")
        if view is None:
            return
        about = {"prompt_id": view.job.prompt_id, "timestamp": int(time.time() * 1000)}
        self._say(view, "execution_start", about)
        self._say(view, "execution_cached", {**about, "nodes": []})
        for node_id, output in view.early.items():
            self._executed(view.job, node_id, output)
        if view.nodes:
            self._progress(view, True)

    def _progress(self, view: View, changed: bool) -> None:
        prompt_id, node_id = view.job.prompt_id, view.current
        if changed and node_id:
            self._say(view, "executing", {"node": node_id, "display_node": node_id, "prompt_id": prompt_id})
        self._say(view, "progress_state", {"prompt_id": prompt_id, "nodes": dict(view.nodes)})
        node = view.nodes.get(node_id)
        if node and node["state"] == "running":
            self._say(
                view, "progress", {"value": node["value"], "max": node["max"], "prompt_id": prompt_id, "node": node_id}
            )

    # -- ends --

    def succeed(self, job: Job, ran: list[str]) -> None:
        """Pictures into their nodes, every node finished, and the next job to the front."""
        view = self._views.pop(job.prompt_id, None) or View(job)
        for node_id in ran:
            view.set(node_id, *(view.nodes.get(node_id, {}).get("max", 1),) * 2, "finished")
        self.executed(job)
        self._say(view, "progress_state", {"prompt_id": job.prompt_id, "nodes": view.nodes})
        self._end(view, "execution_success", {})

    def executed(self, job: Job) -> None:
        """The pictures of each node."""
        for node_id, output in job.outputs.items():
            self._executed(job, node_id, output)

    def _executed(self, job: Job, node_id: str, output: dict[str, Any]) -> None:
        about = {"node": node_id, "display_node": node_id, "prompt_id": job.prompt_id}
        self._say(View(job), "executed", {**about, "output": output})

    def fail(self, job: Job, failure: Failure) -> None:
        """The node to blame turns red in ComfyUI's own way; its panel shows the message."""
        view = self._views.pop(job.prompt_id, None) or View(job)
        node_id = failure.node_id or view.current or None
        if node_id:
            view.set(node_id, 0, 1, "error")
        blamed = job.request.prompt.get(failure.node_id, {})
        self._say(view, "progress_state", {"prompt_id": job.prompt_id, "nodes": _only_errors(view.nodes)})
        self._end(
            view,
            "execution_error",
            {
                "node_id": node_id,
                "node_type": failure.class_type or blamed.get("class_type") or "Remote",
                "executed": [],
                "exception_message": failure.message,
                "exception_type": f"Remote: {failure.code}" if failure.code else "Remote",
                "traceback": failure.trace,
                "current_inputs": {},
                "current_outputs": [],
            },
        )

    def interrupt(self, job: Job) -> None:
        """A cancelled job: quiet."""
        view = self._views.pop(job.prompt_id, None) or View(job)
        node = job.request.prompt.get(view.current, {})
        self._say(view, "progress_state", {"prompt_id": job.prompt_id, "nodes": {}})
        about = {"node_id": view.current, "node_type": node.get("class_type", ""), "executed": []}
        self._end(view, "execution_interrupted", about)

    def _end(self, view: View, event: str, more: dict[str, Any]) -> None:
        sid, prompt_id = view.job.client_id, view.job.prompt_id
        self._say(view, event, {"prompt_id": prompt_id, "timestamp": int(time.time() * 1000), **more})
        self._say(view, "executing", {"node": None, "prompt_id": prompt_id})
        self._lost_sight.discard(prompt_id)
        self._front.pop(sid, None)  # the page has just forgotten every job's outlines, whichever was in front
        self.settle(sid)

    def _say(self, view: View, event: str, data: dict[str, Any]) -> None:
        self._voice.send(event, data, view.job.client_id)


def _only_errors(nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Old frontends leave a node green for ever that is never said to have ended."""
    return {
        node_id: node if node["state"] != "running" else {**node, "state": "finished"}
        for node_id, node in nodes.items()
    }


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise

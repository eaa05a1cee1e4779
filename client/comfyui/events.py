"""ComfyUI's own events for remote jobs. Each tab shows one job at a time: two would overwrite each other's outlines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..jobs import RUNNING, RemoteJob
from ..runpod.status import Failure


class EventSink(Protocol):
    """The part of the local ComfyUI that events need."""

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        """Send an event to a tab."""

    def runs_locally(self, client_id: str) -> bool:
        """Return True while the tab shows a local run."""


@dataclass
class NodeProgress:
    """The state of one job's nodes, as its tab should show it."""

    job: RemoteJob
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    early_outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per node, small previews of the pictures it has saved."""
    current: str = ""

    def set(self, node_id: str, value: float, maximum: float, state: str) -> None:
        """Record a node's progress."""
        names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
        more = {"prompt_id": self.job.prompt_id, "parent_node_id": None}
        self.nodes[node_id] = {"value": value, "max": maximum, "state": state, **names, **more}


class TabEvents:
    """Sends the events of all jobs that are not over. Each tab gets those of its front job."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._jobs: dict[str, NodeProgress] = {}
        self._front: dict[str, str | None] = {}
        self._unreachable: set[str] = set()

    def add(self, job: RemoteJob) -> None:
        """Add a job that begins or is followed again."""
        self._jobs[job.prompt_id] = NodeProgress(job)
        self.refresh_front(job.client_id)

    def set_reachable(self, job: RemoteJob, reachable: bool) -> None:
        """Record whether the endpoint answers for a job: an unreachable one may not hide one that runs."""
        if (job.prompt_id in self._unreachable) == reachable:
            (self._unreachable.discard if reachable else self._unreachable.add)(job.prompt_id)
            self.refresh_front(job.client_id)

    def update_step(self, job: RemoteJob, node_id: str, step: float, steps: float, done: tuple[str, ...] = ()) -> None:
        """Show a node and its step, from an estimate or a worker that sends only those."""
        progress = self._jobs[job.prompt_id]
        before = progress.current
        for other in {*done, *((before,) if before and before != node_id else ())}:
            known = progress.nodes.get(other, {"max": 1})
            progress.set(other, known["max"], known["max"], "finished")
        progress.set(node_id, step, max(steps, 1), "running")
        self._show(progress, node_id)

    def update_nodes(self, job: RemoteJob, changed: dict[str, Any]) -> None:
        """Show the nodes that changed in the worker's own ``progress_state`` since its last update."""
        progress = self._jobs[job.prompt_id]
        current = progress.current
        for node_id, node in changed.items():
            if isinstance(node, dict) and node.get("state") in ("running", "finished", "error", "pending"):
                value, maximum = _number(node.get("value"), 0), _number(node.get("max"), 1)
                progress.set(str(node_id), value, maximum, node["state"])
                current = str(node_id) if node["state"] == "running" else current
        self._show(progress, current)

    def early_output(self, job: RemoteJob, node_id: str, output: dict[str, Any]) -> None:
        """Show previews of the pictures that a node has saved, until the job ends."""
        progress = self._jobs[job.prompt_id]
        progress.early_outputs[node_id] = output
        if not self.refresh_front(job.client_id) and self._front.get(job.client_id) == job.prompt_id:
            self._send_output(job, node_id, output)
            self._send_progress(progress, False)  # the frontend draws the picture only at its next progress event

    def _show(self, progress: NodeProgress, current: str) -> None:
        sid, changed = progress.job.client_id, current != progress.current
        progress.current = current
        if not self.refresh_front(sid) and self._front.get(sid) == progress.job.prompt_id:
            self._send_progress(progress, changed)

    def refresh_front(self, sid: str) -> bool:
        """Choose the tab's front job again. Return True if it changed to another job, which was then replayed."""
        front = self._choose_front(sid)
        if front == self._front.get(sid):
            return False
        self._front[sid] = front
        if front is None:
            return False
        self.replay(sid)
        return True

    def _choose_front(self, sid: str) -> str | None:
        """Return the oldest job that is reachable and runs; None while the tab shows a local run."""
        jobs = [progress.job for progress in self._jobs.values() if progress.job.client_id == sid]
        if not jobs or self._sink.runs_locally(sid):
            return None
        front, lost = self._front.get(sid), self._unreachable
        return min(
            jobs, key=lambda job: (job.prompt_id in lost, job.state != RUNNING, job.prompt_id != front, job.number)
        ).prompt_id

    def replay(self, sid: str) -> None:
        """Send a tab everything about its front job: the job is new to the front, or the page was reloaded."""
        progress = self._jobs.get(self._front.get(sid) or "")
        if progress is None:
            return
        about = {"prompt_id": progress.job.prompt_id, "timestamp": int(time.time() * 1000)}
        self._send(progress, "execution_start", about)
        self._send(progress, "execution_cached", {**about, "nodes": []})
        for node_id, output in progress.early_outputs.items():
            self._send_output(progress.job, node_id, output)
        if progress.nodes:
            self._send_progress(progress, True)

    def _send_progress(self, progress: NodeProgress, changed: bool) -> None:
        prompt_id, node_id = progress.job.prompt_id, progress.current
        if changed and node_id:
            self._send(progress, "executing", {"node": node_id, "display_node": node_id, "prompt_id": prompt_id})
        self._send(progress, "progress_state", {"prompt_id": prompt_id, "nodes": dict(progress.nodes)})
        node = progress.nodes.get(node_id)
        if node and node["state"] == "running":
            step = {"value": node["value"], "max": node["max"], "prompt_id": prompt_id, "node": node_id}
            self._send(progress, "progress", step)

    # -- ends --

    def succeed(self, job: RemoteJob, ran: list[str]) -> None:
        """Send the outputs, mark every node finished, and bring the next job to the front."""
        progress = self._jobs.pop(job.prompt_id, None) or NodeProgress(job)
        for node_id in ran:
            progress.set(node_id, *(progress.nodes.get(node_id, {}).get("max", 1),) * 2, "finished")
        self.send_outputs(job)
        self._end(progress, progress.nodes, "execution_success", {})

    def send_outputs(self, job: RemoteJob) -> None:
        """Send the output of each node."""
        for node_id, output in job.outputs.items():
            self._send_output(job, node_id, output)

    def _send_output(self, job: RemoteJob, node_id: str, output: dict[str, Any]) -> None:
        about = {"node": node_id, "display_node": node_id, "prompt_id": job.prompt_id}
        self._send(NodeProgress(job), "executed", {**about, "output": output})

    def fail(self, job: RemoteJob, failure: Failure) -> None:
        """Send the error: ComfyUI turns the failed node red and shows the message in its panel."""
        progress = self._jobs.pop(job.prompt_id, None) or NodeProgress(job)
        node_id = failure.node_id or progress.current or None
        if node_id:
            progress.set(node_id, 0, 1, "error")
        failed_node = job.request.prompt.get(failure.node_id, {})
        names_code = not failure.code or failure.message.startswith(failure.code)  # as the worker's messages do
        error: dict[str, Any] = {
            "node_id": node_id,
            "node_type": failure.class_type or failed_node.get("class_type") or "Remote",
            "executed": [],
            "exception_message": failure.message,
            "exception_type": "Remote" if names_code else f"Remote: {failure.code}",
            "traceback": failure.trace,
            "current_inputs": {},
            "current_outputs": [],
        }
        self._end(progress, _only_errors(progress.nodes), "execution_error", error)

    def interrupt(self, job: RemoteJob) -> None:
        """Send the end of a cancelled job, which shows no error."""
        progress = self._jobs.pop(job.prompt_id, None) or NodeProgress(job)
        node = job.request.prompt.get(progress.current, {})
        about = {"node_id": progress.current, "node_type": node.get("class_type", ""), "executed": []}
        self._end(progress, {}, "execution_interrupted", about)

    def _end(self, progress: NodeProgress, nodes: dict[str, Any], event: str, more: dict[str, Any]) -> None:
        sid, prompt_id = progress.job.client_id, progress.job.prompt_id
        self._send(progress, "progress_state", {"prompt_id": prompt_id, "nodes": nodes})
        self._send(progress, event, {"prompt_id": prompt_id, "timestamp": int(time.time() * 1000), **more})
        self._send(progress, "executing", {"node": None, "prompt_id": prompt_id})
        self._unreachable.discard(prompt_id)
        self._front.pop(sid, None)  # the page has just cleared every job's outlines, whichever was in front
        self.refresh_front(sid)

    def _send(self, progress: NodeProgress, event: str, data: dict[str, Any]) -> None:
        self._sink.send(event, data, progress.job.client_id)


def _only_errors(nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the nodes with none running: old frontends leave such a node green for ever."""
    return {
        node_id: node if node["state"] != "running" else {**node, "state": "finished"}
        for node_id, node in nodes.items()
    }


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise

"""The state of one prompt in ComfyUI: its id, and what ComfyUI's events have reported of it so far."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from worker.comfyui.api import SOCKET_OPEN, Event
from worker.comfyui.progress import JobProgress
from worker.comfyui.thumbnails import Thumbnails

FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class PromptRun:
    """One submission of a prompt. Events arrive in the event loop; the code that follows it waits for ``changed``."""

    deadline: float
    """``time.monotonic()`` value."""
    generation: int
    """Of the ComfyUI it was submitted to."""
    progress: JobProgress | None = None
    thumbnails: Thumbnails | None = None
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when ``/history`` may have more than before."""
    last_event_at: float = field(default_factory=time.monotonic)
    """Of this prompt's own events; those of other prompts do not prove that it goes on."""
    started: bool = False
    missed_events: bool = False
    """The socket was down for a while, so that an event not seen proves nothing."""
    process_exited: bool = False
    dequeued: bool = False
    """ComfyUI has taken the prompt off its queue; by then, unlike at the final event, its history is written."""
    outputs: dict[str, Any] = field(default_factory=dict)
    final_event: Event | None = None
    content_key: str = ""
    """Names the texts that its files carry (:mod:`worker.comfyui.cached_files`)."""
    cached: frozenset[str] = frozenset()
    """Nodes that ComfyUI took from an earlier prompt; every node where its history does not name them."""
    rerun_nodes: frozenset[str] = frozenset()
    """Nodes that an added input made run again."""
    cache_event: Event | None = None
    missing_since: float | None = None
    unreachable_since: float | None = None

    @property
    def cached_by_events(self) -> frozenset[str] | None:
        """Nodes that did not run, as the events name them; None without such an event."""
        nodes = self.cache_event["data"].get("nodes") if self.cache_event else None
        return frozenset(map(str, nodes)) if isinstance(nodes, list) else None

    def on_event(self, event: Event) -> None:
        """Record one of ComfyUI's events; those about other prompts are ignored."""
        if event["type"] == SOCKET_OPEN:
            self.missed_events = True
            self.changed.set()
        elif event["data"].get("prompt_id") == self.prompt_id:
            self.last_event_at = time.monotonic()
            self._record(event)

    def on_process_exit(self) -> None:
        """Record that ComfyUI's process has ended."""
        self.process_exited = True
        self.changed.set()

    def begin_rerun(self) -> None:
        """Forget this submission and begin another of the same prompt, under a new id."""
        self.prompt_id, self.last_event_at = str(uuid.uuid4()), time.monotonic()
        self.final_event, self.dequeued, self.outputs, self.cache_event = None, False, {}, None
        self.cached = self.rerun_nodes = frozenset()

    def set_phase(self, phase: str, message: str) -> None:
        """Begin a phase of the job's progress."""
        if self.progress:
            self.progress.set_phase(phase, message)

    def history_from_events(self) -> dict[str, Any]:
        """Return a substitute for the ``/history`` entry, made of the events."""
        assert self.final_event
        success = self.final_event["type"] == "execution_success"
        events = [event for event in (self.cache_event, self.final_event) if event]
        messages = [[event["type"], event["data"]] for event in events]
        status = {"status_str": "success" if success else "error", "completed": success, "messages": messages}
        return {"outputs": self.outputs, "status": status}

    def _record(self, event: Event) -> None:
        self.started = True
        if self.progress:
            self.progress.on_event(event)
        if event["type"] == "executed" and isinstance(event["data"].get("output"), dict):
            self.outputs[str(event["data"].get("node"))] = event["data"]["output"]
            if self.thumbnails:
                self.thumbnails.on_executed(event["data"])
        if event["type"] == "execution_cached":
            self.cache_event = event
        if event["type"] in FINAL_EVENTS:
            self.final_event = event
            self.changed.set()
        if event["type"] == "executing" and event["data"].get("node") is None:
            self.dequeued = True
            self.changed.set()

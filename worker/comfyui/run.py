"""One prompt in ComfyUI as it goes: its id, and what ComfyUI's events have said of it so far."""

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
class Run:
    """One submission of a prompt. Events are heard in the event loop; whoever follows the prompt waits for ``news``."""

    deadline: float
    """``time.monotonic()`` value."""
    generation: int
    """Of the ComfyUI it was submitted to."""
    progress: JobProgress | None = None
    thumbnails: Thumbnails | None = None
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when ``/history`` may know more than before."""
    heard_at: float = field(default_factory=time.monotonic)
    """When the last word about this very prompt came; others' events do not prove that it goes on."""
    begun: bool = False
    blind: bool = False
    """The socket was down for a while, so that an event not seen proves nothing."""
    died: bool = False
    settled: bool = False
    """ComfyUI has let go of the prompt; by then, unlike at the final event, its history is written."""
    outputs: dict[str, Any] = field(default_factory=dict)
    ending: Event | None = None
    author: str = ""
    """Whose texts its files carry (:mod:`worker.comfyui.cached_files`)."""
    cached: frozenset[str] = frozenset()
    """Nodes that ComfyUI took from an earlier prompt; all of them while it does not tell."""
    marked: frozenset[str] = frozenset()
    """Nodes that were made to run anew, by an input that is not the job's."""
    cache_event: Event | None = None
    missing_since: float | None = None
    unreachable_since: float | None = None

    @property
    def heard_cached(self) -> frozenset[str] | None:
        """The nodes that, by the events, did not run; None when that was not heard."""
        nodes = self.cache_event["data"].get("nodes") if self.cache_event else None
        return frozenset(map(str, nodes)) if isinstance(nodes, list) else None

    def hear(self, event: Event) -> None:
        """Take in one of ComfyUI's events, whatever it is about."""
        if event["type"] == SOCKET_OPEN:
            self.blind = True
            self.news.set()
        elif event["data"].get("prompt_id") == self.prompt_id:
            self.heard_at = time.monotonic()
            self._note(event)

    def hear_death(self) -> None:
        """ComfyUI has ended."""
        self.died = True
        self.news.set()

    def begin_anew(self) -> None:
        """Another submission of the same prompt, under an id of its own."""
        self.prompt_id, self.heard_at = str(uuid.uuid4()), time.monotonic()
        self.ending, self.settled, self.outputs, self.cache_event = None, False, {}, None
        self.cached = self.marked = frozenset()

    def tell(self, phase: str, message: str) -> None:
        """Begin a phase of the job's progress."""
        if self.progress:
            self.progress.phase(phase, message)

    def history_from_events(self) -> dict[str, Any]:
        """What ``/history`` would say, when it cannot be had any more."""
        assert self.ending
        success = self.ending["type"] == "execution_success"
        heard = [event for event in (self.cache_event, self.ending) if event]
        messages = [[event["type"], event["data"]] for event in heard]
        status = {"status_str": "success" if success else "error", "completed": success, "messages": messages}
        return {"outputs": self.outputs, "status": status}

    def _note(self, event: Event) -> None:
        self.begun = True
        if self.progress:
            self.progress.event(event)
        if event["type"] == "executed" and isinstance(event["data"].get("output"), dict):
            self.outputs[str(event["data"].get("node"))] = event["data"]["output"]
            if self.thumbnails:
                self.thumbnails.executed(event["data"])
        if event["type"] == "execution_cached":
            self.cache_event = event
        if event["type"] in FINAL_EVENTS:
            self.ending = event
            self.news.set()
        if event["type"] == "executing" and event["data"].get("node") is None:
            self.settled = True
            self.news.set()

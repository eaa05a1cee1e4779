"""What a job has come to so far, as ``/status`` shows it while the job runs. Knows no network; see progress_sender.py.

ComfyUI's events come faster than anybody reads them. They are gathered here; :meth:`JobProgress.take` gives what has
changed since it was last taken.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.comfyui.api import PREVIEW, Event
from worker.sites.types import FileProgress

PREVIEW_LIMIT_BYTES = (
    64 * 1024
)  # a latent preview of 256 pixels has about 10 KB; a larger one would cost more than it shows
THUMBNAILS_LIMIT_CHARS = 4 * PREVIEW_LIMIT_BYTES  # of one update, in base64
THUMBNAIL_TAKES = 2  # a platform shows only the newest update: one who polls might miss what is in just one of them

Update = dict[str, Any]


@dataclass
class _Thumbnail:
    """A picture that waits to be given, and how often it still is."""

    entry: Update
    takes: int = THUMBNAIL_TAKES


class JobProgress:
    """Gathers one job's progress.

    Args:
        prompt: of the job; a sampler's steps weigh in the percentage, other nodes count as one step.
        with_previews: whether the caller asked for pictures in the progress: latent previews, and small ones of images.
        changed: called whenever there is something new to take.
    """

    def __init__(self, prompt: Mapping[str, Any], *, with_previews: bool, changed: Callable[[], None]) -> None:
        self._weights = {str(node_id): _steps_of(node) for node_id, node in prompt.items()}
        self._classes = {str(node_id): str(node.get("class_type")) for node_id, node in prompt.items()}
        self.with_previews = with_previews
        self._changed = changed
        self._now: Update = {}
        self._nodes: dict[str, Any] = {}
        self._new_nodes: dict[str, Any] = {}
        self._executed: dict[str, Any] = {}
        self._thumbnails: list[_Thumbnail] = []
        self._done: set[str] = set()

    def take(self) -> Update:
        """The progress now: of ``nodes`` those that changed since the last call, a preview once, a thumbnail twice."""
        update = {**self._now, "nodes": self._new_nodes} if self._new_nodes else dict(self._now)
        if self._executed:
            update["executed"] = [{"node": node, "output": output} for node, output in self._executed.items()]
        if thumbnails := self._next_thumbnails():
            update["thumbnails"] = thumbnails
        self._new_nodes = {}
        self._now.pop("preview", None)
        return update

    def _next_thumbnails(self) -> list[Update]:
        """As many as one update carries; where more are left, or these once more, there is something new to take."""
        chars, given = 0, list[Update]()
        for waiting in self._thumbnails:
            chars += len(waiting.entry["jpeg_b64"])
            if given and chars > THUMBNAILS_LIMIT_CHARS:
                break
            given.append(waiting.entry)
            waiting.takes -= 1
        self._thumbnails = [waiting for waiting in self._thumbnails if waiting.takes]
        if self._thumbnails:
            self._changed()
        return given

    def phase(self, phase: str, message: str) -> None:
        """A new phase: starting, models, queued, running or collecting."""
        self._now = {"phase": phase, "percent": None, "message": message} | self._kept()
        self._changed()

    def models(self, files: Sequence[FileProgress]) -> None:
        """How far the downloads are. Taken only while no later phase has begun."""
        if not files or self._now.get("phase") not in ("starting", "models"):
            return
        done, total = sum(file.bytes for file in files), sum(file.total or 0 for file in files)
        known = all(file.total for file in files)
        of_total = f" of {total / 1e9:.2f}" if known else ""
        self._now = {
            "phase": "models",
            "percent": round(100 * done / total, 1) if known and total else None,
            "message": f"Fetching {len(files)} model{'s' * (len(files) > 1)}: {done / 1e9:.2f}{of_total} GB",
            "models": [{"name": file.name, "bytes": file.bytes, "total": file.total} for file in files],
        }
        self._changed()

    def event(self, event: Event) -> None:
        """Take in one of ComfyUI's events about this job's prompt."""
        take = _TAKERS.get(event["type"])
        if take:
            take(self, event["data"])
            self._changed()

    def thumbnail(self, node_id: str, index: int, jpeg: bytes) -> None:
        """A small picture of the ``index``-th image that a node has saved."""
        self._thumbnails.append(
            _Thumbnail({"node": node_id, "index": index, "jpeg_b64": base64.b64encode(jpeg).decode()})
        )
        self._changed()

    def _kept(self) -> Update:
        return {key: self._now[key] for key in ("prompt_id",) if key in self._now}

    def _started(self, data: Update) -> None:
        self.phase("running", "ComfyUI has begun")
        self._now.update(prompt_id=data.get("prompt_id"), percent=0.0)

    def _cached(self, data: Update) -> None:
        nodes = data.get("nodes")
        if isinstance(nodes, list):
            self._done.update(str(node) for node in nodes)
        self._now["percent"] = self._percent()

    def _states(self, data: Update) -> None:
        nodes = data.get("nodes")
        for node_id, state in nodes.items() if isinstance(nodes, dict) else ():
            if not isinstance(state, dict):
                continue
            if self._nodes.get(node_id) != state:
                self._nodes[node_id] = self._new_nodes[node_id] = state
            if state.get("state") == "finished":
                self._done.add(str(state.get("real_node_id") or node_id))

    def _executing(self, data: Update) -> None:
        node = data.get("display_node") or data.get("node")
        if node is None:
            return
        for key in ("step", "steps"):
            self._now.pop(key, None)
        self._now.update(node=node, message=self._classes.get(str(node), str(node)), percent=self._percent())

    def _stepped(self, data: Update) -> None:
        node, step, steps = str(data.get("node")), data.get("value"), data.get("max")
        message = f"{self._classes.get(node, node)} {step}/{steps}"
        self._now.update(node=node, step=step, steps=steps, message=message, percent=self._percent())

    def _executed_node(self, data: Update) -> None:
        if isinstance(data.get("output"), dict):
            self._executed[str(data.get("node"))] = data["output"]

    def _previewed(self, data: Update) -> None:
        if self.with_previews and len(data["image"]) <= PREVIEW_LIMIT_BYTES:
            node = data.get("node") or self._now.get("node")
            self._now["preview"] = {"node": node, "jpeg_b64": base64.b64encode(data["image"]).decode()}

    def _percent(self) -> float:
        """Steps done of all steps, the running node's own share included."""
        done = 0.0
        for node_id, weight in self._weights.items():
            state = self._nodes.get(node_id) or {}
            share = 1.0 if node_id in self._done else _share(state.get("value"), state.get("max"))
            done += weight * share
        return round(100 * done / max(1, sum(self._weights.values())), 1)


_TAKERS: dict[str, Callable[[JobProgress, Update], None]] = {
    "execution_start": JobProgress._started,
    "execution_cached": JobProgress._cached,
    "progress_state": JobProgress._states,
    "executing": JobProgress._executing,
    "progress": JobProgress._stepped,
    "executed": JobProgress._executed_node,
    PREVIEW: JobProgress._previewed,
}


def _share(value: Any, most: Any) -> float:
    """How much of a node is done, 0 to 1; 0 where a custom node counts in something else than numbers."""
    try:
        return min(1.0, max(0.0, float(value or 0) / float(most or 1)))
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _steps_of(node: Any) -> int:
    """A node's weight in the percentage: its sampling steps where it has an input of that name."""
    steps = (node.get("inputs") or {}).get("steps") if isinstance(node, dict) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 < steps < 10_000 else 1

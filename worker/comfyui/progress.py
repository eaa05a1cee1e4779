"""A job's progress, as ``/status`` shows it while the job runs. Uses no network; see runpod_sdk/progress_sender.py.

ComfyUI's events come faster than anybody reads them. They are gathered here; :meth:`JobProgress.pop_update` returns the
changes since its last call.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.comfyui.api import PREVIEW, Event
from worker.sites.types import FileProgress

PREVIEW_LIMIT_BYTES = 64 * 1024  # a latent preview of 256 pixels has about 10 KB; larger ones cost more than they show
THUMBNAILS_LIMIT_CHARS = 4 * PREVIEW_LIMIT_BYTES  # of one update, in base64
THUMBNAIL_UPDATES = 2  # a platform shows only the newest update: a caller who polls may miss one of them

Update = dict[str, Any]


@dataclass
class _Thumbnail:
    """A thumbnail, and how many updates will still carry it."""

    entry: Update
    updates_left: int = THUMBNAIL_UPDATES


class JobProgress:
    """Gathers one job's progress.

    Args:
        prompt: of the job; in the percentage a sampler counts as its steps, any other node as one.
        with_previews: the caller asked for latent previews and thumbnails in the progress.
        changed: called on every change.
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

    def pop_update(self) -> Update:
        """Return the progress: the ``nodes`` that changed since the last call, a preview once, a thumbnail twice."""
        update = {**self._now, "nodes": self._new_nodes} if self._new_nodes else dict(self._now)
        if self._executed:
            update["executed"] = [{"node": node, "output": output} for node, output in self._executed.items()]
        if thumbnails := self._next_thumbnails():
            update["thumbnails"] = thumbnails
        self._new_nodes = {}
        self._now.pop("preview", None)
        return update

    def _next_thumbnails(self) -> list[Update]:
        """Return as many as one update carries. If any must be sent later or again, that is a change."""
        chars, given = 0, list[Update]()
        for waiting in self._thumbnails:
            chars += len(waiting.entry["jpeg_b64"])
            if given and chars > THUMBNAILS_LIMIT_CHARS:
                break
            given.append(waiting.entry)
            waiting.updates_left -= 1
        self._thumbnails = [waiting for waiting in self._thumbnails if waiting.updates_left]
        if self._thumbnails:
            self._changed()
        return given

    def set_phase(self, phase: str, message: str) -> None:
        """Begin a phase: starting, models, queued, running or collecting."""
        kept = {key: self._now[key] for key in ("prompt_id",) if key in self._now}
        self._now = {"phase": phase, "percent": None, "message": message} | kept
        self._changed()

    def set_models(self, files: Sequence[FileProgress]) -> None:
        """Set the state of the downloads; ignored once a later phase has begun."""
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

    def on_event(self, event: Event) -> None:
        """Apply one of ComfyUI's events about this job's prompt."""
        handle = _HANDLERS.get(event["type"])
        if handle:
            handle(self, event["data"])
            self._changed()

    def add_thumbnail(self, node_id: str, index: int, jpeg: bytes) -> None:
        """Add the thumbnail of the ``index``-th image that a node has saved."""
        self._thumbnails.append(
            _Thumbnail({"node": node_id, "index": index, "jpeg_b64": base64.b64encode(jpeg).decode()})
        )
        self._changed()

    def _on_start(self, data: Update) -> None:
        self.set_phase("running", "ComfyUI has begun")
        self._now.update(prompt_id=data.get("prompt_id"), percent=0.0)

    def _on_cached(self, data: Update) -> None:
        nodes = data.get("nodes")
        if isinstance(nodes, list):
            self._done.update(str(node) for node in nodes)
        self._now["percent"] = self._percent()

    def _on_states(self, data: Update) -> None:
        nodes = data.get("nodes")
        for node_id, state in nodes.items() if isinstance(nodes, dict) else ():
            if not isinstance(state, dict):
                continue
            if self._nodes.get(node_id) != state:
                self._nodes[node_id] = self._new_nodes[node_id] = state
            if state.get("state") == "finished":
                self._done.add(str(state.get("real_node_id") or node_id))

    def _on_executing(self, data: Update) -> None:
        node = data.get("display_node") or data.get("node")
        if node is None:
            return
        for key in ("step", "steps"):
            self._now.pop(key, None)
        self._now.update(node=node, message=self._classes.get(str(node), str(node)), percent=self._percent())

    def _on_step(self, data: Update) -> None:
        node, step, steps = str(data.get("node")), data.get("value"), data.get("max")
        message = f"{self._classes.get(node, node)} {step}/{steps}"
        self._now.update(node=node, step=step, steps=steps, message=message, percent=self._percent())

    def _on_executed(self, data: Update) -> None:
        if isinstance(data.get("output"), dict):
            self._executed[str(data.get("node"))] = data["output"]

    def _on_preview(self, data: Update) -> None:
        if self.with_previews and len(data["image"]) <= PREVIEW_LIMIT_BYTES:
            node = data.get("node") or self._now.get("node")
            self._now["preview"] = {"node": node, "jpeg_b64": base64.b64encode(data["image"]).decode()}

    def _percent(self) -> float:
        """Return the finished share of all steps, in percent, with the running node's own share."""
        done = 0.0
        for node_id, weight in self._weights.items():
            state = self._nodes.get(node_id) or {}
            share = 1.0 if node_id in self._done else _share(state.get("value"), state.get("max"))
            done += weight * share
        return round(100 * done / max(1, sum(self._weights.values())), 1)


_HANDLERS: dict[str, Callable[[JobProgress, Update], None]] = {
    "execution_start": JobProgress._on_start,
    "execution_cached": JobProgress._on_cached,
    "progress_state": JobProgress._on_states,
    "executing": JobProgress._on_executing,
    "progress": JobProgress._on_step,
    "executed": JobProgress._on_executed,
    PREVIEW: JobProgress._on_preview,
}


def _share(value: Any, maximum: Any) -> float:
    """Return the finished share of a node, 0 to 1; 0 if a custom node counts in something else than numbers."""
    try:
        return min(1.0, max(0.0, float(value or 0) / float(maximum or 1)))
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _steps_of(node: Any) -> int:
    """Return a node's weight in the percentage: its ``steps`` input, else 1."""
    steps = (node.get("inputs") or {}).get("steps") if isinstance(node, dict) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 < steps < 10_000 else 1

"""The progress of each node of the running prompt, sent to its client after every change."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from comfy.model_management import throw_exception_if_processing_interrupted

PREVIEW_IMAGE = 1
UNENCODED_PREVIEW_IMAGE = 2
PREVIEW_IMAGE_WITH_METADATA = 4


class ProgressReceiver(Protocol):
    """The part of the server that progress needs."""

    client_id: str | None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None: ...

    def supports_feature(self, sid: str | None, feature: str) -> bool: ...


class ProgressRegistry:
    """The nodes of one prompt that have started, in that order."""

    instance: ClassVar[ProgressRegistry | None] = None
    """The running prompt's."""

    def __init__(self, prompt_id: str, server: ProgressReceiver) -> None:
        self.prompt_id = prompt_id
        self.current: str | None = None
        self._server = server
        self._nodes: dict[str, dict[str, Any]] = {}

    def start_progress(self, node_id: str) -> None:
        self.current = node_id
        self._change(node_id, 0.0, 1.0, "running")

    def finish_progress(self, node_id: str) -> None:
        # A cached node never started; its 1 of 1 is sent as integers, as in ComfyUI.
        known = self._nodes.get(node_id, {"max": 1})
        self._change(node_id, known["max"], known["max"], "finished")

    def update_progress(self, node_id: str, value: float, maximum: float, preview: Any = None) -> None:
        throw_exception_if_processing_interrupted()
        server = self._server
        self._change(node_id, value, maximum, "running")
        with_metadata = preview is not None and server.supports_feature(server.client_id, "supports_preview_metadata")
        if with_metadata:
            event, data = PREVIEW_IMAGE_WITH_METADATA, (preview, _names(node_id, self.prompt_id))
            server.send_sync(event, data, server.client_id)
        about = {"value": value, "max": maximum, "prompt_id": self.prompt_id, "node": node_id}
        server.send_sync("progress", about, server.client_id)
        if preview is not None and not with_metadata:
            server.send_sync(UNENCODED_PREVIEW_IMAGE, preview, server.client_id)

    def _change(self, node_id: str, value: float, maximum: float, state: str) -> None:
        names = _names(node_id, self.prompt_id)
        self._nodes[node_id] = {"value": value, "max": maximum, "state": state, **names}
        # A copy: another thread serialises it later.
        self._server.send_sync(
            "progress_state", {"prompt_id": self.prompt_id, "nodes": dict(self._nodes)}, self._server.client_id
        )


def _names(node_id: str, prompt_id: str) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "prompt_id": prompt_id,
        "display_node_id": node_id,
        "parent_node_id": None,
        "real_node_id": node_id,
    }


class ProgressBar:
    """A node's way to report its steps: ComfyUI's `comfy.utils.ProgressBar`."""

    def __init__(self, total: float, node_id: str | None = None) -> None:
        self.total = total
        self.current: float = 0
        self.node_id = node_id

    def update_absolute(self, value: float, total: float | None = None, preview: Any = None) -> None:
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        progress = ProgressRegistry.instance
        if progress and (node_id := self.node_id or progress.current):
            progress.update_progress(node_id, self.current, self.total, preview)

    def update(self, value: float) -> None:
        self.update_absolute(self.current + value)

"""The ComfyUI that the pack is installed in: its folders, its queue's count and history, its websockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..jobs import DONE, RemoteJob
from ..remote_sink import log

SYSTEM_NAME = "remote_serverless"
_PREVIEW_IMAGE, _PREVIEW_WITH_METADATA, _JPEG = 1, 4, b"\x00\x00\x00\x01"


class LocalComfyUI:
    """ComfyUI's ``PromptServer``, ``folder_paths`` and ``nodes`` as the pack uses them."""

    def __init__(self, server: Any, folder_paths: Any, classes: Callable[[], dict[str, Any]]) -> None:
        self.server, self._paths, self._classes = server, folder_paths, classes
        self.save_path = folder_paths.get_save_image_path

    # -- folders --

    @property
    def folders(self) -> dict[str, Path]:
        """The three folders whose files the UI can show."""
        return {name: Path(getattr(self._paths, f"get_{name}_directory")()) for name in ("input", "output", "temp")}

    @property
    def private_folder(self) -> Path:
        """A folder that no route of ComfyUI serves: its system user directory; older versions get the same path."""
        own = getattr(self._paths, "get_system_user_directory", None)
        if own is not None:
            return Path(own(SYSTEM_NAME))
        return Path(self._paths.get_user_directory()) / f"__{SYSTEM_NAME}"

    def input_types(self, class_type: str) -> dict[str, Any]:
        """Return a node's inputs by its definition; empty for a class that only the worker has."""
        try:
            found = self._classes()[class_type].INPUT_TYPES()
        except Exception:  # other packs' code may raise anything, and the prompt may not need this node
            return {}
        return found if isinstance(found, dict) else {}

    # -- browsers --

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        """Send an event to one browser tab, or to all."""
        self.server.send_sync(event, data, client_id)

    def send_preview(self, jpeg: bytes, node_id: str, prompt_id: str, client_id: str) -> None:
        """Show a small JPEG in a node, in the message format that the tab supports."""
        metadata = getattr(self.server, "sockets_metadata", {}).get(client_id, {})
        if not metadata.get("feature_flags", {}).get("supports_preview_metadata"):
            self.server.send_sync(_PREVIEW_IMAGE, _JPEG + jpeg, client_id)
            return
        names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
        about = {**names, "parent_node_id": None, "prompt_id": prompt_id}
        picture = decode_small_jpeg(jpeg)
        if picture is not None:
            self.server.send_sync(_PREVIEW_WITH_METADATA, (("JPEG", picture, None), about), client_id)

    def is_connected(self, client_id: str) -> bool:
        """Return True if that tab is open now."""
        return client_id in self.server.sockets

    # -- the queue --

    def next_number(self) -> float:
        """Take the next queue number, shared with the local prompts."""
        number = self.server.number
        self.server.number += 1
        return number

    def include_in_queue_count(self, remote_jobs: Callable[[], int]) -> None:
        """Make the job counter of every page include the remote jobs."""
        own = self.server.get_queue_info

        def with_remote() -> dict[str, Any]:
            info = own()
            info["exec_info"]["queue_remaining"] += remote_jobs()
            return info

        self.server.get_queue_info = with_remote

    def send_queue_count(self) -> None:
        """Send every page the new job count."""
        self.server.queue_updated()

    def runs_locally(self, client_id: str) -> bool:
        """Return True while this tab shows a local run, whose progress must not be mixed with ours."""
        queue = self.server.prompt_queue
        current_queue = getattr(queue, "get_current_queue_volatile", queue.get_current_queue)
        return any(item[3].get("client_id") == client_id for item in current_queue()[0])

    def add_to_history(self, job: RemoteJob) -> None:
        """Put an ended job into ComfyUI's history, where its pages and other tools look for it."""
        queue = self.server.prompt_queue
        lock, history = getattr(queue, "mutex", None), getattr(queue, "history", None)
        if lock is None or history is None:
            return
        with lock:
            history[job.prompt_id] = history_entry(job)


def history_entry(job: RemoteJob) -> dict[str, Any]:
    """Return the job as an entry of ComfyUI's ``/history``."""
    extra = {**job.request.extra_data, "client_id": job.client_id, "create_time": int(job.created * 1000)}
    about = {"prompt_id": job.prompt_id}
    succeeded = job.state == DONE
    end = "execution_success" if succeeded else "execution_error"
    failure = {} if succeeded else {"exception_message": job.error or "Cancelled", "node_id": job.error_node}
    messages = [
        ["execution_start", {**about, "timestamp": int((job.started or job.created) * 1000)}],
        [end, {**about, **failure, "timestamp": int((job.ended or time.time()) * 1000)}],
    ]
    names = {node_id: dict.fromkeys(("node_id", "display_node", "real_node_id"), node_id) for node_id in job.outputs}
    return {
        "prompt": (job.number, job.prompt_id, job.request.prompt, extra, list(job.outputs)),
        "outputs": job.outputs,
        "status": {"status_str": "success" if succeeded else "error", "completed": succeeded, "messages": messages},
        "meta": {node_id: {**name, "parent_node": None} for node_id, name in names.items()},
    }


def decode_small_jpeg(jpeg: bytes) -> Any:
    """Decode a picture of a progress update. Return None if it is not a JPEG or larger than 4 megapixels."""
    from io import BytesIO  # noqa: PLC0415 - previews are rare, and the start should be quick

    from PIL import Image  # noqa: PLC0415

    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
            if picture.width * picture.height > 4_000_000:
                return None
            return picture.convert("RGB")
    except Exception:  # Pillow's readers raise many types on a broken picture
        log.debug("a preview could not be decoded", exc_info=True)
        return None


def start_task(work: Any, tasks: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    """Start a task and keep a reference to it in ``tasks`` until it ends."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task

"""The ComfyUI around the pack, in one place: its folders, its queue's counter and history, its websockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..jobs import DONE, Job
from ..remote_sink import log, results_folder

SYSTEM_NAME = "remote_serverless"
_PREVIEW_IMAGE, _PREVIEW_WITH_METADATA, _JPEG = 1, 4, b"\x00\x00\x00\x01"


class Host:
    """ComfyUI's ``PromptServer``, ``folder_paths`` and ``nodes`` as the pack uses them."""

    def __init__(self, server: Any, folder_paths: Any, classes: Callable[[], dict[str, Any]]) -> None:
        self.server, self._paths, self._classes = server, folder_paths, classes
        self.save_path = folder_paths.get_save_image_path

    # -- folders --

    @property
    def folders(self) -> dict[str, Path]:
        """The three that the UI can show files of."""
        names = {"input", "output", "temp"}
        return {name: Path(getattr(self._paths, f"get_{name}_directory")()) for name in names}

    @property
    def results(self) -> Path:
        """``./remote_results``."""
        return results_folder()

    @property
    def private_folder(self) -> Path:
        """Where no route of ComfyUI reads: its own namespace for secrets, or the same place where it has none yet."""
        own = getattr(self._paths, "get_system_user_directory", None)
        if own is not None:
            return Path(own(SYSTEM_NAME))
        return Path(self._paths.get_user_directory()) / f"__{SYSTEM_NAME}"

    def input_types(self, class_type: str) -> dict[str, Any]:
        """A node's inputs by its definition; empty for a class that only the worker has."""
        try:
            found = self._classes()[class_type].INPUT_TYPES()
        except Exception:  # other people's code, asked about a prompt that may not even need it
            return {}
        return found if isinstance(found, dict) else {}

    # -- browsers --

    def send(self, event: str, data: dict[str, Any], client_id: str | None) -> None:
        """Say something to one browser tab, or to all."""
        self.server.send_sync(event, data, client_id)

    def send_preview(self, jpeg: bytes, node_id: str, prompt_id: str, client_id: str) -> None:
        """Show a small JPEG in a node, in whichever way that tab understands."""
        metadata = getattr(self.server, "sockets_metadata", {}).get(client_id, {})
        if not metadata.get("feature_flags", {}).get("supports_preview_metadata"):
            self.server.send_sync(_PREVIEW_IMAGE, _JPEG + jpeg, client_id)
            return
        names = dict.fromkeys(("node_id", "display_node_id", "real_node_id"), node_id)
        about = {**names, "parent_node_id": None, "prompt_id": prompt_id}
        picture = small_jpeg(jpeg)
        if picture is not None:
            self.server.send_sync(_PREVIEW_WITH_METADATA, (("JPEG", picture, None), about), client_id)

    def is_connected(self, client_id: str) -> bool:
        """Whether that tab is open now."""
        return client_id in self.server.sockets

    # -- the queue --

    def next_number(self) -> float:
        """A queue number, counted with the local ones."""
        number = self.server.number
        self.server.number += 1
        return number

    def count(self, remote_jobs: Callable[[], int]) -> None:
        """Let the job counter of every page include the remote jobs."""
        own = self.server.get_queue_info

        def with_remote() -> dict[str, Any]:
            info = own()
            info["exec_info"]["queue_remaining"] += remote_jobs()
            return info

        self.server.get_queue_info = with_remote

    def queue_changed(self) -> None:
        """Tell every page the new count."""
        self.server.queue_updated()

    def runs_locally(self, client_id: str) -> bool:
        """Whether this tab watches a local run, whose progress must not be mixed with ours."""
        queue = self.server.prompt_queue
        look = getattr(queue, "get_current_queue_volatile", queue.get_current_queue)
        return any(item[3].get("client_id") == client_id for item in look()[0])

    def remember(self, job: Job) -> None:
        """Put a finished job into ComfyUI's history, where its pages and other tools look for it."""
        queue = self.server.prompt_queue
        lock, history = getattr(queue, "mutex", None), getattr(queue, "history", None)
        if lock is None or history is None:
            return
        with lock:
            history[job.prompt_id] = history_entry(job)


def history_entry(job: Job) -> dict[str, Any]:
    """The job as ComfyUI's ``/history`` tells of a prompt that ran."""
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


def small_jpeg(jpeg: bytes) -> Any:
    """A picture of a progress update, decoded whole; None when it is no JPEG or too large to be one."""
    from io import BytesIO  # noqa: PLC0415 - previews are rare: nothing of this is needed to start

    from PIL import Image  # noqa: PLC0415

    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
            if picture.width * picture.height > 4_000_000:
                return None
            return picture.convert("RGB")
    except Exception:  # whatever a broken picture makes Pillow raise, it only was a preview
        log.debug("a preview could not be read", exc_info=True)
        return None


def spawn(work: Any, tasks: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    """Start a task that is held until it ends."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task

"""The end of a prompt, read from its ``/history`` entry: its error, and the nodes that came from the cache. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.errors import Code, WorkerError

OUT_OF_MEMORY = ("OutOfMemoryError", "out of memory", "Allocation on device")
TRACEBACK_LINES = 3  # the innermost frames; the outer ones are ComfyUI's executor, always the same


def failure(history: dict[str, Any]) -> WorkerError | None:
    """Return the error of a prompt by its ``/history`` entry; None if it succeeded."""
    status = history.get("status")
    if not isinstance(status, dict) or status.get("status_str", "success") == "success":
        return None
    messages = messages_of(history)
    if failed := messages.get("execution_error"):
        return _node_failure(failed)
    if stopped := messages.get("execution_interrupted"):
        details = {"node_id": stopped.get("node_id"), "class_type": stopped.get("node_type")}
        where = f"at node {stopped.get('node_id')} ({stopped.get('node_type')})"
        return WorkerError(Code.INTERRUPTED, f"the prompt was interrupted {where}", details=details)
    return WorkerError(Code.NODE_FAILED, "the prompt failed, and ComfyUI did not report at which node")


def messages_of(history: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the data of ComfyUI's messages about a prompt, by kind; malformed ones are left out."""
    status = history.get("status")
    messages = status.get("messages") if isinstance(status, dict) else None
    pairs = [each for each in _list(messages) if len(_list(each)) == 2]
    return {str(kind): data for kind, data in pairs if isinstance(data, dict)}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _node_failure(failed: dict[str, Any]) -> WorkerError:
    kind = str(failed.get("exception_type", ""))
    message = str(failed.get("exception_message", "")).strip()
    frames = [str(line).strip() for line in _list(failed.get("traceback"))]
    details = {
        "node_id": failed.get("node_id"),
        "class_type": failed.get("node_type"),
        "exception_type": kind,
        "traceback": frames[-TRACEBACK_LINES:],
    }
    where = f"node {details['node_id']} ({details['class_type']})"
    if any(words in kind or words in message for words in OUT_OF_MEMORY):
        return WorkerError(Code.OUT_OF_MEMORY, f"{where} ran out of GPU memory", details=details)
    return WorkerError(Code.NODE_FAILED, f"{where} failed: {kind}: {message}", details=details)


def cached_nodes(history: dict[str, Any]) -> frozenset[str] | None:
    """Return the nodes that ComfyUI took from an earlier prompt; None if the ``/history`` entry does not name them."""
    message = messages_of(history).get("execution_cached")
    nodes = message.get("nodes") if message is not None else None
    return frozenset(map(str, nodes)) if isinstance(nodes, list) else None

"""The queue of prompts that wait and run, and the history of those that ran."""

from __future__ import annotations

import copy
import heapq
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from faults import faults

Item: TypeAlias = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]

MAXIMUM_HISTORY_SIZE = 10000
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


class ExecutionStatus(NamedTuple):
    """The end of a prompt, as history has it."""

    status_str: str
    completed: bool
    messages: list[tuple[str, dict[str, Any]]]


class PromptQueue:
    """Filled by the server's thread, emptied by the executing one."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.RLock()
        self._not_empty = threading.Condition(self._lock)
        self._queue: list[Item] = []
        self._running: dict[int, Item] = {}
        self._started = 0
        self._history: dict[str, dict[str, Any]] = {}
        self._visible_at: dict[str, float] = {}
        self._flags: dict[str, Any] = {}

    def put(self, item: Item) -> None:
        with self._lock:
            heapq.heappush(self._queue, item)
            self._changed()
            self._not_empty.notify()

    def get(self) -> tuple[Item, int] | None:
        """Wait for a prompt and return it with its number; return None for a flag."""
        with self._not_empty:
            while not self._queue:
                if self._flags:
                    return None
                self._not_empty.wait()
            item = heapq.heappop(self._queue)
            number = self._started
            self._started += 1
            # Nodes may write into their prompt; history keeps it as it was posted.
            self._running[number] = copy.deepcopy(item)
            self._changed()
            return item, number

    def task_done(self, number: int, result: dict[str, Any], status: ExecutionStatus) -> None:
        with self._lock:
            prompt = self._running.pop(number)
            if len(self._history) > MAXIMUM_HISTORY_SIZE:
                self._history.pop(next(iter(self._history)))
            for secret in _SECRETS:
                prompt[3].pop(secret, None)
            self._history[prompt[1]] = {
                "prompt": prompt,
                "outputs": {},
                "status": copy.deepcopy(status._asdict()),
                **result,
            }
            delay = faults.value("history_delay_s", 0.0)
            if delay:
                self._visible_at[prompt[1]] = time.monotonic() + delay
            self._changed()

    def get_current_queue(self) -> tuple[list[Item], list[Item]]:
        with self._lock:
            return list(self._running.values()), list(self._queue)

    def get_tasks_remaining(self) -> int:
        with self._lock:
            return len(self._queue) + len(self._running)

    def wipe_queue(self) -> None:
        with self._lock:
            self._queue = []
            self._changed()

    def delete_queue_item(self, prompt_id: str) -> bool:
        with self._lock:
            left = [item for item in self._queue if item[1] != prompt_id]
            if len(left) == len(self._queue):
                return False
            self._queue = left
            heapq.heapify(self._queue)
            self._changed()
            return True

    def get_history(
        self, prompt_id: str | None = None, max_items: int | None = None, offset: int = -1
    ) -> dict[str, dict[str, Any]]:
        with self._lock:
            now = time.monotonic()
            seen = {key: entry for key, entry in self._history.items() if self._visible_at.get(key, 0.0) <= now}
            if prompt_id is not None:
                return {prompt_id: copy.deepcopy(seen[prompt_id])} if prompt_id in seen else {}
            if offset < 0:
                offset = max(0, len(seen) - max_items) if max_items is not None else 0
            end = None if max_items is None else offset + max(1, max_items)
            return {key: seen[key] for key in list(seen)[offset:end]}

    def wipe_history(self) -> None:
        with self._lock:
            self._history = {}

    def delete_history_item(self, prompt_id: str) -> None:
        with self._lock:
            self._history.pop(prompt_id, None)

    def set_flag(self, name: str, value: Any) -> None:
        with self._lock:
            self._flags[name] = value
            self._not_empty.notify()

    def get_flags(self) -> dict[str, Any]:
        with self._lock:
            flags, self._flags = self._flags, {}
            return flags

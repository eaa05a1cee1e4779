"""The faults in force: each is a name and its settings, from SIMULATOR_MISBEHAVE (JSON) or POST /simulator/misbehave.

`fault_injection` applies them to prompts, `middlewares` to HTTP requests, `server` to websockets and events;
`routes.simulator` sets them over HTTP.

Every fault takes `count`: it happens that many times and is then over. Without one it stays until POST `{}`.

    drop_socket     {"how": "fin" | "rst" | "close_frame", "at": MOMENT, "after_frames": n, "refuse_s": s}
    lose_events     {"types": [...] | "all"}             not sent; `count` counts prompts; binary previews are "preview"
    stall           {"s": s, "class": CLASS}             the node blocks and ignores /interrupt; any node without class
    history_delay_s s                                    the entry appears that long after the last event
    http_500        {PATH: count}                        that many requests to the path (or below it) answer 500
    http_hang       {PATH: s}                            a request to the path is answered that much later
    die             {"at": "on_prompt" | "executing" | "after" | "at_start"}
    start_delay_s   s                                    before it listens
    oom             {"class": CLASS}                     KSampler without class
    node_error      {CLASS: message}
    ignore_sigterm  true
    noisy           true                                 five broadcasts a second that no client asked for
    interrupt_self_s s                                   as if another client had posted /interrupt

MOMENT is "execution_start", "executing" or "before_success"; frames are counted from "execution_start" on.
A fault with one setting may be given as just that value.
With SIMULATOR_MISBEHAVE_STATE naming a file, counts survive a restart: a fault with count 1 happens once in all.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

_MAIN_SETTING = {
    "drop_socket": "how",
    "lose_events": "types",
    "stall": "s",
    "history_delay_s": "value",
    "die": "at",
    "start_delay_s": "value",
    "oom": "class",
    "ignore_sigterm": "value",
    "noisy": "value",
    "interrupt_self_s": "value",
}
_BY_KEY = ("http_500", "http_hang", "node_error")


class Faults:
    """The faults in force; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._active: dict[str, dict[str, Any]] = {}
        self._state = Path(state) if (state := os.environ.get("SIMULATOR_MISBEHAVE_STATE")) else None

    def load_environment(self) -> None:
        text = os.environ.get("SIMULATOR_MISBEHAVE")
        if text:
            self.set(json.loads(text))
        if self._state and self._state.exists():
            for name, count in json.loads(self._state.read_text()).items():
                if name in self._active:
                    self._active[name]["count"] = count

    def set(self, changes: dict[str, Any]) -> None:
        """Add to the faults in force; an empty object clears them all."""
        unknown = [name for name in changes if name not in _MAIN_SETTING and name not in _BY_KEY]
        if unknown:
            raise ValueError(f"No such misbehaviour: {', '.join(unknown)}")
        with self._lock:
            if not changes:
                self._active.clear()
            for name, setting in changes.items():
                if setting is None or setting is False:
                    self._active.pop(name, None)
                else:
                    self._active[name] = dict(setting) if isinstance(setting, dict) else {_MAIN_SETTING[name]: setting}

    def current(self) -> dict[str, Any]:
        with self._lock:
            return {name: dict(setting) for name, setting in self._active.items()}

    def peek(self, name: str) -> dict[str, Any] | None:
        """Return a fault's settings without counting it."""
        with self._lock:
            setting = self._active.get(name)
            return setting if setting is not None and setting.get("count", 1) > 0 else None

    def take(self, name: str, **conditions: Any) -> dict[str, Any] | None:
        """Return a fault's settings if it is due under these conditions, and count it."""
        with self._lock:
            setting = self.peek(name)
            if setting is None or any(setting.get(key, value) != value for key, value in conditions.items()):
                return None
            if "count" in setting:
                setting["count"] -= 1
                self._save_counts()
            return setting

    def value(self, name: str, default: float) -> float:
        setting = self.take(name)
        return default if setting is None else float(setting["value"])

    def take_path(self, name: str, path: str) -> Any:
        """Return a fault's value for a path or its parent, and count down one of `http_500`."""
        with self._lock:
            for key, setting in self._active.get(name, {}).items():
                if path == key or path.startswith(key.rstrip("/") + "/"):
                    if name == "http_500" and setting > 0:
                        self._active[name][key] = setting - 1
                    return setting
            return None

    def _save_counts(self) -> None:
        if self._state:
            counts = {name: setting["count"] for name, setting in self._active.items() if "count" in setting}
            self._state.write_text(json.dumps(counts))


faults = Faults()

"""Ends the worker soon after SIGTERM, instead of up to 90 s later.

On SIGTERM, RunPod's SDK (1.12, rp_scale.py) finishes its job, but then waits for its pending long poll. A job that this
poll still returns is taken and never run: its caller waits until the execution timeout. Here the process ends as soon
as the SDK has no job left to deliver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

QUIET_S = 0.3  # idle for this long: the SDK counts a job only a moment after taking it


def exit_after_sdk_shutdown(end: Callable[[], None]) -> None:
    """Make the SDK's shutdown call ``end``, from a thread, once its job has been delivered."""
    from runpod.serverless.modules.rp_scale import JobScaler  # noqa: PLC0415 - importing the SDK takes over a second

    sdk_kill_worker = JobScaler.kill_worker

    def kill_worker(scaler: Any) -> None:
        sdk_kill_worker(scaler)
        threading.Thread(target=_end_when_idle, args=(scaler, end), name="shutdown", daemon=True).start()

    JobScaler.kill_worker = kill_worker


def _end_when_idle(scaler: Any, end: Callable[[], None]) -> None:
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < QUIET_S:
        if scaler.current_occupancy():
            idle_since = time.monotonic()
        time.sleep(0.05)
    end()

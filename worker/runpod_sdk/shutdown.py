"""Ends the worker soon after SIGTERM, instead of up to 90 s later.

RunPod's SDK (1.12, rp_scale.py) finishes its job on SIGTERM, but then waits for its pending long poll, and a job that
this poll still brings is taken and never run: its caller waits for the execution timeout. Here the process ends as soon
as the SDK has no job left to deliver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

QUIET_S = 0.3  # without a job for this long: the SDK adds one to its books a moment after taking it


def exit_after_sdk_shutdown(end: Callable[[], None]) -> None:
    """Have ``end`` called (from a thread) once the SDK was told to shut down and has delivered its job."""
    from runpod.serverless.modules.rp_scale import JobScaler  # noqa: PLC0415 - importing the SDK takes over a second

    told_to_stop = JobScaler.kill_worker

    def kill_worker(scaler: Any) -> None:
        told_to_stop(scaler)
        threading.Thread(target=_end_when_idle, args=(scaler, end), name="shutdown", daemon=True).start()

    JobScaler.kill_worker = kill_worker


def _end_when_idle(scaler: Any, end: Callable[[], None]) -> None:
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < QUIET_S:
        if scaler.current_occupancy():
            idle_since = time.monotonic()
        time.sleep(0.05)
    end()

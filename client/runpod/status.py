"""The meaning of the endpoint's ``/status`` for a job, as sentences. Pure."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .client import EndpointError

if TYPE_CHECKING:
    from typing import TypeGuard  # Python 3.10; the pack runs on 3.9

EXPIRY_S = 30 * 60  # RunPod keeps a result this long
_LONGEST = 1e12
_WAITING = ("IN_QUEUE", "QUEUED")
_WORKING = ("IN_PROGRESS", "RUNNING")
_NO_REASON = "The job failed, and the endpoint gave no reason. Look at its log in RunPod's console."
PHASES = {
    "starting": "A worker is starting",
    "models": "The worker is downloading models",
    "queued": "The worker has the job",
    "running": "Running",
    "collecting": "Collecting the results",
}


@dataclass(frozen=True)
class Failure:
    """The reason a job ended without a result, and the node that failed, if known."""

    message: str
    code: str = ""
    node_id: str = ""
    class_type: str = ""
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JobReport:
    """One status of a job. ``state`` is queued, running, done, failed, cancelled, or unknown."""

    state: str
    progress: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    run_ms: float | None = None


def read_status(body: dict[str, Any]) -> JobReport:
    """Read the body of ``/status``."""
    status, output = str(body.get("status", "")).upper(), body.get("output")
    if status in _WORKING:
        return JobReport("running", progress=output if isinstance(output, dict) else {})
    if status == "COMPLETED":
        return _completed(body, output)
    if status == "TIMED_OUT":
        text = "The endpoint stopped the job at its time limit. Raise the execution timeout in the endpoint's settings."
        return JobReport("failed", failure=Failure(text, "TIMEOUT"))
    if status == "FAILED":
        return JobReport("failed", failure=_failure(body.get("error"), output))
    return JobReport({"CANCELLED": "cancelled", **dict.fromkeys(_WAITING, "queued")}.get(status, "unknown"))


def _completed(body: dict[str, Any], output: Any) -> JobReport:
    if isinstance(output, dict) and output.get("error"):
        return JobReport("failed", failure=_failure(output["error"], output))
    if not isinstance(output, dict) or not (output.get("images") or output.get("files")):
        text = (
            "The job completed but returned no images. Check that the workflow has at least one Save Image node. "
            "RunPod keeps results for 30 minutes only."
        )
        return JobReport("failed", failure=Failure(text, "NO_OUTPUT"))
    timings = output.get("timings")
    run_s = timings.get("run_s") if isinstance(timings, dict) else None
    execution = body.get("executionTime")
    run_ms = run_s * 1000 if _is_time(run_s) else execution if _is_time(execution) else None
    return JobReport("done", output=output, run_ms=run_ms)


def _is_time(value: Any) -> TypeGuard[float]:
    """Return True for a plausible duration: a number in JSON may be infinite or have thousands of digits."""
    return isinstance(value, (int, float)) and 0 <= value < _LONGEST


def _failure(error: Any, output: Any) -> Failure:
    """Return the worker's sentence, and the node named in its details or in the sentence."""
    beside = output if isinstance(output, dict) else {}
    text, trace = _sentence(error if error else beside.get("error"))
    details = beside.get("details")
    details = details if isinstance(details, dict) else {}
    code = str(beside.get("error_code") or "")
    if not code and (found := re.match(r"([A-Z][A-Z_]{3,30}):", text)):
        code = found[1]
    node_id, class_type = str(details.get("node_id") or ""), str(details.get("class_type") or "")
    if not node_id and (named := re.search(r"\bnode ([\w:]+)(?: \(([^)]+)\)| is an? ([^,\s]+),)", text)):
        node_id, class_type = named[1], named[2] or named[3]
    lines = details.get("traceback") or details.get("log")
    trace = trace or [str(line) + "\n" for line in lines if line] if isinstance(lines, list) else trace
    return Failure(text, code, node_id, class_type, trace[-40:])


def _sentence(error: Any) -> tuple[str, list[str]]:
    """Return the error's text and traceback; the SDK wraps a handler's exception in JSON with both."""
    if isinstance(error, str) and error.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            error = json.loads(error)
    if isinstance(error, dict):
        trace = str(error.get("error_traceback") or "").splitlines(keepends=True)
        return str(error.get("error_message") or error.get("message") or error.get("error") or error)[:2000], trace
    return str(error or _NO_REASON)[:4000], []


def lost_job(idle_s: float) -> Failure:
    """Return the failure for a 404 of a job that was there: it expired or was purged."""
    if idle_s > EXPIRY_S:
        text = (
            f"The result is gone: RunPod keeps it for 30 minutes, and this computer was asleep, offline or off for "
            f"{_span(idle_s)}. Queue it again."
        )
        return Failure(text, "EXPIRED")
    text = "The endpoint no longer has this job: it was purged, or waited in the queue past its time to live."
    return Failure(f"{text} Queue it again.", "LOST")


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def retry_message(error: EndpointError) -> str:
    """Return the status line while the endpoint cannot be reached; the job itself goes on there."""
    if error.kind == "key":
        return "The endpoint refuses the API key now. Enter a valid one in Remote Config. The job goes on meanwhile."
    if error.kind == "disk":
        return f"{error.message} Retrying. Free some disk space: the result expires after 30 minutes."
    if error.kind == "link":
        return f"{error.message} Retrying until the link expires."
    if error.kind in ("busy", "server"):
        return f"{error.message} Retrying."
    return f"{error.message} Retrying; the job goes on there."


def phase_message(progress: dict[str, Any]) -> str:
    """Return the worker's progress as one line."""
    phase, message = str(progress.get("phase") or ""), progress.get("message")
    name = PHASES.get(phase, "Running")
    models = progress.get("models")
    if phase == "models" and isinstance(models, list) and models:
        have, total = _sum(models, "bytes"), _sum(models, "total")
        return f"{name}: {have / 1e9:.2f} of {total / 1e9:.2f} GB" if total else name
    if not isinstance(message, str) or not message:
        return name
    if phase == "starting" and "start" not in message.lower():
        return PHASES["queued"]  # "Ready" alone would read as if the job were done
    return message[:200]


def _sum(items: list[Any], name: str) -> float:
    numbers = (item.get(name) for item in items if isinstance(item, dict))
    return sum(number for number in numbers if isinstance(number, (int, float)))

"""What the endpoint's ``/status`` means for a job, in words. Pure."""

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
PHASES = {
    "starting": "A worker is starting",
    "models": "The worker is getting models",
    "queued": "The worker has the job",
    "running": "Running",
    "collecting": "Collecting the results",
}


@dataclass(frozen=True)
class Failure:
    """Why a job ended without a result; ``node_id`` where one is to blame."""

    message: str
    code: str = ""
    node_id: str = ""
    class_type: str = ""
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """One look at a job: ``state`` is queued, running, done, failed, cancelled, or unknown."""

    state: str
    progress: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    run_ms: float | None = None


def read_status(body: dict[str, Any]) -> Report:
    """Translate an answer of ``/status``."""
    status, output = str(body.get("status", "")).upper(), body.get("output")
    if status in _WORKING:
        return Report("running", progress=output if isinstance(output, dict) else {})
    if status == "COMPLETED":
        return _completed(body, output)
    if status == "TIMED_OUT":
        text = "The endpoint stopped the job at its time limit. Raise the execution timeout in the endpoint's settings."
        return Report("failed", failure=Failure(text, "TIMEOUT"))
    if status == "FAILED":
        return Report("failed", failure=_failure(body.get("error"), output))
    return Report({"CANCELLED": "cancelled", **dict.fromkeys(_WAITING, "queued")}.get(status, "unknown"))


def _completed(body: dict[str, Any], output: Any) -> Report:
    if isinstance(output, dict) and output.get("error"):
        return Report("failed", failure=_failure(output["error"], output))
    if not isinstance(output, dict) or not (output.get("images") or output.get("files")):
        text = (
            "The job completed but returned no images. Check that the graph has at least one Save Image node; "
            "results are kept for 30 minutes only."
        )
        return Report("failed", failure=Failure(text, "NO_OUTPUT"))
    timings = output.get("timings")
    run_s = timings.get("run_s") if isinstance(timings, dict) else None
    execution = body.get("executionTime")
    run_ms = run_s * 1000 if _is_time(run_s) else execution if _is_time(execution) else None
    return Report("done", output=output, run_ms=run_ms)


def _is_time(value: Any) -> TypeGuard[float]:
    """A number that a job can have taken: JSON's may also be infinite, or have thousands of digits."""
    return isinstance(value, (int, float)) and 0 <= value < _LONGEST


def _failure(error: Any, output: Any) -> Failure:
    """The worker's own sentence, and the node that it names in the details or in the sentence."""
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
    told = details.get("traceback") or details.get("log")
    trace = trace or [str(line) + "\n" for line in told if line] if isinstance(told, list) else trace
    return Failure(text, code, node_id, class_type, trace[-40:])


def _sentence(error: Any) -> tuple[str, list[str]]:
    """The error's text; the SDK wraps an exception of a handler in JSON with a traceback."""
    if isinstance(error, str) and error.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            error = json.loads(error)
    if isinstance(error, dict):
        trace = str(error.get("error_traceback") or "").splitlines(keepends=True)
        return str(error.get("error_message") or error.get("message") or error.get("error") or error)[:2000], trace
    return str(error or "The endpoint says that the job failed, and not why. Its log in RunPod's console may tell.")[
        :4000
    ], []


def lost_job(idle_s: float) -> Failure:
    """A 404 for a job that was there: too late, or purged."""
    if idle_s > EXPIRY_S:
        text = (
            f"The result is gone: RunPod keeps it for 30 minutes, and this computer did not ask for {_span(idle_s)} "
            "(asleep, offline or switched off). Queue it again."
        )
        return Failure(text, "EXPIRED")
    text = "The endpoint no longer knows this job: it was purged, or waited in the queue past its time to live."
    return Failure(f"{text} Queue it again.", "LOST")


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def trouble(error: EndpointError) -> str:
    """What to show while the endpoint cannot be asked; the job itself goes on there."""
    if error.kind == "key":
        return "The endpoint refuses the API key now. Enter a valid one in Remote Config; the job goes on meanwhile."
    if error.kind == "disk":
        return f"{error.message} Trying again; make room, or the result expires after 30 minutes."
    if error.kind == "link":
        return f"{error.message} Trying again while the link lives."
    if error.kind in ("busy", "server"):
        return f"{error.message} Asking again."
    return f"{error.message} The job goes on there; asking again."


def phase_message(progress: dict[str, Any]) -> str:
    """The worker's progress as one line."""
    phase, said = str(progress.get("phase") or ""), progress.get("message")
    name = PHASES.get(phase, "Running")
    models = progress.get("models")
    if phase == "models" and isinstance(models, list) and models:
        have, total = _sum(models, "bytes"), _sum(models, "total")
        return f"{name}: {have / 1e9:.2f} of {total / 1e9:.2f} GB" if total else name
    if not isinstance(said, str) or not said:
        return name
    if phase == "starting" and "start" not in said.lower():
        return PHASES["queued"]  # it is up already: "Ready" alone would sound like the end
    return said[:200]


def _sum(items: list[Any], name: str) -> float:
    numbers = (item.get(name) for item in items if isinstance(item, dict))
    return sum(number for number in numbers if isinstance(number, (int, float)))

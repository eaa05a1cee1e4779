"""The errors of a job: each has a code, what happened and what to do.

The answer of a failed job is ``{"error": "<CODE>: <what happened>. <what to do>"}`` with ``error_code`` and ``details``
beside it. The string alone must be enough: RunPod's ``/status`` may show a client nothing else.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class Code(str, Enum):
    """The error codes of the public API, each with the hint for errors that have no hint of their own."""

    hint: str

    def __new__(cls, value: str, hint: str) -> Code:
        """Create a member that equals its name and has its hint."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.hint = hint
        return member

    INVALID_INPUT = "INVALID_INPUT", "Correct the field and send the job again."
    INVALID_REPO_LIST = "INVALID_REPO_LIST", "Correct the line; nothing was downloaded or deleted."
    MODEL_AUTH = "MODEL_AUTH", "Set CIVITAI_TOKEN (or HF_TOKEN for Hugging Face) on the endpoint to a valid token."
    MODEL_FORBIDDEN = (
        "MODEL_FORBIDDEN",
        "Open the model's page with the account that owns the token and request access there.",
    )
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND", "Check the link; the model may have been removed."
    MODEL_REGION_BLOCKED = "MODEL_REGION_BLOCKED", "Run the endpoint in a data centre of another country."
    MODEL_RATE_LIMITED = "MODEL_RATE_LIMITED", "Wait some minutes, or use another account's token."
    MODEL_CORRUPT = "MODEL_CORRUPT", "Send the job again; if the error stays, the published file itself is broken."
    MODEL_UNSAFE = "MODEL_UNSAFE", "Use a .safetensors file, or set ALLOW_PICKLE=1 if you trust the source."
    DOWNLOAD_FAILED = "DOWNLOAD_FAILED", "Send the job again; the site or the network may be down."
    DISK_FULL = "DISK_FULL", "Give the endpoint a larger container disk, or list fewer models."
    PROMPT_INVALID = (
        "PROMPT_INVALID",
        "Open the workflow in ComfyUI, correct the node, and export it again (API format).",
    )
    NODE_MISSING = "NODE_MISSING", "Install the custom node pack that has it in the worker's image."
    MODEL_MISSING = "MODEL_MISSING", "Add a line for it to repo_list, or choose one of the names this worker has."
    INPUT_MISSING = "INPUT_MISSING", "Send the file in `files`, or fill in the input, and submit again."
    NODE_FAILED = "NODE_FAILED", "Read the node's message; the same prompt will fail in the same way."
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "Use a smaller image, batch or model, or a GPU with more memory."
    INTERRUPTED = "INTERRUPTED", "Something outside this job interrupted it; send it again."
    TIMEOUT = "TIMEOUT", "Raise timeout_s (or JOB_TIMEOUT_S and the endpoint's execution timeout), or ask for less."
    COMFYUI_DIED = "COMFYUI_DIED", "Read the last log lines in `details`; often ComfyUI ran out of memory."
    COMFYUI_START_FAILED = (
        "COMFYUI_START_FAILED",
        "Read the last log lines in `details`, then correct the image or COMFYUI_PATH.",
    )
    NO_OUTPUT = "NO_OUTPUT", "Add a SaveImage node (or another that saves) to the prompt."
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE", "Ask for fewer or smaller images, or save them in a smaller format."
    UPLOAD_FAILED = "UPLOAD_FAILED", "Check the bucket's address and credentials."
    INTERNAL = "INTERNAL", "This is a fault of the worker; please report it with the details."


class WorkerError(Exception):
    """An error that ends the job and is reported to the caller.

    Args:
        code: the kind of error.
        message: what happened, as a sentence without its full stop. Never contains a token.
        hint: what to do; the code's hint if None.
        details: facts for programs (node id, class, input, candidates, last log lines).
        refresh_worker: RunPod should replace this worker before the next job.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        hint: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        refresh_worker: bool = False,
    ) -> None:
        self.code = code
        self.message = message.strip().rstrip(".")
        self.hint = hint or code.hint
        self.details = details or {}
        self.refresh_worker = refresh_worker
        super().__init__(f"{code.value}: {self.message}. {self.hint}")

    def answer(self) -> dict[str, Any]:
        """Return the job's answer, which the RunPod SDK turns into FAILED (a non-empty string under ``error``)."""
        answer: dict[str, Any] = {"error": str(self), "error_code": self.code.value}
        if self.details:
            answer["details"] = self.details
        if self.refresh_worker:
            answer["refresh_worker"] = True
        return answer

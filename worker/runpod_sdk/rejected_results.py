"""Reports an error to the caller when RunPod rejects a job's answer.

RunPod's SDK (1.12, rp_http.py) retries an answer after a 5xx, but only logs one that is rejected with 400, as too large
ones are: the caller waits until the job's time limit without a reason (runpod-python#309). Here an error of a few bytes
is posted in its place.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
from types import ModuleType
from typing import Any

from aiohttp import ClientResponseError

from worker.errors import Code, WorkerError
from worker.text import amount

REJECTED = (400, 413)  # other 4xx mean a bad key or an unknown job; an error post would be rejected too
LARGE_BYTES = 1 << 20  # RunPod's limits are 10 and 20 MB; a small answer is rejected for another reason

log = logging.getLogger(__name__)


def report_rejected_results(sender: ModuleType | None = None) -> None:
    """Make the SDK post an error in place of an answer that RunPod rejects.

    Args:
        sender: the SDK's module that sends results; rp_http.py if None.
    """
    sender = sender or importlib.import_module("runpod.serverless.modules.rp_http")
    transmit = getattr(sender, "_transmit", None)
    if transmit is None:
        log.warning("unexpected RunPod SDK: a result that RunPod rejects is only logged, not reported to the caller")
        return

    @functools.wraps(transmit)
    async def transmit_or_report(client_session: Any, url: str, job_data: Any) -> None:
        try:
            await transmit(client_session, url, job_data)
        except ClientResponseError as rejection:
            if rejection.status in REJECTED:
                error = rejection_error(rejection.status, _size(job_data))
                log.error("%s", error)
                answer = error.answer()
                await transmit(client_session, url, json.dumps({"error": answer.pop("error"), "output": answer}))
            raise  # the SDK logs it

    sender._transmit = transmit_or_report  # type: ignore[attr-defined]


def _size(body: Any) -> int:
    """Return the size in bytes of a request's body: a string, or an aiohttp payload."""
    return len(body.encode()) if isinstance(body, str) else int(body.size)


def rejection_error(status: int, size: int) -> WorkerError:
    """Return the error for an answer of ``size`` bytes that RunPod rejected with ``status``. Pure."""
    code = Code.RESULT_TOO_LARGE if size >= LARGE_BYTES or status == 413 else Code.INTERNAL
    message = f"RunPod rejected the answer of {amount(size)} ({status})"
    hint = "Lower RESULT_LIMIT_MB to this endpoint's limit, or set up a bucket (BUCKET_ENDPOINT_URL)."
    too_large = code is Code.RESULT_TOO_LARGE
    return WorkerError(code, message, hint if too_large else None, details={"status": status, "bytes": size})

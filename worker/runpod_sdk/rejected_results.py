"""Tells the caller when RunPod does not take an answer.

RunPod's SDK (1.12, rp_http.py) posts an answer once more when RunPod answers 5xx; one that is refused with 400, as too
large ones are, it only writes to the log: the caller waits for the job's time limit and never learns why
(runpod-python#309). Here an error of a few bytes goes in the answer's place.
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

NOT_TAKEN = (400, 413)  # others speak of the key, the job or the worker, which an error would not change
LARGE_BYTES = 1 << 20  # RunPod's limits are 10 and 20 MB; a small answer is refused for another reason

log = logging.getLogger(__name__)


def report_rejected_results(sender: ModuleType | None = None) -> None:
    """Have the SDK post an error in place of an answer that RunPod refuses.

    Args:
        sender: the SDK's module that sends results; rp_http.py when left out.
    """
    sender = sender or importlib.import_module("runpod.serverless.modules.rp_http")
    transmit = getattr(sender, "_transmit", None)
    if transmit is None:
        log.warning("this RunPod SDK sends results in a way of its own: of a refused one only its log tells")
        return

    @functools.wraps(transmit)
    async def transmit_or_tell(client_session: Any, url: str, job_data: Any) -> None:
        try:
            await transmit(client_session, url, job_data)
        except ClientResponseError as refusal:
            if refusal.status in NOT_TAKEN:
                error = refused(refusal.status, _size(job_data))
                log.error("%s", error)
                answer = error.answer()
                await transmit(client_session, url, json.dumps({"error": answer.pop("error"), "output": answer}))
            raise  # the SDK writes it to its log

    sender._transmit = transmit_or_tell  # type: ignore[attr-defined]


def _size(body: Any) -> int:
    """Of a request's body: text, or one that writes itself and says how long it is."""
    return len(body.encode()) if isinstance(body, str) else int(body.size)


def refused(status: int, size: int) -> WorkerError:
    """What the caller is told of an answer of so many bytes that RunPod did not take. Pure."""
    code = Code.RESULT_TOO_LARGE if size >= LARGE_BYTES or status == 413 else Code.INTERNAL
    what = f"RunPod did not take the answer of {amount(size)} ({status})"
    hint = "Lower RESULT_LIMIT_MB to what this endpoint takes, or give it a bucket (BUCKET_ENDPOINT_URL)."
    too_large = code is Code.RESULT_TOO_LARGE
    return WorkerError(code, what, hint if too_large else None, details={"status": status, "bytes": size})

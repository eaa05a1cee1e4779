"""Meaning of an S3 server's error answers: a retry, or an error with what to correct. Pure."""

from __future__ import annotations

import html
import re
from http import HTTPStatus

from worker.errors import Code, WorkerError
from worker.net.redact import plain
from worker.net.retry import RetryReason

FILES_KEPT = "The files stay on this worker: it answers a repeated job from them without rendering again."
_KEYS = "Check BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY (or the job's s3Config)."
_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure")
_TRANSIENT = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling")


class BucketError(Exception):
    """An S3 request that failed.

    Args:
        message: what happened.
        hint: what to do about it.
        retry_reason: how the request may be retried.
    """

    def __init__(self, message: str, hint: str, retry_reason: RetryReason = RetryReason.NEVER) -> None:
        super().__init__(message)
        self.message, self.hint, self.retry_reason = message, hint, retry_reason

    def worker_error(self, bucket: str) -> WorkerError:
        """Return the job's error for the caller."""
        return WorkerError(Code.UPLOAD_FAILED, self.message, f"{self.hint} {FILES_KEPT}", details={"bucket": bucket})


def tag(body: bytes, name: str) -> str | None:
    """Return the text of an XML element. The answers are flat, and an XML parser would be an attack surface."""
    match = re.search(rf"<{name}>\s*([^<]*?)\s*</{name}>", body[:65536].decode("utf-8", "replace"))
    return html.unescape(match[1]) if match else None


def bucket_error(status: int, body: bytes, bucket: str) -> BucketError:
    """Return the error that an answer of S3 stands for."""
    code = tag(body, "Code") or ""
    shown = re.sub(r"[^\w.-]", "", code)[:60] or (HTTPStatus(status).phrase if status in list(HTTPStatus) else "?")
    message = f"the bucket answered {status} ({shown})"
    if status >= 500 or status in (408, 429) or code in _TRANSIENT:
        return BucketError(message, "The storage was overloaded or down; send the job again.", RetryReason.SERVER)
    region = tag(body, "Region") if status in (301, 307, 400) else None
    return BucketError(*_message_and_hint(status, code, shown, bucket, region))


def _message_and_hint(status: int, code: str, shown: str, bucket: str, region: str | None) -> tuple[str, str]:
    """Return what happened and what to do, for an error that a retry would not change."""
    message = f"the bucket answered {status} ({shown})"
    if code in _CREDENTIALS or status == 401:
        message, hint = f"the bucket's credentials were refused ({status} {shown})", _KEYS
    elif code == "RequestTimeTooSkewed":
        hint = "Correct this machine's clock."
    elif status == 403:
        message, hint = f"writing to the bucket {bucket!r} was refused (403 {shown})", _KEYS
    elif code == "NoSuchBucket" or (status == 404 and not code):
        message = f"there is no bucket {bucket!r} ({status} {shown})"
        hint = "Check BUCKET_NAME and BUCKET_ENDPOINT_URL."
    elif region:
        message, hint = f"{message}: the bucket is in region {plain(region, 40)}", "Set BUCKET_REGION to it."
    else:
        hint = "Check BUCKET_ENDPOINT_URL, BUCKET_NAME and BUCKET_REGION."
    return message, hint

"""What an S3 server's answer means for a job: try again, or the error that says what to correct. Pure."""

from __future__ import annotations

import html
import re
from http import HTTPStatus

from worker.errors import Code, WorkerError
from worker.net.redact import plain
from worker.net.retry import RetryReason

KEPT = "The files stay on this worker; a repeated job is answered from there without rendering anew."
_KEYS = "Check BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY (or the job's s3Config)."
_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure")
_PASSING = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling")


class BucketError(Exception):
    """An answer that is not the one asked for.

    Args:
        message: what happened.
        hint: what to do about it.
        again: whether the same request may work later.
    """

    def __init__(self, message: str, hint: str, again: RetryReason = RetryReason.NEVER) -> None:
        super().__init__(message)
        self.message, self.hint, self.again = message, hint, again

    def error(self, bucket: str) -> WorkerError:
        """The same for the caller."""
        return WorkerError(Code.UPLOAD_FAILED, self.message, f"{self.hint} {KEPT}", details={"bucket": bucket})


def tag(body: bytes, name: str) -> str | None:
    """The text of an XML element; the answers are flat, and an XML parser would be an attack surface."""
    match = re.search(rf"<{name}>\s*([^<]*?)\s*</{name}>", body[:65536].decode("utf-8", "replace"))
    return html.unescape(match[1]) if match else None


def refused(status: int, body: bytes, bucket: str) -> BucketError:
    """What a refusing answer says."""
    code = tag(body, "Code") or ""
    shown = re.sub(r"[^\w.-]", "", code)[:60] or (HTTPStatus(status).phrase if status in list(HTTPStatus) else "?")
    said = f"the bucket answered {status} ({shown})"
    if status >= 500 or status in (408, 429) or code in _PASSING:
        return BucketError(said, "The storage was overloaded or down; send the job again.", RetryReason.SERVER)
    region = tag(body, "Region") if status in (301, 307, 400) else None
    return BucketError(*_meaning(status, code, shown, bucket, region))


def _meaning(status: int, code: str, shown: str, bucket: str, region: str | None) -> tuple[str, str]:
    """What happened and what to do, for an answer that would be the same again."""
    said = f"the bucket answered {status} ({shown})"
    if code in _CREDENTIALS or status == 401:
        said, hint = f"the bucket's credentials were refused ({status} {shown})", _KEYS
    elif code == "RequestTimeTooSkewed":
        hint = "This machine's clock is wrong."
    elif status == 403:
        said, hint = f"writing to the bucket {bucket!r} was refused (403 {shown})", _KEYS
    elif code == "NoSuchBucket" or (status == 404 and not code):
        said, hint = f"there is no bucket {bucket!r} ({status} {shown})", "Check BUCKET_NAME and BUCKET_ENDPOINT_URL."
    elif region:
        said, hint = f"{said}: the bucket is in region {plain(region, 40)}", "Set BUCKET_REGION to it."
    else:
        hint = "Check BUCKET_ENDPOINT_URL, BUCKET_NAME and BUCKET_REGION."
    return said, hint
